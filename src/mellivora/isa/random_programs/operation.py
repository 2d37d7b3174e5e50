"""One operation of a random program, before it is words: fields, what varies, what it touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mellivora.isa.encoding import (
    ACCUMULATOR_BASE,
    LOAD,
    R_CONFIG,
    R_OPCODE,
    R_SLOT,
    RESOLVED_FIELDS,
    SLOTS,
)
from mellivora.isa.footprint import Footprint, footprint
from mellivora.isa.overlaps import order_matters
from mellivora.isa.state import Fault
from mellivora.isa.table import BY_NAME, BY_OPCODE, SYNC_OPCODE

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

Box = tuple[int, int]
"""[first, past the last) of bytes that may be touched; DRAM windows lie above all of a core."""
DRAM_BOX, WINDOW_BOX = 1 << 40, 1 << 36
_LOADX = BY_NAME["loadx"].opcode


@dataclass(slots=True)
class Operation:
    """Fields 0..7 are the slots, 8..15 the configuration.

    per_core, per_turn: what a field gains with each core, and with each turn of the loop around it.
    boxes: bytes read and written, on any core in any turn.
    """

    opcode: int
    fields: list[int]
    per_core: dict[int, int] = field(default_factory=dict[int, int])
    per_turn: dict[int, int] = field(default_factory=dict[int, int])
    waits: list[int] = field(default_factory=list[int])
    posts: list[int] = field(default_factory=list[int])
    reads: list[Box] = field(default_factory=list[Box])
    writes: list[Box] = field(default_factory=list[Box])

    @property
    def engine(self) -> int:
        """0..3 from LOAD on."""
        return BY_OPCODE[self.opcode].engine - LOAD

    def row(self, core: int, turn: int) -> list[int]:
        """The resolved row, without its links."""
        fields = list(self.fields)
        for at, step in self.per_core.items():
            fields[at] += core * step
        for at, step in self.per_turn.items():
            fields[at] += turn * step
        out = [0] * RESOLVED_FIELDS
        out[R_OPCODE] = self.opcode
        out[R_SLOT : R_CONFIG + SLOTS] = fields
        return out


@dataclass(slots=True)
class Raw:
    """Words of CONTROL as they are: raw slots after a name; "" and one number: a whole word."""

    words: list[tuple[str, tuple[int, ...]]]


@dataclass(slots=True)
class Loop:
    """A body run `count` times; a count of zero or less skips it; None: as often as r1 says."""

    count: int | None
    body: list[Operation | Loop | Raw] = field(default_factory=list["Operation | Loop | Raw"])


Item = Operation | Loop | Raw


def make(name: str, slots: Sequence[int], config: Sequence[int] = ()) -> Operation:
    """An operation by name, short lists filled with zeros."""
    fields = [*slots, *[0] * (SLOTS - len(slots)), *config, *[0] * (SLOTS - len(config))]
    return Operation(BY_NAME[name].opcode, fields)


def sync(engine: int) -> Operation:
    """A SYNC of an engine counted from LOAD."""
    return Operation(SYNC_OPCODE[engine + LOAD], [0] * (2 * SLOTS))


_WRITTEN, _PAGES = 1, 2


class Memory:
    """What has been written on each core, and the law: an operation is taken or it is not.

    A byte is 0, written, or one of page numbers, which alone may be LOADX's table.
    """

    def __init__(self, chip: ChipSpec, limits: Sequence[int]) -> None:
        self.chip, self.limits = chip, list(limits)
        self.pads = [bytearray(chip.sram_bytes) for _ in range(chip.cores)]
        self.accumulators = [bytearray(chip.accumulator_bytes) for _ in range(chip.cores)]

    def take(self, op: Operation, turns: int, *, pages: bool = False) -> bool:
        """Note the operation's bytes if it is legal, reads only what is written, and streams.

        pages: what it writes are page numbers.
        """
        found: list[tuple[int, Footprint]] = []
        varies_by_turn = turns if op.per_turn else 1
        cores = range(self.chip.cores)
        for core in cores if op.per_core or self.chip.cores > 1 else (0,):
            for turn in range(varies_by_turn):
                row = op.row(core, turn)
                try:
                    one = footprint(row, self.chip, limits=self.limits)
                except Fault:
                    return False
                if order_matters(row, one, core_id=core, cores=self.chip.cores):
                    return False
                if not self._written(core, one, table=op.opcode == _LOADX):
                    return False
                found.append((core, one))
        for core, one in found:
            for address, rows, size, stride in one.writes:
                memory = self.pads[core]
                if address >= ACCUMULATOR_BASE:
                    address, memory = address - ACCUMULATOR_BASE, self.accumulators[core]
                for at in range(address, address + rows * stride, stride):
                    memory[at : at + size] = bytes([_PAGES if pages else _WRITTEN]) * size
        _boxes(op, [one for _, one in found])
        return True

    def pages_at(self, address: int, entries: int) -> bool:
        """Page numbers are there, on every core."""
        size = 4 * entries
        return all(pad.count(_PAGES, address, address + size) == size for pad in self.pads)

    def _written(self, core: int, one: Footprint, *, table: bool) -> bool:
        if table:
            return all(self.pages_at(at, size // 4) for at, _, size, _ in one.reads)
        for address, rows, size, stride in one.reads:
            memory = self.pads[core]
            if address >= ACCUMULATOR_BASE:
                address, memory = address - ACCUMULATOR_BASE, self.accumulators[core]
            for at in range(address, address + rows * stride, stride):
                if memory.find(0, at, at + size) >= 0:
                    return False
        return True


def _boxes(op: Operation, found: Sequence[Footprint]) -> None:
    reads, writes = set[Box](), set[Box]()
    for one in found:
        for boxes, near, far in (
            (reads, one.reads, one.dram_reads),
            (writes, one.writes, one.dram_writes),
        ):
            boxes.update((at, at + (rows - 1) * stride + size) for at, rows, size, stride in near)
            for window, start, n0, n1, d1, n2, d2, n3, d3 in far:
                first = DRAM_BOX + window * WINDOW_BOX + start
                boxes.add((first, first + n0 + (n1 - 1) * d1 + (n2 - 1) * d2 + (n3 - 1) * d3))
    op.reads, op.writes = sorted(reads), sorted(writes)
