"""Who last wrote and read which bytes, and whether an access is after them: races by vector clocks.

Memory is cut at every boundary that some access of the program has, so that a *segment* is always
accessed whole: a buffer of 16 KiB that is only used whole costs as much as one byte. Exact, not
sampled.

A clock counts, for each engine, the operations known to have ended. An access races with an earlier
one of engine e with number i if the clock at its start has less than i for e.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mellivora.isa.footprint import DramRegion, Region

Clock = npt.NDArray[np.int32]
Index = slice | npt.NDArray[np.int64]
Spans = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""(first bytes, bytes past the last) of intervals."""

WRITERS, READERS = "writes", "reads"


class Conflict(NamedTuple):
    """An access is not ordered after operation `number` of clock entry `engine`, which `kind` them.

    engine -1: the bytes were never written.
    """

    first_byte: int
    past_byte: int
    kind: str
    engine: int
    number: int


def pad_spans(regions: Sequence[Region]) -> Spans:
    """Intervals of scratchpad regions, row by row."""
    parts = [at + stride * np.arange(rows, dtype=np.int64) for at, rows, _, stride in regions]
    starts = np.concatenate(parts)
    sizes = np.repeat([size for _, _, size, _ in regions], [rows for _, rows, _, _ in regions])
    return starts, starts + sizes


def dram_spans(region: DramRegion, base: int) -> Spans:
    """Intervals of a DRAM region whose window begins at `base`; contiguous pieces are joined."""
    _, start, run, *levels = region
    starts = np.array([base + start], np.int64)
    joined = True
    for count, stride in zip(levels[::2], levels[1::2], strict=True):
        if joined and (count == 1 or stride == run):
            run *= count
        else:
            joined = False
            starts = (starts[None, :] + stride * np.arange(count)[:, None]).ravel()
    return starts, starts + run


class Segments:
    """The cuts of one address space; gives the segments of intervals."""

    def __init__(self, spans: Iterable[Spans]) -> None:
        ends = [part for span in spans for part in span]
        self.cuts = np.unique(np.concatenate(ends)) if ends else np.zeros(0, np.int64)

    def __len__(self) -> int:
        return max(len(self.cuts) - 1, 0)

    def index(self, span: Spans) -> Index:
        """Segments of intervals, as a slice where they follow each other."""
        low = np.searchsorted(self.cuts, span[0])
        counts = np.searchsorted(self.cuts, span[1]) - low
        if len(low) == 1:
            return slice(int(low[0]), int(low[0] + counts[0]))
        before = np.cumsum(counts) - counts
        first_of = np.repeat(low - before, counts)
        found: npt.NDArray[np.int64] = np.unique(first_of + np.arange(len(first_of)))
        first, last = int(found[0]), int(found[-1])
        return slice(first, last + 1) if last - first + 1 == len(found) else found

    def bytes_of(self, segment: int) -> tuple[int, int]:
        return int(self.cuts[segment]), int(self.cuts[segment + 1])


class Memory:
    """Last accesses of one memory.

    writers, readers: clock entries of the engines that can write and read it; the numbers of their
    last accesses are in `last` [writers then readers, segments], 0 for none since the last write.
    """

    def __init__(self, segments: Segments, writers: Sequence[int], readers: Sequence[int]) -> None:
        self.segments = segments
        self.entries = np.array([*writers, *readers])
        self.writers = len(writers)
        self.row_of_writer = {entry: row for row, entry in enumerate(writers)}
        self.row_of_reader = {entry: self.writers + row for row, entry in enumerate(readers)}
        self.last = np.zeros((len(self.entries), len(segments)), np.int32)
        self.written = np.zeros(len(segments), bool)

    def read(
        self, index: Index, clock: Clock, engine: int, number: int, *, defined: bool = True
    ) -> Conflict | None:
        """Note a read; `defined`: bytes never written are a conflict too."""
        late = self.last[: self.writers, index] > clock[self.entries[: self.writers], None]
        if late.any():
            return self._conflict(index, late)
        if defined and not self.written[index].all():
            at = self._first(index, np.logical_not(self.written[index]))
            return Conflict(*self.segments.bytes_of(at), WRITERS, -1, 0)
        self.last[self.row_of_reader[engine], index] = number
        return None

    def write(self, index: Index, clock: Clock, engine: int, number: int) -> Conflict | None:
        """Note a write."""
        late = self.last[:, index] > clock[self.entries, None]
        if late.any():
            return self._conflict(index, late)
        self.last[:, index] = 0
        self.last[self.row_of_writer[engine], index] = number
        self.written[index] = True
        return None

    def _first(self, index: Index, wrong: Any) -> int:
        at = int(np.flatnonzero(wrong)[0])
        return index.start + at if isinstance(index, slice) else int(index[at])

    def _conflict(self, index: Index, late: npt.NDArray[np.bool_]) -> Conflict:
        at = self._first(index, late.any(0))
        row = int(np.flatnonzero(late[:, int(np.flatnonzero(late.any(0))[0])])[0])
        kind = WRITERS if row < self.writers else READERS
        first, past = self.segments.bytes_of(at)
        return Conflict(first, past, kind, int(self.entries[row]), int(self.last[row, at]))
