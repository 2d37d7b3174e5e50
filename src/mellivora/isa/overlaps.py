"""Which operations have results that depend on the order in which an engine moves their bytes.

The meanings read everything before they write anything; the engines stream. Both give the same
bits where this finds nothing: what is written once, and not read later by the same operation. The
checker refuses the rest:

    VEW                     a destination that overlaps a source, unless both are the same FP32 tile
    VRED, VQUANT, VDEQ      a destination that overlaps a source, or another destination
    VECTOR, LOAD, EXCH      a place in the scratchpad that is written twice
    LOADX                   a destination that overlaps its table
    STORE                   a place in DRAM that is written twice
    EXCH                    a destination that overlaps the source, unless it is this core's part
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mellivora.isa.encoding import R_CONFIG, R_OPCODE, R_SLOT, VECTOR
from mellivora.isa.footprint import Footprint, Region
from mellivora.isa.modes import Kind
from mellivora.isa.table import BY_NAME, BY_OPCODE

_VEW, _EXCH = BY_NAME["vew"].opcode, BY_NAME["exch"].opcode
_IS_VECTOR = frozenset(row.opcode for row in BY_OPCODE.values() if row.engine == VECTOR)
_LOADS = frozenset(BY_NAME[name].opcode for name in ("load", "loadm", "loadx"))
_STORE = BY_NAME["store"].opcode

_MOST_PIECES = 1 << 20
"""More, in an order that is not plainly apart, are refused unseen."""

Levels = tuple[tuple[int, int], ...]
"""(count, stride) of nested repetitions, bytes."""


def order_matters(row: Sequence[int], found: Footprint, *, core_id: int, cores: int) -> str:
    """What is wrong with a legal resolved row of this footprint, "" if nothing is."""
    opcode = row[R_OPCODE]
    if opcode in _IS_VECTOR:
        return _vector(row, found) if found.writes else ""
    o, c = row[R_SLOT:R_CONFIG], row[R_CONFIG:]
    if opcode in _LOADS and found.writes:
        levels = ((o[5], c[3]), (o[6], c[4]), (o[7], c[5]))
        if not apart(o[4], levels):
            return "pieces of a LOAD lie over each other"
        met = any(overlap(place, table) for place in found.writes for table in found.reads)
        return "the destination lies over the page table" if met else ""
    if opcode == _STORE and found.dram_writes:
        levels = ((o[5], c[0]), (o[6], c[1]), (o[7], c[2]))
        return "" if apart(o[4], levels) else "pieces of a STORE lie over each other"
    return _exchange(o, cores, core_id) if opcode == _EXCH and found.writes else ""


def overlap(one: Region, two: Region) -> bool:
    """True if two regions have a byte in common."""
    a, a_rows, a_size, a_stride = one
    b, b_rows, b_size, b_stride = two
    if a + (a_rows - 1) * a_stride + a_size <= b or b + (b_rows - 1) * b_stride + b_size <= a:
        return False
    if a_rows == 1 and b_rows == 1:
        return True
    # The first row of `two` that ends past the start of a row of `one` must begin past its end.
    starts = a + a_stride * np.arange(a_rows, dtype=np.int64)
    step = max(b_stride, 1)
    index = np.maximum(-(-(starts + 1 - b - b_size) // step), 0)
    return bool(((index < b_rows) & (b + index * b_stride < starts + a_size)).any())


def _vector(row: Sequence[int], found: Footprint) -> str:
    o, c, known = row[R_SLOT:R_CONFIG], row[R_CONFIG:], BY_OPCODE[row[R_OPCODE]]
    repeated = c[known.config.index("dst_stride")] == 0
    if len(found.writes) > 1:  # the first are the scales of VQUANT
        repeated |= c[known.config.index("scale_stride")] == 0
    if repeated and o[known.slots.index("rows")] > 1:
        return "rows of the destination lie over each other"
    for at, (place, rows, size, stride) in enumerate(found.writes):
        if rows > 1 and stride < size:
            return "rows of the destination lie over each other"
        if any(overlap((place, rows, size, stride), other) for other in found.writes[:at]):
            return "destinations lie over each other"
    same = _same_tiles(o) if row[R_OPCODE] == _VEW else ()
    for at, source in enumerate(found.reads):
        for place in found.writes:
            if overlap(place, source) and not (at in same and place == source):
                return "the destination lies over a source"
    return ""


def _same_tiles(o: Sequence[int]) -> list[int]:
    """Places among VEW's reads of sources that are FP32 tiles as the destination is."""
    fn, kinds = o[6], o[7]
    read = [Kind.TENSOR]
    if fn & 7:
        read.append(Kind(kinds & 3))
    if fn >> 3 & 7:
        read.append(Kind(kinds >> 2 & 3))
    in_memory = [kind for kind in read if kind != Kind.CONST]
    return [at for at, kind in enumerate(in_memory) if kind == Kind.TENSOR]


def _exchange(o: Sequence[int], cores: int, core_id: int) -> str:
    dst, src, size, stride, rows, dst_row, src_row = o[:7]
    if not apart(size, ((cores, abs(stride)), (rows, dst_row))):
        return "parts of an EXCH lie over each other"
    for core in range(cores):
        place = dst + core * stride
        own = core == core_id and place == src and (rows == 1 or dst_row == src_row)
        if overlap((place, rows, size, dst_row), (src, rows, size, src_row)) and not own:
            return "the destination lies over the source, and is not this core's part"
    return ""


def apart(size: int, levels: Levels) -> bool:
    """True if no two of the repeated pieces of `size` bytes have a byte in common."""
    repeated = sorted((stride, count) for count, stride in levels if count > 1)
    extent = size
    for stride, count in repeated:
        if stride < extent:
            break
        extent += (count - 1) * stride
    else:
        return True
    if math.prod(count for _, count in repeated) > _MOST_PIECES:
        return False
    starts = np.zeros(1, np.int64)
    for stride, count in repeated:
        starts = (starts[:, None] + stride * np.arange(count)).ravel()
    starts.sort()
    return bool((np.diff(starts) >= size).all())
