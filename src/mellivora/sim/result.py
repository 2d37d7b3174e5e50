"""What a timing run says: cycles, where they went by engine, by cause and by label, and how near
the roof it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mellivora.isa.encoding import ENGINES, LOAD, R_OPCODE, R_PC
from mellivora.isa.table import BY_NAME
from mellivora.sim.stalls import CAUSES, engine_stalls, tokens
from mellivora.sim.timing import ChipNumbers, Role
from mellivora.sim.work import WORK, row_work

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

Rows = npt.NDArray[np.int64]
Symbol = tuple[int, int, str, str]
"""(first pc, pc after the last, label, kind), as programs carry them; ranges do not overlap."""

WORKERS = ENGINES[LOAD:]
UNNAMED = "(no label)"


@dataclass(frozen=True)
class Work:
    """Totals over the chip. A LOADM's DRAM bytes count once; bursts are what DRAM moved for the
    bytes."""

    macs: int
    scale_ops: int
    vector_ops: int
    read_bytes: int
    write_bytes: int
    sram_bytes: int
    accumulator_bytes: int
    exchange_bytes: int
    bursts: int


@dataclass(frozen=True)
class LabelTime:
    """One label: its share of the wall clock, its engines' busy cycles over all cores, its work."""

    label: str
    kind: str
    cycles: int
    busy_cycles: dict[str, int]
    macs: int
    vector_ops: int
    dram_bytes: int


@dataclass(frozen=True)
class Roofs:
    """Least cycles that each resource needs for the work, if it never waited; `fraction` of the
    highest."""

    dram_cycles: float
    matrix_cycles: float
    vector_cycles: float
    cycles: int

    @property
    def limit(self) -> str:
        """Which is highest: "dram", "matrix" or "vector"."""
        return max(("dram", "matrix", "vector"), key=lambda name: getattr(self, f"{name}_cycles"))

    @property
    def fraction(self) -> float:
        """Highest roof over measured cycles: 1 is perfect."""
        return getattr(self, f"{self.limit}_cycles") / self.cycles if self.cycles else 0.0


@dataclass(frozen=True, repr=False)
class TimingResult:
    """Times of all rows. dispatch, start, end: one int64 [n] array for each core, clock edges.

    start: the operation takes its semaphores and its engine. end: its posts can be seen. A LOAD
    or STORE leaves its engine after its issue cost; an EXCH or BARRIER waits for the other cores
    after its start.
    """

    chip: ChipSpec
    rows: list[Rows]
    operations: list[npt.NDArray[np.void]]
    dispatch: list[Rows]
    start: list[Rows]
    end: list[Rows]

    def __repr__(self) -> str:
        rows = sum(len(end) for end in self.end)
        sizes = f"cores={len(self.end)}, rows={rows}, cycles={self.cycles}"
        return f"TimingResult({self.chip.name}, {sizes})"

    @cached_property
    def core_cycles(self) -> list[int]:
        """When the last operation of each core ends."""
        return [int(end.max(initial=0)) for end in self.end]

    @property
    def cycles(self) -> int:
        """When the last operation of the chip ends."""
        return max(self.core_cycles)

    @property
    def seconds(self) -> float:
        return self.cycles / (self.chip.clock_mhz * 1e6)

    @cached_property
    def released(self) -> list[Rows]:
        """When each operation leaves its engine to the next one."""
        pairs = zip(self.operations, self.start, self.end, strict=True)
        return [
            np.where(
                np.isin(ops["role"], (Role.COMPUTE, Role.COLLECTIVE)), end, start + ops["cost"]
            )
            for ops, start, end in pairs
        ]

    @cached_property
    def data_ready(self) -> list[Rows]:
        """When the first word of each transfer is there; for a LOADM, after the last issue."""
        latency = ChipNumbers.of(self.chip).latency
        out: list[Rows] = []
        for ops, released in zip(self.operations, self.released, strict=True):
            moves = np.isin(ops["role"], (Role.TRANSFER, Role.MULTICAST)) & (ops["bursts"] > 0)
            out.append(released + np.where(moves, latency, 0))
        picks = [
            np.flatnonzero((ops["role"] == Role.MULTICAST) & (ops["bursts"] > 0))
            for ops in self.operations
        ]
        if len(picks[0]):
            last = np.max([ready[pick] for ready, pick in zip(out, picks, strict=True)], axis=0)
            for ready, pick in zip(out, picks, strict=True):
                ready[pick] = last
        return out

    @cached_property
    def busy_cycles(self) -> Rows:
        """[cores, 4] cycles in which LOAD, STORE issue and MATRIX, VECTOR work (a collective: its
        own cost)."""
        out = np.zeros((len(self.operations), len(WORKERS)), np.int64)
        for core, ops in enumerate(self.operations):
            np.add.at(out[core], ops["engine"], ops["cost"])
        return out

    @cached_property
    def stall_cycles(self) -> Rows:
        """[cores, 4, len(CAUSES)]; with `busy_cycles` they add up to `cycles` for every engine."""
        out = np.zeros((len(self.operations), len(WORKERS), len(CAUSES)), np.int64)
        for core in range(len(self.operations)):
            token = tokens(self.operations[core], self.start[core], self.end[core])
            for engine in range(len(WORKERS)):
                out[core, engine] = engine_stalls(self, core, engine, token)
        return out

    @cached_property
    def row_work(self) -> list[npt.NDArray[np.void]]:
        """Work of each row (dtype sim.work.WORK); read_bytes of a LOADM are on core 0 only."""
        out = [row_work(rows, self.chip) for rows in self.rows]
        for rows, work in zip(self.rows[1:], out[1:], strict=True):
            work["read_bytes"][rows[:, R_OPCODE] == BY_NAME["loadm"].opcode] = 0
        return out

    @cached_property
    def work(self) -> Work:
        totals = {name: sum(int(w[name].sum()) for w in self.row_work) for name in WORK.names or ()}
        bursts = 0
        for core, ops in enumerate(self.operations):
            counted = ops["bursts"] if core == 0 else ops["bursts"][ops["role"] != Role.MULTICAST]
            bursts += int(counted.sum())
        return Work(**totals, bursts=bursts)

    def roofs(self) -> Roofs:
        """Roofs of the whole run on this chip; cores that were given no rows count as there."""
        chip, work = self.chip, self.work
        dram = work.bursts * chip.dram_bursts_den / chip.dram_bursts_num if work.bursts else 0.0
        matrix = work.macs / chip.peak_macs_per_cycle
        return Roofs(dram, matrix, work.vector_ops / (chip.lanes * chip.cores), self.cycles)

    def by_symbol(self, symbols: Sequence[Symbol]) -> list[LabelTime]:
        """Time of each label, largest first, one entry a (label, kind).

        A cycle of the wall clock belongs to the oldest operation, in program order, that has not
        ended on the slowest core: so the cycles of all labels add up to `cycles`. Busy cycles and
        work are over all cores.
        """
        names, of_row = self.label_rows(symbols)
        count = len(names)
        slow = int(np.argmax(self.core_cycles))
        done = np.maximum.accumulate(self.end[slow]) if len(self.end[slow]) else self.end[slow]
        wall = _sums(of_row[slow], np.diff(done, prepend=0), count)
        busy = np.zeros((len(WORKERS), count), np.int64)
        macs, ops, moved = (np.zeros(count, np.int64) for _ in range(3))
        for labels, table, work in zip(of_row, self.operations, self.row_work, strict=True):
            for engine in range(len(WORKERS)):
                mine = table["engine"] == engine
                busy[engine] += _sums(labels[mine], table["cost"][mine], count)
            macs += _sums(labels, work["macs"], count)
            ops += _sums(labels, work["vector_ops"], count)
            moved += _sums(labels, work["read_bytes"] + work["write_bytes"], count)
        out = [
            LabelTime(
                *names[i],
                int(wall[i]),
                {name: int(busy[e, i]) for e, name in enumerate(WORKERS)},
                int(macs[i]),
                int(ops[i]),
                int(moved[i]),
            )
            for i in range(count)
            if wall[i] or busy[:, i].any()
        ]
        return sorted(out, key=lambda one: -one.cycles)

    def label_rows(self, symbols: Sequence[Symbol]) -> tuple[list[tuple[str, str]], list[Rows]]:
        """All (label, kind), and for each core the index of each row's."""
        ordered = sorted(symbols)
        names = [*dict.fromkeys((label, kind) for _, _, label, kind in ordered), (UNNAMED, "")]
        index = {name: i for i, name in enumerate(names)}
        first = np.array([low for low, *_ in ordered], np.int64)
        after = np.array([high for _, high, *_ in ordered] + [0], np.int64)
        label = np.array([index[symbol[2:]] for symbol in ordered] + [index[UNNAMED, ""]], np.int64)
        out: list[Rows] = []
        for rows in self.rows:
            at = np.searchsorted(first, rows[:, R_PC], side="right") - 1  # -1: the entry "no label"
            out.append(np.where(rows[:, R_PC] < after[at], label[at], label[-1]))
        return names, out


def _sums(labels: Rows, values: Rows, count: int) -> Rows:
    """Sum of values by label, exact (bincount's float weights are not past 2^53)."""
    out = np.zeros(count, np.int64)
    np.add.at(out, labels, values)
    return out
