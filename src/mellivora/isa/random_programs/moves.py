"""Random legal operations of LOAD, STORE and MATRIX."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mellivora.isa.encoding import DRAM_UNIT_BYTES, GATHER_PAGES
from mellivora.isa.latency import ACCUMULATE_CYCLES
from mellivora.isa.modes import B_DWORDS, B_SCALE_BYTES, BFormat, matmul_mode, passes
from mellivora.isa.random_programs.operation import Operation, make
from mellivora.isa.random_programs.shapes import (
    BYTES,
    INPUT_BYTES,
    MOST_PAGE,
    SCALES,
    TABLE_ENTRIES,
    WRONG_ENTRIES,
    Room,
    size,
)
from mellivora.isa.random_programs.vectors import Impossible, garbage

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

MOST_FRAGMENTS = 20
MOST_MATRIX_CYCLES = 260
_MULTI = (BFormat.MX8, BFormat.ROWS)
_INTEGERS = (BFormat.INT8, BFormat.UINT8, BFormat.INT4)
_MATMUL_FORMS = [
    (fmt, si, sj, False)
    for fmt in BFormat
    for si in (1, 2, 3)
    for sj in ((1, 2, 3) if fmt in _MULTI else (1,))
] + [(fmt, 1, 1, True) for fmt in _INTEGERS] * 2


def strides_apart(pick: random.Random, counts: Sequence[int]) -> list[int]:
    """Strides of n1..n3 in some order of nesting, so that no piece of n0 bytes meets another."""
    order, extent, out = [0, 1, 2], counts[0], [0, 0, 0]
    if pick.random() < 0.3:
        pick.shuffle(order)
    for at in order:
        pad = pick.choice((0, 0, pick.randrange(9), pick.choice((32, 64, 100))))
        out[at] = extent + pad
        extent += (counts[at + 1] - 1) * out[at]
    return out


def extent(counts: Sequence[int], strides: Sequence[int]) -> int:
    """Bytes from the first to past the last of a transfer's side."""
    return counts[0] + sum((n - 1) * s for n, s in zip(counts[1:], strides, strict=True))


class Moves:
    """Makes operations of LOAD, STORE and MATRIX.

    area: bytes of the output window that each core may store to.
    """

    def __init__(
        self, room: Room, pick: random.Random, chip: ChipSpec, windows: tuple[int, int], area: int
    ) -> None:
        self.room, self.pick, self.chip = room, pick, chip
        self.input, self.output = windows
        self.area = area
        self.sums: list[tuple[int, int, int]] = []  # row, rows and columns of earlier results
        self.tables: list[tuple[int, int]] = []  # address and entries of page tables

    # ------------------------------------------------------------------------------ DMA

    def counts(self) -> list[int]:
        """n0..n3, of few enough fragments."""
        pick, burst = self.pick, self.chip.dram_burst_bytes
        while True:
            n0 = size(pick, burst, 3 * burst)
            more = [pick.choice((1, 1, 1, 2, 3)) for _ in range(3)]
            if pick.random() < 0.06:
                more[pick.randrange(3)] = pick.choice((0, 0, -1, -(1 << 31)))
            if pick.random() < 0.06:
                more[pick.randrange(3)] = pick.choice((5, 7, 8))
            pieces = max(more[0], 0) * max(more[1], 0) * max(more[2], 0)
            if pieces * (max(n0, 0) // burst + 2) <= MOST_FRAGMENTS:
                return [n0, *more]

    def _far(self, counts: list[int], strides: list[int], first: int, total: int) -> list[int]:
        """offset and fine of a transfer within `total` bytes from `first` on."""
        pick, spare = self.pick, total - extent(counts, strides)
        if spare < 0:
            raise Impossible
        start = first + pick.choice((0, spare, pick.randint(0, spare), spare // 64 * 64))
        offset = start // DRAM_UNIT_BYTES
        if pick.random() < 0.2:
            offset += pick.choice((-1, 1, -offset, 7))
        return [offset, start - offset * DRAM_UNIT_BYTES]

    def _source_strides(self, counts: list[int]) -> list[int]:
        """Strides of a side that is read: also none, and pieces over each other."""
        pick = self.pick
        out = strides_apart(pick, counts)
        for at in range(3):
            if pick.random() < 0.15:
                out[at] = pick.choice((0, 1, counts[0] // 2, 64, 96))
        return out

    def _joined(self, counts: list[int]) -> tuple[list[int], list[int]] | None:
        """Strides that continue each other on both sides in the first dimensions."""
        if self.pick.random() < 0.65:
            return None
        one, two = strides_apart(self.pick, counts), strides_apart(self.pick, counts)
        run = counts[0]
        for at in range(self.pick.randint(1, 3)):
            one[at] = two[at] = run
            run *= counts[at + 1]
        return one, two

    def load(self, name: str = "load", *, own: bool = False) -> Operation:
        """From the input window, or from what this core (own) may have stored."""
        counts = self.counts()
        if min(counts) <= 0:
            return self._empty(name, counts)
        far, near = self._joined(counts) or (
            self._source_strides(counts),
            strides_apart(self.pick, counts),
        )
        pad = self.room.place(extent(counts, near))
        if pad is None:
            raise Impossible
        window, total = (self.output, self.area) if own else (self.input, INPUT_BYTES)
        config = [*far, *near, garbage(self.pick)]
        op = make(name, [window, *self._far(counts, far, 0, total), pad, *counts], config)
        if own and self.chip.cores > 1:
            op.per_core[1] = self.area // DRAM_UNIT_BYTES
        return op

    def table(self, *, wrong: bool = False) -> Operation:
        """A LOAD of page numbers; some of them wrong."""
        pick = self.pick
        entries = WRONG_ENTRIES if wrong else pick.choice((1, 2, 3, pick.randint(4, 20), 70))
        first = TABLE_ENTRIES if wrong else pick.randint(0, TABLE_ENTRIES - entries)
        pad = self.room.place(4 * entries, align=4)
        if pad is None:
            raise Impossible
        place = INPUT_BYTES + 4 * first
        far = [place // DRAM_UNIT_BYTES, place % DRAM_UNIT_BYTES]
        self.tables.append((pad, entries))
        return make("load", [self.input, *far, pad, 4 * entries, 1, 1, 1], [0] * 6)

    def gather(self, *, foreign: bool = False) -> Operation:
        """A LOADX of pages by a table that has been loaded."""
        pick, counts = self.pick, self.counts()
        if min(counts) <= 0:
            return self._empty("loadx", counts)
        if not self.tables:
            raise Impossible
        at, entries = pick.choice(self.tables)
        counts[3] = min(counts[3], entries)
        if entries >= GATHER_PAGES and pick.random() < 0.5:
            burst = self.chip.dram_burst_bytes
            counts = [pick.randint(1, burst), 1, 1, GATHER_PAGES - pick.randrange(2)]
        far, near = self._joined(counts) or (
            self._source_strides(counts),
            strides_apart(pick, counts),
        )
        far[2] = self.chip.dram_burst_bytes * pick.choice((0, 1, 1, 1, 2, 4))
        pad = self.room.place(extent(counts, near))
        if pad is None:
            raise Impossible
        total = self.area * self.chip.cores if foreign else INPUT_BYTES
        place = self._far([*counts[:3], MOST_PAGE + 1], far, 0, total)
        table = at + 4 * pick.randint(0, entries - counts[3])
        window = self.output if foreign else self.input
        return make("loadx", [window, *place, pad, *counts], [*far, *near, table])

    def foreign(self, name: str) -> Operation:
        """From anywhere in the output window: other cores' bytes too."""
        if name == "loadx":
            return self.gather(foreign=True)
        counts = self.counts()
        if min(counts) <= 0:
            raise Impossible
        far, near = self._source_strides(counts), strides_apart(self.pick, counts)
        pad = self.room.place(extent(counts, near))
        if pad is None:
            raise Impossible
        place = self._far(counts, far, 0, self.area * self.chip.cores)
        return make(name, [self.output, *place, pad, *counts], [*far, *near, garbage(self.pick)])

    def store(self) -> Operation:
        """To this core's own part of the output window."""
        counts = self.counts()
        if min(counts) <= 0:
            return self._empty("store", counts)
        far, near = self._joined(counts) or (
            strides_apart(self.pick, counts),
            self._source_strides(counts),
        )
        pad = self.room.source(extent(counts, near), BYTES)
        if pad is None:
            raise Impossible
        op = make(
            "store", [self.output, *self._far(counts, far, 0, self.area), pad, *counts], far + near
        )
        if self.chip.cores > 1:
            op.per_core[1] = self.area // DRAM_UNIT_BYTES
        return op

    def _empty(self, name: str, counts: list[int]) -> Operation:
        """A transfer of no bytes: nothing else of it is looked at."""
        return make(name, [*(garbage(self.pick) for _ in range(4)), *counts],
                    [garbage(self.pick) for _ in range(7)])  # fmt: skip

    def exchange(self) -> Operation:
        """Parts beside the source, or each core's own part in place."""
        pick, cores = self.pick, self.chip.cores
        part = size(pick, self.chip.exchange_bytes_per_cycle, 150)
        rows = pick.choice((1, 1, 2, 3, 5, 0, -1)) if pick.random() < 0.7 else 1
        if part <= 0 or rows <= 0:
            slots = [garbage(pick), garbage(pick), part, garbage(pick), rows]
            return make("exch", [*slots, garbage(pick), garbage(pick)])
        if pick.random() < 0.6:
            stride = part + pick.choice((0, 0, pick.randrange(20)))
            row = cores * stride + pick.choice((0, pick.randrange(20)))
        else:  # each core's rows together
            row = part + pick.choice((0, pick.randrange(9)))
            stride = rows * row + pick.randrange(9)
        whole = (rows - 1) * row + (cores - 1) * stride + part
        down = pick.random() < 0.15
        in_place = pick.random() < 0.3
        dst = self.room.source(whole, BYTES) if in_place else self.room.place(whole)
        if dst is None:
            raise Impossible
        if down:  # the last core's part comes first
            dst, stride = dst + (cores - 1) * stride, -stride
        src_row = row if in_place or pick.random() < 0.5 else part
        src = dst if in_place else self.room.source((rows - 1) * src_row + part, BYTES)
        if src is None:
            raise Impossible
        op = make("exch", [dst, src, part, stride, rows, row, src_row])
        if in_place and cores > 1:
            op.per_core[1] = stride
        return op

    # --------------------------------------------------------------------------- MATRIX

    def matmul(self) -> Operation:
        pick, columns = self.pick, self.chip.columns
        fmt, si, sj, int32 = pick.choice(_MATMUL_FORMS)
        blocks = pick.choice((1, 1, 1, 2, 2, 3, 5, 0, -1)) if pick.random() < 0.8 else 1
        most = MOST_MATRIX_CYCLES // (max(blocks, 1) * len(passes(si, sj)))
        m = max(size(pick, ACCUMULATE_CYCLES, min(max(most, 5), 24), none=0.09), 0)
        n = size(pick, columns, columns, none=0.09)
        accumulate = bool(self.sums) and pick.random() < 0.45
        row = pick.choice((0, self.chip.accumulator_rows - m, pick.randrange(9)))
        if accumulate:
            row, rows, width = pick.choice(self.sums)
            m, n = min(m, rows), min(n, width)
        if m <= 0 or n <= 0:
            slots = [row, garbage(pick), garbage(pick), garbage(pick), m, blocks, n]
            config = [garbage(pick) for _ in range(6)] + self._zeros(fmt, int32)
            mode = matmul_mode(fmt, a_slices=si, b_slices=sj, accumulate=accumulate, int32=int32)
            return make("matmul", [*slots, mode], config)
        k = max(blocks, 0)
        a_stride = pick.choice((32 * k, 32 * k, 32 * k + pick.randrange(40), 32, 0))
        a_extent = (m - 1) * a_stride + 32 * k
        a_plane = pick.choice((a_extent, 0, 32, a_extent + 3))
        a, a_plane = self._planes(a_extent, si, a_plane)
        scale_stride = pick.choice((k, k, k + pick.randrange(9), 0))
        a_scale = self._source((m - 1) * scale_stride + k, SCALES)
        b, pitch, first, pace = self._weights(fmt, sj, k, n)
        mode = matmul_mode(fmt, a_slices=si, b_slices=sj, accumulate=accumulate, int32=int32)
        config = [a_stride, a_plane, scale_stride, pitch, first, pace, *self._zeros(fmt, int32)]
        return make("matmul", (row, a, a_scale, b, m, blocks, n, mode), config)

    def _zeros(self, fmt: BFormat, int32: bool) -> list[int]:
        pick = self.pick
        if not int32:
            return [garbage(pick), garbage(pick)]
        low = 0 if fmt == BFormat.UINT8 else -128
        return [pick.choice((0, 1, 129, 256, pick.randint(0, 256))),
                low + pick.choice((0, 128, 255, pick.randint(0, 255)))]  # fmt: skip

    def _source(self, bytes_: int, kind: str) -> int:
        if bytes_ <= 0:
            return garbage(self.pick)
        at = self.room.source(bytes_, kind)
        if at is None:
            raise Impossible
        return at

    def _planes(self, one: int, count: int, plane: int) -> tuple[int, int]:
        """Address and distance of `count` planes of `one` bytes each."""
        if one <= 0:
            return garbage(self.pick), garbage(self.pick)
        if count == 1:
            return self._source(one, BYTES), garbage(self.pick)
        room = (self.room.longest() - one) // (count - 1)
        plane = min(plane, max(room, 0))
        at = self._source(one + (count - 1) * plane, BYTES)
        if self.pick.random() < 0.2:
            return at + (count - 1) * plane, -plane
        return at, plane

    def _weights(self, fmt: BFormat, slices: int, blocks: int, n: int) -> tuple[int, int, int, int]:
        """b, pitch, first column (ROWS: distance of planes) and pace."""
        pick, columns = self.pick, self.chip.columns
        if blocks <= 0:
            return garbage(pick), garbage(pick), garbage(pick), garbage(pick)
        if fmt == BFormat.ROWS:
            pitch = max(pick.choice((n, n, columns // 4, columns // 2, n + pick.randrange(9))), 0)
            if pick.random() < 0.05:
                pitch = 0
            one = (32 * blocks - 1) * pitch + n
            at, plane = self._planes(one, slices, pick.choice((one, 0, n, one + 5)))
            return at, pitch, plane, garbage(pick)
        pitch = pick.choice((n, n, columns, n + pick.randrange(5)))
        first = pick.choice((0, 0, pitch - n, pick.randint(min(pitch - n, 0), max(pitch - n, 0))))
        if pick.random() < 0.05:
            pitch = pick.choice((0, n // 2))
        dwords, scale = B_DWORDS[fmt] * slices, B_SCALE_BYTES[fmt]
        width = min(scale, 2)
        low = min(4 * first, 4 * dwords * pitch + width * first if scale else 4 * first)
        high = 4 * first + (dwords - 1) * 4 * pitch + 4 * n
        if scale:
            high = max(high, 4 * dwords * pitch + width * (first + n) + (scale == 4) * 2 * pitch)
        natural = (4 * dwords + scale) * pitch
        pace = pick.choice((natural, natural, natural + pick.randrange(9), 0, 7, -natural, -13))
        reach = (blocks - 1) * pace
        if high - low + abs(reach) > self.room.longest():
            pace = pick.choice((0, 1, -1))
            reach = (blocks - 1) * pace
        low, high = min(low, low + reach), max(high, high + reach)
        return self._source(high - low, BYTES) - low, pitch, first, pace
