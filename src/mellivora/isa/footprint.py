"""Which bytes an engine operation reads and writes, and of which cause it faults: the one place
that says so.

The checker, the compiler's semaphore placement and the words of every fault work on it; a test
holds it equal to what `isa.meaning` touches. An operation with several faults has the cause that
comes first here, as in the engines: shape (5), then region by region, in the order of the regions
below, alignment (4) before bounds (3); LOAD and STORE: window (2) before scratchpad (3), LOADX the
table after both. Which pages LOADX reads is data: its window counts as read to the end, and a wrong
page is a fault (2) of its meaning only. Plain tuples, a few microseconds a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mellivora.isa.encoding import (
    ACCUMULATOR_BASE,
    DRAM_UNIT_BYTES,
    GATHER_PAGES,
    R_CONFIG,
    R_OPCODE,
    R_SLOT,
    RESOLVED_FIELDS,
)
from mellivora.isa.meaning import check_zero_points, matmul_format
from mellivora.isa.modes import B_DWORDS, B_SCALE_BYTES, BFormat, Deq, Func, Kind, Reduce, Store
from mellivora.isa.state import Fault
from mellivora.isa.table import BY_NAME

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

Ints = Sequence[int]

Region = tuple[int, int, int, int]
"""(address, rows, row_bytes, stride): scratchpad, or accumulators from ACCUMULATOR_BASE. Contiguous
rows are joined; a region of one row has stride = row_bytes."""

DramRegion = tuple[int, int, int, int, int, int, int, int, int]
"""(window, first byte, n0, n1, d1, n2, d2, n3, d3): n3 x n2 x n1 pieces of n0 bytes, d apart."""


class Footprint(NamedTuple):
    """Bytes of one operation in its own core, and in DRAM."""

    reads: tuple[Region, ...] = ()
    writes: tuple[Region, ...] = ()
    dram_reads: tuple[DramRegion, ...] = ()
    dram_writes: tuple[DramRegion, ...] = ()


NOTHING = Footprint()

_ANY_WINDOW_BYTES = 1 << 40
"""Of a window whose size is not given; more than any DRAM."""


def footprint(row: Ints, chip: ChipSpec, *, limits: Ints | None = None) -> Footprint:
    """Footprint of a resolved row (a list of ints is faster than an array).

    limits: bytes of each window, or None to leave window bounds alone. Raises Fault where the
    operation itself would: 2 window, 3 scratchpad, 4 alignment, 5 shape; 1 for CONTROL opcodes.
    """
    rule = _RULES.get(row[R_OPCODE])
    if rule is None:
        raise Fault(1, f"{row[R_OPCODE]:#x}")
    return rule(row[R_SLOT:R_CONFIG], row[R_CONFIG:RESOLVED_FIELDS], chip, limits)


def _region(
    chip: ChipSpec, address: int, rows: int, row_bytes: int, stride: int, word: int = 1
) -> Region:
    """A checked region of VECTOR, in either memory; word 4 demands FP32 alignment."""
    if word == 4 and (address | stride) & 3:
        raise Fault(4, f"address {address:#x}, stride {stride}")
    end = chip.sram_bytes
    if address >= ACCUMULATOR_BASE:
        end = ACCUMULATOR_BASE + chip.accumulator_bytes
    return _within(end, address, rows, row_bytes, stride)


def _near(chip: ChipSpec, address: int, rows: int, row_bytes: int, stride: int) -> Region:
    """A checked region of MATRIX operands and EXCH: in the scratchpad, of any alignment."""
    return _within(chip.sram_bytes, address, rows, row_bytes, stride)


def _within(end: int, address: int, rows: int, row_bytes: int, stride: int) -> Region:
    last = address + (rows - 1) * stride + row_bytes
    if address < 0 or stride < 0 or last > end:
        raise Fault(3, f"bytes {address:#x}..{last:#x} of {end:#x}")
    if rows == 1 or stride == 0:
        return address, 1, row_bytes, row_bytes
    if stride == row_bytes:
        return address, 1, rows * row_bytes, rows * row_bytes
    return address, rows, row_bytes, stride


def _dma(o: Ints, c: Ints, chip: ChipSpec, limits: Ints | None) -> tuple[Region, ...] | None:
    """Scratchpad side of a LOAD or STORE, None if it moves nothing; both sides are checked."""
    window, offset, fine, pad, n0, n1, n2, n3 = o
    if n0 <= 0 or n1 <= 0 or n2 <= 0 or n3 <= 0:
        return None
    d1, d2, d3, p1, p2, p3 = c[:6]
    if min(window, d1, d2, d3, p1, p2, p3) < 0 or (limits is not None and window >= len(limits)):
        raise Fault(2, f"window {window}, strides {list(c[:6])}")
    start = offset * DRAM_UNIT_BYTES + fine
    stop = start + n0 + (n1 - 1) * d1 + (n2 - 1) * d2 + (n3 - 1) * d3
    if start < 0 or (limits is not None and stop > limits[window]):
        limit = "" if limits is None else f" of {limits[window]}"
        raise Fault(2, f"window {window}: bytes {start}..{stop}{limit}")
    extent = n0 + (n1 - 1) * p1 + (n2 - 1) * p2 + (n3 - 1) * p3
    if pad < 0 or pad + extent > chip.sram_bytes:  # accumulators are not reached by DMA
        raise Fault(3, f"bytes {pad:#x}..{pad + extent:#x} of {chip.sram_bytes:#x}")
    run, levels = n0, list[tuple[int, int]]()
    for count, stride in ((n1, p1), (n2, p2), (n3, p3)):
        if count == 1 or stride == 0:
            continue
        if stride == run and not levels:
            run *= count
        else:
            levels.append((count, stride))
    starts = [pad]
    for count, stride in levels[1:]:
        starts = [at + i * stride for i in range(count) for at in starts]
    rows, stride = levels[0] if levels else (1, run)
    return tuple((at, rows, run, stride) for at in starts)


def _far(o: Ints, c: Ints) -> tuple[DramRegion]:
    return ((o[0], o[1] * DRAM_UNIT_BYTES + o[2], o[4], o[5], c[0], o[6], c[1], o[7], c[2]),)


def _load(o: Ints, c: Ints, chip: ChipSpec, limits: Ints | None) -> Footprint:
    near = _dma(o, c, chip, limits)
    return NOTHING if near is None else Footprint(writes=near, dram_reads=_far(o, c))


def _gather(o: Ints, c: Ints, chip: ChipSpec, limits: Ints | None) -> Footprint:
    window, n3, d3, table = o[0], o[7], c[2], c[6]
    if min(o[4:8]) <= 0:
        return NOTHING
    if n3 > GATHER_PAGES:
        raise Fault(5, f"{n3} pages")
    if d3 % chip.dram_burst_bytes:  # so fragments and cycles do not depend on the pages
        raise Fault(4, f"pages {d3} bytes apart")
    if d3 < 0:
        raise Fault(2, f"pages {d3} bytes apart")
    near = _dma(o, (c[0], c[1], 0, *c[3:6]), chip, limits)
    assert near is not None
    if table & 3:
        raise Fault(4, f"table {table:#x}")
    read = _within(chip.sram_bytes, table, n3, 4, 4)
    start = o[1] * DRAM_UNIT_BYTES + o[2]
    rest = (_ANY_WINDOW_BYTES if limits is None else limits[window]) - start
    return Footprint((read,), near, ((window, start, rest, 1, 0, 1, 0, 1, 0),))


def _store(o: Ints, c: Ints, chip: ChipSpec, limits: Ints | None) -> Footprint:
    near = _dma(o, c, chip, limits)
    return NOTHING if near is None else Footprint(reads=near, dram_writes=_far(o, c))


def _exchange(o: Ints, c: Ints, chip: ChipSpec, limits: Ints | None) -> Footprint:
    dst, src, size, stride, rows, dst_row, src_row = o[:7]
    if size <= 0 or rows <= 0:
        return NOTHING
    read = _near(chip, src, rows, size, src_row)
    if stride == size:  # the cores' parts of a row touch
        return Footprint((read,), (_near(chip, dst, rows, size * chip.cores, dst_row),))
    parts = [_near(chip, dst + i * stride, rows, size, dst_row) for i in range(chip.cores)]
    return Footprint((read,), tuple(parts))


def _nothing(o: Ints, c: Ints, chip: ChipSpec, limits: Ints | None) -> Footprint:
    return NOTHING


_DWORDS = {int(fmt): count for fmt, count in B_DWORDS.items()}
_SCALE_BYTES = {int(fmt): count for fmt, count in B_SCALE_BYTES.items()}
_UNSCALED = frozenset((int(BFormat.INT8), int(BFormat.UINT8), int(BFormat.INT4)))
_ROWS = int(BFormat.ROWS)


def _matmul(o: Ints, c: Ints, chip: ChipSpec, limits: Ints | None) -> Footprint:
    acc_row, a, a_scale, _, m, blocks, n, mode = o
    fmt, si, sj = matmul_format(mode)
    check_zero_points(mode, c)
    columns = chip.columns
    if n > columns or m < 0 or acc_row < 0 or acc_row + m > chip.accumulator_rows:
        raise Fault(5, f"{m} rows at {acc_row}, {n} columns")
    if m <= 0 or n <= 0:
        return NOTHING
    at = ACCUMULATOR_BASE + 4 * acc_row * columns
    acc = _region(chip, at, m, 4 * n, 4 * columns, 4)
    reads = [acc] if mode & 256 else []
    if blocks > 0:
        for i in range(si):
            reads.append(_near(chip, a + i * c[1], m, 32 * blocks, c[0]))
        if fmt not in _UNSCALED:
            reads.append(_near(chip, a_scale, m, blocks, c[2]))
        reads += _matmul_b(o, c, chip, int(fmt), sj)
    return Footprint(tuple(reads), (acc,))


def _matmul_b(o: Ints, c: Ints, chip: ChipSpec, fmt: int, slices: int) -> list[Region]:
    """Codes and scales of B; blocks without holes give one region, however many they are."""
    b, blocks, n, pitch, first, pace = o[3], o[5], o[6], c[3], c[4], c[5]
    if fmt == _ROWS:  # `first` is the distance of planes there
        return [_near(chip, b + j * first, 32 * blocks, n, pitch) for j in range(slices)]
    if pace < 0:  # the same blocks from the lowest address up
        b, pace = b + (blocks - 1) * pace, -pace
    dwords, scale_bytes = _DWORDS[fmt] * slices, _SCALE_BYTES[fmt]
    if n == pitch and first == 0:
        return [_near(chip, b, blocks, (4 * dwords + scale_bytes) * n, pace)]
    if pitch < 0:
        raise Fault(3, f"pitch {pitch}")
    at = b + 4 * first
    if dwords < blocks:
        found = [_near(chip, at + 4 * d * pitch, blocks, 4 * n, pace) for d in range(dwords)]
    else:
        found = [_near(chip, at + i * pace, dwords, 4 * n, 4 * pitch) for i in range(blocks)]
    if scale_bytes:
        width = min(scale_bytes, 2)
        at = b + 4 * dwords * pitch + width * first
        found.append(_near(chip, at, blocks, width * n, pace))
        if scale_bytes == 4:
            found.append(_near(chip, at + 2 * pitch, blocks, 2 * n, pace))
    return found


def _operand(
    chip: ChipSpec, kind: int, at: int, rows: int, cols: int, stride: int
) -> tuple[Region, ...]:
    """Operand b or c of VECTOR, as `Core.operand` reads it."""
    if kind == Kind.CONST:
        return ()
    if kind == Kind.E8M0:
        return (_region(chip, at, rows, cols, stride),)
    return (_region(chip, at, rows, 4 if kind == Kind.ROW else 4 * cols, stride, 4),)


def _vew(o: Ints, c: Ints, chip: ChipSpec, limits: Ints | None) -> Footprint:
    dst, a, b, third, rows, cols, fn, kinds = o
    if rows <= 0 or cols <= 0:
        return NOTHING
    if fn < 0 or fn >> 6 > Func.NEG:
        raise Fault(5, f"function {fn >> 6}")
    reads: tuple[Region, ...] = (_region(chip, a, rows, 4 * cols, c[1], 4),)
    if fn & 7:
        reads += _operand(chip, kinds & 3, b, rows, cols, c[2])
    if fn >> 3 & 7:
        reads += _operand(chip, kinds >> 2 & 3, third, rows, cols, c[3])
    return Footprint(reads, (_region(chip, dst, rows, 4 * cols, c[0], 4),))


def _vred(o: Ints, c: Ints, chip: ChipSpec, limits: Ints | None) -> Footprint:
    dst, a, rows, cols, op = o[:5]
    if not 0 <= op <= Reduce.SUMSQ:
        raise Fault(5, f"reduction {op}")
    if rows <= 0 or cols <= 0:
        return NOTHING
    read = _region(chip, a, rows, 4 * cols, c[1], 4)
    return Footprint((read,), (_region(chip, dst, rows, 4, c[0], 4),))


_STORE_BYTES = {int(Store.F16): 2, int(Store.BF16): 2, int(Store.INT8): 1}


def _vquant(o: Ints, c: Ints, chip: ChipSpec, limits: Ints | None) -> Footprint:
    dst, dst_scale, a, b, rows, cols, mode = o[:7]
    target, wide = mode & 7, mode & 8
    if not Store.MX1 <= target <= Store.INT8 or (target <= Store.MX3 and not wide and cols % 32):
        raise Fault(5, f"vquant mode {mode:#x}, {cols} columns")
    if rows <= 0 or cols <= 0:
        return NOTHING
    reads: tuple[Region, ...] = (_region(chip, a, rows, 4 * cols, c[1], 4),)
    if mode & 16:
        reads += _operand(chip, mode >> 5 & 3, b, rows, cols, c[2])
    if target > Store.MX3:
        writes = [_region(chip, dst, rows, _STORE_BYTES[target] * cols, c[0])]
    else:
        writes = [_region(chip, dst_scale, rows, 1 if wide else cols // 32, c[3])]
        writes += [_region(chip, dst + j * c[4], rows, cols, c[0]) for j in range(target)]
    return Footprint(reads, tuple(writes))


# (bytes of codes, bytes of scales and offsets) of 32 columns in one plane
_DEQ_BYTES = {
    int(Deq.F16): (64, 0),
    int(Deq.BF16): (64, 0),
    int(Deq.MX1): (32, 1),
    int(Deq.MX2): (32, 1),
    int(Deq.MX3): (32, 1),
    int(Deq.Q8_0): (32, 2),
    int(Deq.Q4_0): (16, 2),
    int(Deq.Q4_1): (16, 4),
    int(Deq.INT32): (128, 0),
    int(Deq.INT8): (32, 0),
}


def _vdeq(o: Ints, c: Ints, chip: ChipSpec, limits: Ints | None) -> Footprint:
    dst, src, src_scale, rows, cols, fmt = o[:6]
    if fmt not in _DEQ_BYTES or (Deq.MX1 <= fmt <= Deq.Q4_1 and cols % 32):
        raise Fault(5, f"vdeq format {fmt}, {cols} columns")
    if rows <= 0 or cols <= 0:
        return NOTHING
    code_bytes, scale_bytes = _DEQ_BYTES[fmt]
    planes = fmt - Deq.MX1 + 1 if Deq.MX1 <= fmt <= Deq.MX3 else 1
    word, size = 4 if fmt == Deq.INT32 else 1, code_bytes * cols // 32
    reads = [_region(chip, src + j * c[4] * (j > 0), rows, size, c[1], word) for j in range(planes)]
    if scale_bytes:
        reads.append(_region(chip, src_scale, rows, scale_bytes * cols // 32, c[2]))
    return Footprint(tuple(reads), (_region(chip, dst, rows, 4 * cols, c[0], 4),))


_Rule = Callable[[Ints, Ints, "ChipSpec", "Ints | None"], Footprint]
_RULES: dict[int, _Rule] = {
    BY_NAME[name].opcode: rule
    for name, rule in {
        "load": _load,
        "loadm": _load,
        "lsync": _nothing,
        "loadx": _gather,
        "store": _store,
        "exch": _exchange,
        "barrier": _nothing,
        "ssync": _nothing,
        "matmul": _matmul,
        "msync": _nothing,
        "vew": _vew,
        "vred": _vred,
        "vquant": _vquant,
        "vdeq": _vdeq,
        "vsync": _nothing,
    }.items()
}


def intervals(region: Region) -> list[tuple[int, int]]:
    """[first, past the last) bytes of each row of a region."""
    at, rows, size, stride = region
    return [(at + i * stride, at + i * stride + size) for i in range(rows)]


def dram_intervals(region: DramRegion) -> list[tuple[int, int]]:
    """[first, past the last) bytes of a DRAM region in its window; contiguous pieces are joined."""
    _, start, run, *levels = region
    starts = [start]
    joined = True
    for count, stride in zip(levels[::2], levels[1::2], strict=True):
        if joined and (count == 1 or stride == run):
            run *= count
        else:
            joined = False
            starts = [at + i * stride for i in range(count) for at in starts]
    return [(at, at + run) for at in starts]
