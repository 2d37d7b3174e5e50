"""What the chip needs for prefill and decode: cycles, bytes, energy, roofs, and where the time
goes.

All figures are of the timing simulator, on the launches that the engine would make. A launch's time
depends on token positions only through the number of KV tile pairs it reads, so of decode steps one
for each number is simulated and counted as often as it occurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from mellivora.compiler.layout import TILE_TOKENS
from mellivora.runtime.cache import Executable
from mellivora.runtime.engine import Engine
from mellivora.sim.energy import energy
from mellivora.sim.result import LabelTime, Roofs, TimingResult
from mellivora.sim.stalls import CAUSES
from mellivora.sim.trace import data_begin
from mellivora.spec import ChipSpec

PAIR_TOKENS = 2 * TILE_TOKENS
WORKERS = ("LOAD", "STORE", "MATRIX", "VECTOR")
TIMELINE_SLICES = 20_000
RANGE = ("typical", "low", "high")


@dataclass
class OpTime:
    """What one label of the program (an operation of a layer) took, over all launches and cores."""

    label: str
    kind: str
    cycles: int = 0
    macs: int = 0
    vector_ops: int = 0
    dram_bytes: int = 0

    def add(self, other: OpTime | LabelTime, times: int = 1) -> None:
        """Count other `times` times."""
        for name in ("cycles", "macs", "vector_ops", "dram_bytes"):
            setattr(self, name, getattr(self, name) + times * getattr(other, name))


@dataclass
class Phase:
    """Launches added up. Cycles of roofs are least cycles; energy in joules, by RANGE and by part.

    busy_cycles: engine -> mean over cores. stall_cycles: engine -> cause -> mean over cores.
    """

    name: str
    chip: ChipSpec
    tokens: int
    launches: int = 0
    cycles: int = 0
    macs: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    dram_cycles: float = 0.0
    matrix_cycles: float = 0.0
    vector_cycles: float = 0.0
    energy_j: dict[str, float] = field(default_factory=dict)
    energy_parts_j: dict[str, float] = field(default_factory=dict)
    busy_cycles: dict[str, float] = field(default_factory=dict)
    stall_cycles: dict[str, dict[str, float]] = field(default_factory=dict)
    ops: dict[tuple[str, str], OpTime] = field(default_factory=dict)
    sample: TimingResult | None = None
    """The last result added, for timelines."""

    @property
    def seconds(self) -> float:
        return self.cycles / (self.chip.clock_mhz * 1e6)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.cycles else 0.0

    @property
    def roofs(self) -> Roofs:
        return Roofs(self.dram_cycles, self.matrix_cycles, self.vector_cycles, self.cycles)

    def add(self, result: TimingResult, symbols: Sequence[Any], times: int = 1) -> None:
        """Count a launch `times` times."""
        roofs, work = result.roofs(), result.work
        self.launches += times
        self.cycles += times * result.cycles
        self.macs += times * work.macs
        self.read_bytes += times * work.read_bytes
        self.write_bytes += times * work.write_bytes
        for name in ("dram_cycles", "matrix_cycles", "vector_cycles"):
            setattr(self, name, getattr(self, name) + times * getattr(roofs, name))
        spent = energy(result)
        for name, pj in zip(RANGE, (spent.pj, spent.low_pj, spent.high_pj), strict=True):
            self.energy_j[name] = self.energy_j.get(name, 0.0) + times * pj * 1e-12
        for part, (pj, _, _) in spent.by_part.items():
            self.energy_parts_j[part] = self.energy_parts_j.get(part, 0.0) + times * pj * 1e-12
        busy, stalls = result.busy_cycles.mean(axis=0), result.stall_cycles.mean(axis=0)
        for e, engine in enumerate(WORKERS):
            self.busy_cycles[engine] = self.busy_cycles.get(engine, 0.0) + times * float(busy[e])
            causes = self.stall_cycles.setdefault(engine, {})
            for c, cause in enumerate(CAUSES):
                causes[cause] = causes.get(cause, 0.0) + times * float(stalls[e, c])
        for one in result.by_symbol(symbols):
            key = one.label, one.kind
            self.ops.setdefault(key, OpTime(*key)).add(one, times)
        self.sample = result

    def by_kind(self) -> list[OpTime]:
        """Operations of one kind together, largest first."""
        kinds: dict[str, OpTime] = {}
        for op in self.ops.values():
            kinds.setdefault(op.kind, OpTime(op.kind, op.kind)).add(op)
        return sorted(kinds.values(), key=lambda op: -op.cycles)

    def facts(self) -> dict[str, Any]:
        """All figures as JSON values; `ops` in rows [label, kind, cycles, macs, bytes]."""
        roofs = self.roofs
        per = max(self.tokens, 1)
        return {
            "name": self.name,
            "tokens": self.tokens,
            "launches": self.launches,
            "cycles": self.cycles,
            "seconds": self.seconds,
            "tokens_per_s": self.tokens_per_s,
            "macs": self.macs,
            "read_bytes": self.read_bytes,
            "write_bytes": self.write_bytes,
            "roof": {
                "limit": roofs.limit,
                "fraction": roofs.fraction,
                "dram_cycles": self.dram_cycles,
                "matrix_cycles": self.matrix_cycles,
                "vector_cycles": self.vector_cycles,
            },
            "energy_j_per_token": {name: joules / per for name, joules in self.energy_j.items()},
            "energy_parts_j": self.energy_parts_j,
            "busy_cycles": self.busy_cycles,
            "stall_cycles": self.stall_cycles,
            "by_kind": [asdict(op) for op in self.by_kind()],
            "ops": [
                [op.label, op.kind, op.cycles, op.macs, op.dram_bytes]
                for op in sorted(self.ops.values(), key=lambda op: -op.cycles)
            ],
        }


def measure_prefill(engine: Engine, tokens: int, *, start: int = 0, slot: int = 0) -> Phase:
    """Prefill of `tokens` rows from position `start`, chunk by chunk, logits of the last row."""
    phase = Phase("prefill", engine.device.chip, tokens)
    symbols = engine.device.program.entries["prefill"].symbols
    chunk = engine.executable.chunk
    for first in range(0, tokens, chunk):
        rows = min(chunk, tokens - first)
        settings = engine.prefill_settings(
            slot,
            [0] * rows,
            start + first,
            head_first=rows - 1,
            head_rows=int(first + rows == tokens),
        )
        phase.add(engine.device.timing("prefill", settings), symbols)
    return phase


def measure_decode(engine: Engine, context: int, steps: int, *, batch: int = 1) -> Phase:
    """`steps` decode steps of `batch` sequences, the first with `context` tokens in the cache
    before it.
    """
    phase = Phase("decode", engine.device.chip, steps * batch)
    symbols = engine.device.program.entries["decode"].symbols
    # Position p reads the tiles that hold tokens 0..p.
    pairs, first, counts = np.unique(
        (np.arange(context, context + steps) + PAIR_TOKENS) // PAIR_TOKENS,
        return_index=True,
        return_counts=True,
    )
    for _, at, count in zip(pairs.tolist(), first.tolist(), counts.tolist(), strict=True):
        settings = engine.decode_settings([(slot, 0, context + at) for slot in range(batch)])
        phase.add(engine.device.timing("decode", settings), symbols, count)
    return phase


def timeline(result: TimingResult, symbols: Sequence[Any], *, core: int = 0) -> dict[str, Any]:
    """Slices of one core: rows [engine, start, end, label number] in cycles, at most
    TIMELINE_SLICES. A transfer is there while its data moves, so slices of an engine never overlap.

    `left_out` says how many later ones are not there.
    """
    names, of_row = result.label_rows(symbols)
    engines = result.operations[core]["engine"]
    begin, end = data_begin(result, core), result.end[core]
    rows = np.stack([engines.astype(np.int64), begin, end, of_row[core]], axis=1)
    rows = rows[end > begin]
    rows = rows[np.argsort(rows[:, 1], kind="stable")]
    return {
        "core": core,
        "engines": list(WORKERS),
        "labels": [list(name) for name in names],
        "slices": rows[:TIMELINE_SLICES].tolist(),
        "left_out": max(len(rows) - TIMELINE_SLICES, 0),
    }


def memory_map(executable: Executable) -> dict[str, Any]:
    """Where things lie: DRAM windows [name, role, base, bytes]; scratchpad of each entry [name,
    address, bytes].
    """
    program = executable.program
    windows = [
        [window.name, window.role, base, size]
        for window, (base, size) in zip(program.windows, program.placement(), strict=True)
    ]
    sram = {entry: [list(row) for row in rows] for entry, rows in executable.buffers.items()}
    return {
        "dram": windows,
        "dram_bytes": program.chip.dram_bytes,
        "sram": sram,
        "sram_bytes": program.chip.sram_bytes,
    }
