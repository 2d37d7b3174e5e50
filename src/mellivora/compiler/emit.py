"""Pass `emit`: low-level IR to instruction words.

Constants over 2047 go through a small cache of scalar registers (least recently used goes first); a
configuration is written when it differs from the engine's last. More than two waits or posts on one
operation spill into SYNC operations before or after it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mellivora.compiler.ir import EngineOp, Item, Loop, Operand, Reg, ScalarOp
from mellivora.compiler.sync import SYNC_NAME
from mellivora.errors import CompileError
from mellivora.isa.assembler import encode
from mellivora.isa.encoding import IMMEDIATE_MAX, REGISTER_FLAG, REGISTERS, SLOTS, Word, wide_slots
from mellivora.isa.table import BY_NAME, TABLE

CACHE_FIRST = 40
"""Registers from here on hold cached constants; kernels allocate below."""

_CONFIG_NAME = {row.configures: row.name for row in TABLE if row.configures >= 0}
Symbol = tuple[int, int, str, str]


def emit(
    items: list[Item], labels: list[tuple[str, str]]
) -> tuple[npt.NDArray[np.uint64], list[Symbol]]:
    """Code [n, 2] and symbols (pc_start, pc_end, label, kind)."""
    emitter = _Emitter()
    emitter.block(items)
    emitter.put(Word(BY_NAME["halt"].opcode, 0, 0, 0, 0, (0,) * SLOTS), -1)
    return encode(emitter.words), _symbols(emitter.labels, labels)


def _symbols(of_word: list[int], labels: list[tuple[str, str]]) -> list[Symbol]:
    """Runs of words with one label; words of CONTROL belong to the operation that follows them."""
    symbols: list[Symbol] = []
    start, current = 0, -1
    for pc, label in enumerate(of_word):
        if label >= 0 and label != current:
            if current >= 0:
                symbols.append((start, pc, *labels[current]))
                start = pc
            current = label
    if current >= 0:
        symbols.append((start, len(of_word), *labels[current]))
    return symbols


class _Emitter:
    def __init__(self) -> None:
        self.words: list[Word] = []
        self.labels: list[int] = []
        self.cache: dict[int, int] = {}
        self.free: list[int] = []
        self.versions = [0] * REGISTERS
        self.configs: dict[int, tuple[tuple[Operand, int], ...]] = {}
        self.forget()

    def forget(self) -> None:
        """At loop boundaries nothing is known of cached constants or configurations."""
        self.cache.clear()
        self.free = list(range(CACHE_FIRST, REGISTERS))
        self.configs.clear()

    def put(self, word: Word, label: int) -> None:
        self.words.append(word)
        self.labels.append(label)

    def block(self, items: list[Item]) -> None:
        for item in items:
            if isinstance(item, Loop):
                self.loop(item)
            elif isinstance(item, ScalarOp):
                self.scalar(item)
            else:
                self.engine(item)

    def constant(self, value: int, label: int, pinned: set[int]) -> int:
        """A register that holds value."""
        value &= 0xFFFF_FFFF
        if value in self.cache:
            register = self.cache.pop(value)
        else:
            if self.free:
                register = self.free.pop()
            else:
                oldest = next(v for v, r in self.cache.items() if r not in pinned)
                register = self.cache.pop(oldest)
            self.put(Word(BY_NAME["li"].opcode, 0, 0, 0, 0, wide_slots(register, value)), label)
        self.cache[value] = register
        pinned.add(register)
        return register

    def slot(self, operand: Operand, label: int, pinned: set[int]) -> int:
        if isinstance(operand, Reg):
            return operand.number | REGISTER_FLAG
        if 0 <= operand <= IMMEDIATE_MAX:
            return operand
        return self.constant(operand, label, pinned) | REGISTER_FLAG

    def instruction(
        self, name: str, operands: list[Operand], label: int, tokens: list[int]
    ) -> None:
        pinned: set[int] = set()
        slots = [self.slot(operand, label, pinned) for operand in operands]
        wait0, wait1, post0, post1 = tokens
        word = Word(
            BY_NAME[name].opcode,
            wait0,
            wait1,
            post0,
            post1,
            tuple(slots) + (0,) * (SLOTS - len(slots)),
        )
        self.put(word, label)

    def scalar(self, op: ScalarOp) -> None:
        if op.name == "li":
            if not isinstance(op.a, int):
                raise TypeError("li takes an integer")
            self.put(Word(BY_NAME["li"].opcode, 0, 0, 0, 0, wide_slots(op.rd.number, op.a)), -1)
        else:
            operands = [op.rd, op.a] if op.name == "ldp" else [op.rd, op.a, op.b]
            self.instruction(op.name, operands, -1, [0, 0, 0, 0])
        self.versions[op.rd.number] += 1

    def engine(self, op: EngineOp) -> None:
        waits, posts = list(op.waits), list(op.posts)
        sync = SYNC_NAME[op.engine]
        while len(waits) > 2:
            self.instruction(sync, [], op.label, [waits.pop(0), waits.pop(0), 0, 0])
        if op.config is not None:
            self.configure(op)
        first, rest = posts[:2], posts[2:]
        tokens = waits + [0] * (2 - len(waits)) + first + [0] * (2 - len(first))
        self.instruction(op.name, op.slots, op.label, tokens)
        while rest:
            pair, rest = [*rest[:2], 0][:2], rest[2:]
            self.instruction(sync, [], op.label, [0, 0, *pair])

    def configure(self, op: EngineOp) -> None:
        """Write the configuration unless the engine already has it."""
        config = op.config or ()
        wanted = tuple(
            (value, self.versions[value.number] if isinstance(value, Reg) else 0)
            for value in config
        )
        if self.configs.get(op.engine, ())[: len(wanted)] != wanted:
            self.instruction(_CONFIG_NAME[op.engine], list(config), op.label, [0, 0, 0, 0])
            self.configs[op.engine] = wanted

    def loop(self, loop: Loop) -> None:
        pinned: set[int] = set()
        count = self.slot(loop.count, -1, pinned)
        at = len(self.words)
        self.put(Word(0, 0, 0, 0, 0, (0,) * SLOTS), -1)
        self.forget()
        self.block(loop.body)
        length = len(self.words) - at - 1
        if length == 0:
            del self.words[at], self.labels[at]
            return
        if length > IMMEDIATE_MAX:
            raise CompileError(
                "MV0402",
                "a hardware loop body is too long",
                given=f"{length} instructions",
                allowed=str(IMMEDIATE_MAX),
                hint="report this kernel",
            )
        self.words[at] = Word(
            BY_NAME["loop"].opcode, 0, 0, 0, 0, (count, length) + (0,) * (SLOTS - 2)
        )
        self.forget()
