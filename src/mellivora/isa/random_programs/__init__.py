"""Random programs over the whole instruction set, for comparing what executes it.

    program = random_program(7, load_chip("nano"))
    machine = Machine(chip, dram=program.dram.copy(), windows=program.windows)
    machine.load(program.code); machine.run(program.parameters)

The same seed and chip give the same program. Without `fault` it is legal: `isa.check` proves it
free of races, deadlocks and stale bytes, and no result depends on the order of bytes inside an
operation. With `fault` exactly one instruction is wrong; what is before it in program order is
legal. An operation is drawn at random and taken if its footprint is legal; semaphores come from
`order`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mellivora.isa.assembler import disassemble, encode
from mellivora.isa.control import words_of
from mellivora.isa.encoding import ACCUMULATOR_BASE, LOOP_LEVELS, SEMAPHORES, SLOTS
from mellivora.isa.modes import Kind, Op, Store, vew_fn, vew_mode
from mellivora.isa.program import Window
from mellivora.isa.random_programs.emit import Emitter
from mellivora.isa.random_programs.faults import (
    FOOTPRINT_CAUSES,
    overflow,
    wait_in_vain,
    wrong_control,
    wrong_operation,
    wrong_page,
)
from mellivora.isa.random_programs.moves import Moves
from mellivora.isa.random_programs.operation import (
    DRAM_BOX,
    WINDOW_BOX,
    Item,
    Loop,
    Memory,
    Operation,
    make,
    sync,
)
from mellivora.isa.random_programs.order import order
from mellivora.isa.random_programs.shapes import (
    BYTES,
    FLOATS,
    INPUT_BYTES,
    SCALES,
    TABLE_BYTES,
    Room,
    input_bytes,
    input_kind,
    table_bytes,
)
from mellivora.isa.random_programs.vectors import Impossible, Vectors
from mellivora.isa.table import BY_NAME, BY_OPCODE

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

CAUSES = tuple(range(1, 10))
"""Every fault that a program can have."""
_AREA_BYTES = 1024
"""Of the output window, for each core."""
_LOADS = ("load", "loadm", "loadx")
_ADDRESSES = ("dst", "src", "a", "b", "c", "pad", "dst_scale", "src_scale", "a_scale")
_WEIGHTS: dict[str, float] = {
    "vew": 11,
    "vred": 4,
    "vquant": 6,
    "vdeq": 5,
    "matmul": 9,
    "load": 4,
    "store": 4,
    "exch": 2,
    "barrier": 0.4,
    "sync": 0.8,
    "own": 0.8,
    "loadm": 1,
    "foreign": 0.6,
    "loadx": 2,
}


@dataclass(frozen=True, eq=False)
class RandomProgram:
    """A program and all that it runs on.

    code: uint64 [n, 2]. parameters: int32 [cores, p], for LDP. windows: (base, limit) in bytes, at
    bursts of DRAM. dram: its bytes before the run. window_list: the same for the checker. fault:
    the cause that was put in, or None. fault_core: the first core that has it.
    """

    seed: int
    chip: ChipSpec
    code: npt.NDArray[np.uint64]
    parameters: npt.NDArray[np.int32]
    windows: list[tuple[int, int]]
    dram: npt.NDArray[np.uint8]
    fault: int | None
    fault_core: int

    @functools.cached_property
    def text(self) -> str:
        """Assembly; `isa.assemble` gives the code again."""
        return "\n".join(disassemble(word) for word in words_of(self.code)) + "\n"

    @property
    def window_list(self) -> list[Window]:
        """Windows as `isa.check` takes them."""
        return [Window(f"w{i}", limit, True, "io") for i, (_, limit) in enumerate(self.windows)]


def random_program(seed: int, chip: ChipSpec, *, fault: int | None = None) -> RandomProgram:
    """The program of a seed: 10 to 60 engine operations, some hundred to some thousand cycles.

    fault: one of CAUSES. The chip needs 64 semaphores, 64 registers and four loop levels.
    """
    assert min(chip.semaphores, chip.scalar_registers) >= SEMAPHORES
    assert chip.loop_levels >= LOOP_LEVELS
    return _Builder(seed, chip).program(fault)


class _Builder:
    """Draws one program."""

    def __init__(self, seed: int, chip: ChipSpec) -> None:
        self.seed, self.chip = seed, chip
        self.pick = pick = random.Random(seed)
        self._place_windows()
        self.room = Room(chip, pick)
        self.memory = Memory(chip, [limit for _, limit in self.windows])
        self.vectors = Vectors(self.room, pick, chip.lanes)
        self.moves = Moves(self.room, pick, chip, (self.input, self.output), _AREA_BYTES)
        self.foreign_since_barrier = False
        self.makers: dict[str, Callable[[], Operation]] = {
            **self.vectors.ops,
            "matmul": self.moves.matmul,
            "load": self.moves.load,
            "store": self.moves.store,
            "exch": self.moves.exchange,
            "loadm": lambda: self.moves.load("loadm"),
            "own": lambda: self.moves.load(own=True),
            "foreign": lambda: self.moves.foreign(pick.choice(("load", "loadm", "loadx"))),
            "loadx": self.moves.gather,
            "barrier": lambda: make("barrier", ()),
            "sync": lambda: sync(pick.randrange(4)),
        }
        self.names, weights = tuple(_WEIGHTS), list(_WEIGHTS.values())
        if chip.cores > 1:
            weights = [w * 3 if n in ("exch", "barrier", "loadm", "foreign") else w
                       for n, w in zip(self.names, weights, strict=True)]  # fmt: skip
        self.weights = [w * pick.choice((0.3, 1, 1, 2)) for w in weights]
        """Programs differ in what they are mostly made of."""

    def _place_windows(self) -> None:
        pick, burst = self.pick, self.chip.dram_burst_bytes
        count = pick.randint(2, min(16, self.chip.windows)) if pick.random() < 0.3 else 2
        self.input, self.output = pick.sample(range(count), 2)
        self.windows: list[tuple[int, int]] = []
        at = pick.choice((0, burst * pick.randrange(20)))
        for index in range(count):
            limit = pick.choice((0, 32, 64, 100))
            limit = INPUT_BYTES + TABLE_BYTES if index == self.input else limit
            limit = _AREA_BYTES * self.chip.cores if index == self.output else limit
            self.windows.append((at, limit))
            at += -(-limit // burst) * burst + burst * pick.randrange(3)
        self.dram_bytes = at + burst

    # ------------------------------------------------------------------------ one operation

    def draw(self, name: str) -> Operation | None:
        """An operation as drawn, not yet known to be legal; None if there is no room for it."""
        try:
            return self.makers[name]()
        except Impossible:
            return None

    def add(self, name: str, items: list[Item], turns: int) -> bool:
        """Draw an operation and take it if it is legal."""
        op = self.draw(name)
        if op is None:
            return False
        plain = dict(op.per_core)
        if self.pick.random() < (0.25 if self.chip.cores > 1 else 0):
            self._vary(op, op.per_core, self.chip.cores)
        if turns > 1 and self.pick.random() < 0.7:
            self._vary(op, op.per_turn, turns)
        if not self.memory.take(op, turns):
            if op.per_core == plain and not op.per_turn:
                return False
            op.per_core = plain
            op.per_turn.clear()
            if not self.memory.take(op, turns):
                return False
        self._barriers(name, op, items)
        items.append(op)
        self._note(op)
        return True

    def _tables(self, items: list[Item], *, fresh: bool) -> bool:
        """Let LOADX find a table: fresh: only one that is loaded just before it, in every turn."""
        intact = [one for one in self.moves.tables if self.memory.pages_at(*one)]
        self.moves.tables = intact
        if intact and not fresh and self.pick.random() < 0.7:
            return True
        try:
            op = self.moves.table()
        except Impossible:
            return False
        if fresh:
            self.moves.tables = self.moves.tables[-1:]
        if not self.memory.take(op, 1, pages=True):
            self.moves.tables = []
            return False
        items.append(op)
        self._note(op)
        return True

    def _vary(self, op: Operation, steps: dict[int, int], times: int) -> None:
        """Let one or two addresses differ by core or by turn."""
        known = BY_OPCODE[op.opcode].slots
        able = [at for at, slot in enumerate(known) if slot in _ADDRESSES]
        for at in self.pick.sample(able, min(self.pick.randint(1, 2), len(able))):
            taken = at in op.per_core or at in op.per_turn
            end = ACCUMULATOR_BASE + self.chip.accumulator_bytes
            if not taken and abs(op.fields[at]) < end:  # a wilder one does not matter
                steps[at] = self.pick.choice((4, 32, -4, 64, 128, -32, 100))
                if steps[at] < 0:
                    op.fields[at] -= (times - 1) * steps[at]

    def _barriers(self, name: str, op: Operation, items: list[Item]) -> None:
        """Stores are seen by other cores after a BARRIER, and may come after their loads so."""
        everything = DRAM_BOX + self.output * WINDOW_BOX
        whole = [(everything, everything + WINDOW_BOX)]
        if name == "barrier":
            op.reads = op.writes = whole
            if self.pick.random() < 0.5:  # and after all that was computed
                op.reads = [*whole, (0, self.chip.sram_bytes)]
            self.foreign_since_barrier = False
        if name == "foreign" or (name == "store" and self.foreign_since_barrier):
            barrier = make("barrier", ())
            barrier.reads = barrier.writes = whole
            items.append(barrier)
            self.foreign_since_barrier = name == "foreign"

    def _note(self, op: Operation) -> None:
        """What was written in one piece may be a source from now on."""
        known, fields = BY_OPCODE[op.opcode], op.fields
        if known.name == "matmul":
            row, m, n, columns = fields[0], fields[4], fields[6], self.chip.columns
            if m > 0 and n > 0:
                self.moves.sums.append((row, m, n))
                at = ACCUMULATOR_BASE + 4 * row * columns
                self.room.note(at, 4 * n if n < columns else 4 * n * m, FLOATS)
            return
        if not op.writes or known.name in ("store", "barrier"):
            return
        at = known.slots.index("pad" if known.name in _LOADS else "dst")
        if at in op.per_core:
            return
        address, kind = fields[at], FLOATS
        if known.name in _LOADS:
            size, kind = fields[4], input_kind(32 * fields[1] + fields[2])
            if fields[5] > 1 and fields[SLOTS + 3] == size:
                size *= fields[5]
        elif known.name == "exch":
            size, kind = fields[2], BYTES
        else:
            self._note_vector(known.name, op)
            return
        self.room.note(address, size, kind)

    def _note_vector(self, name: str, op: Operation) -> None:
        fields, known = op.fields, BY_NAME[name]
        rows = fields[known.slots.index("rows")]
        cols = 1 if name == "vred" else fields[known.slots.index("cols")]
        width, kind = 4, FLOATS
        if name == "vquant":
            width, kind = (2 if fields[6] & 7 in (Store.F16, Store.BF16) else 1), BYTES
            if fields[6] & 7 <= Store.MX3 and 1 not in op.per_core:
                scales = 1 if fields[6] & 8 else cols // 32
                dense = fields[SLOTS + 3] == scales
                self.room.note(fields[1], scales * (rows if dense else 1), SCALES)
        dense = fields[SLOTS] == width * cols
        self.room.note(fields[0], width * cols * (rows if dense else 1), kind)

    # ---------------------------------------------------------------------- the whole

    def _begin(self, items: list[Item]) -> None:
        """Bytes to work on: some of each kind by LOAD, more by VECTOR from them."""
        pick, first = self.pick, self.room.first
        at = first
        for kind, size in ((0, 384), (1, 128), (2, 192), (3, 64)):
            offset = kind * INPUT_BYTES // 4 + 32 * pick.randrange(0, 16)
            op = make("load", [self.input, offset // 32, 0, at, size, 1, 1, 1])
            assert self.memory.take(op, 1)
            items.append(op)
            self._note(op)
            at += size
        self.room.note(first, at - first, BYTES)
        lanes, rows = self.chip.lanes, pick.randint(2, 4)
        cols = min(96, 12 * lanes)
        op = make("vew", (at, first, first, 0, rows, cols, vew_fn(Op.ADD), vew_mode(b=Kind.ROW)),
                  (4 * cols, 0, 4))  # fmt: skip
        assert self.memory.take(op, 1)
        items.append(op)
        self._note(op)
        self.room.note(first, at + 4 * cols * rows - first, BYTES)

    def _fill(self, items: list[Item], count: int, depth: int, turns: int) -> None:
        """`count` operations more, loops among them."""
        pick, tries = self.pick, 0
        while count > 0 and tries < 400:
            tries += 1
            chance = pick.random()
            if depth < LOOP_LEVELS and chance < 0.04 + 0.1 * (depth > 0):
                count -= self._loop(items, min(count, pick.randint(0, 4)), depth)
                continue
            name = pick.choices(self.names, self.weights)[0]
            if depth and name in ("foreign", "barrier"):
                continue
            if name == "loadx" and not self._tables(items, fresh=depth > 0):
                continue
            count -= self.add(name, items, turns)

    def _loop(self, items: list[Item], count: int, depth: int) -> int:
        pick = self.pick
        if pick.random() < 0.2:  # a body that never runs: anything may stand in it
            body = [op for _ in range(count) if (op := self.draw("vew" if depth else "load"))]
            items.append(Loop(pick.choice((0, 0, -1, -(1 << 31))), list(body)))
            return 0
        loop = Loop(pick.choice((1, 2, 2, 3)) if depth < 2 else pick.choice((1, 1, 2)))
        items.append(loop)
        before = self.foreign_since_barrier
        self._fill(loop.body, count, depth + 1, loop.count or 0)
        self.foreign_since_barrier = before or self.foreign_since_barrier
        return count * (loop.count or 0)

    def program(self, fault: int | None) -> RandomProgram:
        pick, items, fault_core = self.pick, list[Item](), 0
        self._begin(items)
        self._fill(items, pick.randint(8, 50), 0, 1)
        if fault == 2 and pick.random() < 0.3:
            at = pick.randint(0, len(items))
            items[at:at] = wrong_page(pick, self.moves, self.memory)
        elif fault in FOOTPRINT_CAUSES:
            wrong: Item = wrong_operation(fault, pick, self.draw, self.chip, self.memory.limits)
            alone = BY_OPCODE[wrong.opcode].name != "exch"  # which every core must come to
            if alone and self.chip.cores > 1 and pick.random() < 0.3:
                wrong, fault_core = Loop(None, [wrong]), 1
            items.insert(pick.randint(0, len(items)), wrong)
        ordered = order(items, pick)
        halts = True
        if fault in (1, 8, 9):
            raw = wrong_control(fault, pick)
            if fault == 1 and pick.random() < 0.2:
                halts = False  # the program has no end
            else:
                ordered.insert(pick.randint(0, len(ordered)), raw)
        elif fault == 6:
            ordered.insert(pick.randint(0, len(ordered)), overflow(pick))
        elif fault == 7:
            wait_in_vain(pick, ordered)
        emitter = Emitter(pick, self.chip.cores)
        emitter.items(ordered)
        if halts:
            emitter.control("halt")
        return RandomProgram(
            self.seed,
            self.chip,
            encode(emitter.words),
            np.array(emitter.parameters, np.int32).reshape(self.chip.cores, -1),
            self.windows,
            self._dram(),
            fault,
            fault_core,
        )

    def _dram(self) -> npt.NDArray[np.uint8]:
        dram = np.full(self.dram_bytes, self.seed & 0xFF, np.uint8)
        base = self.windows[self.input][0]
        dram[base : base + INPUT_BYTES] = input_bytes(self.seed)
        dram[base + INPUT_BYTES :][:TABLE_BYTES] = table_bytes(self.seed)
        return dram
