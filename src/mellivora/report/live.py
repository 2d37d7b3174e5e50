"""Which bytes of a core's memories hold something that will still be read, over one launch.

A byte is live from a write to the last read before the next write. `isa.footprint` says what every
operation reads and writes; the compiler's buffers give the addresses their names. Granules of
GRANULE_BYTES, the alignment of buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mellivora.isa.encoding import ACCUMULATOR_BASE
from mellivora.isa.footprint import footprint, intervals
from mellivora.sim.trace import data_begin

if TYPE_CHECKING:
    from mellivora.sim.result import Symbol, TimingResult

Ints = npt.NDArray[np.int64]
Buffer = Sequence[Any]
"""[name, address, bytes]."""

GRANULE_BYTES = 64
COLUMNS = 1200
SMALL_BYTES = 1024
"""Neighbours smaller than this are drawn as one band."""
FREE = "."
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def live(
    result: TimingResult, symbols: Sequence[Symbol], buffers: Sequence[Buffer], *, core: int = 0
) -> dict[str, Any]:
    """A picture of memory over time, as plain values.

    bands: [name, address, bytes, lines of the picture]. lines: strings of COLUMNS letters, one a
    slot of time: kinds[letter] wrote what is live there, FREE if nothing is. live_bytes: of the
    scratchpad, in each slot at its most; peak_bytes.
    """
    names, of_row = result.label_rows(symbols)
    kinds = list(dict.fromkeys(kind for _, kind in names))
    pieces = _pieces(result, core, [kinds.index(kind) for _, kind in names], of_row[core])
    bands = _bands(buffers, result)
    cycles = max(result.cycles, 1)
    first, last, granule, _ = pieces
    slot = -(-cycles // COLUMNS)
    columns = -(-cycles // slot)
    inside = granule < result.chip.sram_bytes // GRANULE_BYTES
    steps = np.zeros(cycles + 2, np.int64)
    np.add.at(steps, first[inside], GRANULE_BYTES)
    np.add.at(steps, last[inside], -GRANULE_BYTES)
    held = np.cumsum(steps)[:cycles]
    padded = np.pad(held, (0, columns * slot - cycles))
    lines = _lines(bands, pieces, slot, columns)
    return {
        "core": core,
        "cycles": cycles,
        "slot_cycles": slot,
        "kinds": kinds,
        "bands": bands,
        "lines": lines,
        "live_bytes": padded.reshape(columns, slot).max(axis=1).tolist(),
        "peak_bytes": int(held.max(initial=0)),
    }


def _pieces(
    result: TimingResult, core: int, kind_of: Sequence[int], labels: Ints
) -> tuple[Ints, Ints, Ints, Ints]:
    """(from, to, granule, kind) of every stretch in which a granule is live."""
    chip = result.chip
    count = (chip.sram_bytes + chip.accumulator_bytes) // GRANULE_BYTES + 1
    written, read = np.full(count, -1, np.int64), np.zeros(count, np.int64)
    writer = np.zeros(count, np.int64)
    begin, end = data_begin(result, core), result.end[core]
    out: list[list[Ints]] = []

    def close(at: Ints) -> None:
        used = at[(written[at] >= 0) & (read[at] > written[at])]
        out.append([written[used], read[used], used, writer[used]])

    # In program order: semaphores make conflicting operations keep it.
    for row, fields in enumerate(result.rows[core].tolist()):
        touched = footprint(fields, chip)
        for region in touched.reads:
            at = _granules(region, chip.sram_bytes)
            read[at] = np.maximum(read[at], end[row])
        for region in touched.writes:
            at = _granules(region, chip.sram_bytes)
            fresh = at[written[at] != begin[row]]  # one write of several rows counts once
            close(fresh)
            written[at], read[at], writer[at] = begin[row], begin[row], kind_of[labels[row]]
    close(np.arange(count))
    first, last, granule, kind = (np.concatenate(parts) for parts in zip(*out, strict=True))
    return first, last, granule, kind


def _granules(region: tuple[int, int, int, int], sram_bytes: int) -> Ints:
    """Granules that a region touches; accumulators lie behind the scratchpad."""
    at, rows, size, stride = region
    if at >= ACCUMULATOR_BASE:
        at += sram_bytes - ACCUMULATOR_BASE
    if rows > 1 and stride < GRANULE_BYTES:  # no gap as wide as a granule
        size, rows = (rows - 1) * stride + size, 1
    if rows == 1:
        return np.arange(at // GRANULE_BYTES, (at + size - 1) // GRANULE_BYTES + 1)
    runs = [
        np.arange(a // GRANULE_BYTES, (b - 1) // GRANULE_BYTES + 1)
        for a, b in intervals((at, rows, size, stride))
    ]
    return np.unique(np.concatenate(runs))


def shared(buffers: Sequence[Buffer]) -> list[list[Buffer]]:
    """Buffers in groups, by address: those of a group share bytes, directly or in a chain."""
    groups: list[list[Buffer]] = []
    top = -1
    for one in sorted(buffers, key=lambda row: (row[1], -row[2])):
        if one[1] < top:
            groups[-1].append(one)
        else:
            groups.append([one])
        top = max(top, one[1] + one[2])
    return groups


def _bands(buffers: Sequence[Buffer], result: TimingResult) -> list[list[Any]]:
    """[name, address, bytes, lines]: a group that shares bytes, or small neighbours together."""
    chip = result.chip
    spans: list[tuple[list[str], int, int]] = []
    small = False
    for group in shared(buffers):
        first, last = group[0][1], max(at + size for _, at, size in group)
        names = [name for name, _, _ in group]
        if small and last - first < SMALL_BYTES:
            spans[-1] = (spans[-1][0] + names, spans[-1][1], last)
        else:
            spans.append((names, first, last))
        small = last - first < SMALL_BYTES
    bands = [[_title(names), first, last - first] for names, first, last in spans]
    if chip.accumulator_bytes:
        bands.append(["accumulators", chip.sram_bytes, chip.accumulator_bytes])
    return [[*band, int(np.clip(round(band[2] ** 0.5 / 24), 3, 48))] for band in bands]


def _title(names: list[str]) -> str:
    plain = [name for name in names if not name.endswith(".scales")] or names
    return plain[0] if len(plain) == 1 else f"{plain[0]} and {len(names) - 1} more"


def _lines(
    bands: list[list[Any]], pieces: tuple[Ints, Ints, Ints, Ints], slot: int, columns: int
) -> list[str]:
    """The picture, lowest address first; where a cell holds two kinds, one of them is shown."""
    first, last, granule, kind = pieces
    lines: list[str] = []
    for _, address, size, height in bands:
        low, high = address // GRANULE_BYTES, (address + size - 1) // GRANULE_BYTES + 1
        mine = np.flatnonzero((granule >= low) & (granule < high))
        grid = np.full((height, columns), FREE)
        line = (granule[mine] - low) * height // (high - low)
        cells = np.unique(
            np.stack([line, first[mine] // slot, (last[mine] - 1) // slot, kind[mine]]), axis=1
        )
        for y, a, b, k in cells.T.tolist():
            grid[y, a : b + 1] = LETTERS[k % len(LETTERS)]
        lines += ["".join(row) for row in grid]
    return lines
