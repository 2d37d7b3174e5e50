"""The golden model: what each engine instruction does, in Python, on a `Core`. Everything else must
equal this.

A meaning takes (core, slots o[0..7], config c[0..7]). Rows or columns of zero do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mellivora import numerics
from mellivora.isa.encoding import ACCUMULATOR_BASE
from mellivora.isa.modes import (
    B_DWORDS,
    B_SCALE_BYTES,
    BFormat,
    Deq,
    Func,
    Op,
    Reduce,
    Store,
    passes,
)
from mellivora.isa.state import F32, Array, Core, Fault, canonical
from mellivora.numerics import from_e8m0

Ints = Sequence[int]


def nothing(core: Core, o: Ints, c: Ints) -> None:
    """SYNC: only its semaphores act."""


def load(core: Core, o: Ints, c: Ints) -> None:
    far, near = core.dram_runs(o, c)
    near[...] = far


def loadx(core: Core, o: Ints, c: Ints) -> None:
    pages, near = core.dram_pages(o, c)  # all of them are known to exist before a byte moves
    for page, place in zip(pages, near, strict=True):
        place[...] = page


def store(core: Core, o: Ints, c: Ints) -> None:
    far, near = core.dram_runs(o, c)
    far[...] = near


def exchange(cores: Sequence[Core], o: Sequence[Ints]) -> None:
    """All cores together: part i of every destination row becomes that row of core i's source."""
    sides = list(zip(cores, o, strict=True))
    parts = [core.near(s[1], s[4], s[2], s[6]).copy() for core, s in sides]
    places: list[tuple[Array, Array]] = []
    for core, s in sides:
        for index, part in enumerate(parts):
            if part.shape != (max(s[4], 0), max(s[2], 0)):
                raise Fault(5, "cores exchange different sizes")
            places.append((core.near(s[0] + index * s[3], s[4], s[2], s[5]), part))
    for place, part in places:  # every place is known to exist: a fault leaves nothing half written
        place[...] = part


# ------------------------------------------------------------------------------------------- MATRIX


def _a_block(core: Core, o: Ints, c: Ints, block: int, i: int, scaled: bool) -> tuple[Array, F32]:
    """Slice i of one 32-block of A: integers [m, 32] and FP32 scales [m, 1]."""
    dtype = np.int8 if i == 0 else np.uint8
    codes = core.near(o[1] + i * c[1] + 32 * block, o[4], 32, c[0], dtype).astype(np.int64)
    if not scaled:
        return codes, np.ones((o[4], 1), np.float32)
    return codes, from_e8m0(core.near(o[2] + block, o[4], 1, c[2]), shift=6 + 8 * i)


def _b_codes(core: Core, o: Ints, c: Ints, fmt: BFormat, block: int, j: int) -> Array:
    """Slice j of one 32-block of B: integers [n, 32]."""
    n, pitch = o[6], c[3]
    dtype = np.int8 if j == 0 and fmt != BFormat.UINT8 else np.uint8
    if fmt == BFormat.ROWS:
        at = o[3] + j * c[4] + 32 * block * pitch
        return core.near(at, 32, n, pitch, dtype).T.astype(np.int64)
    dwords = B_DWORDS[fmt]
    at = o[3] + 4 * c[4] + block * c[5] + j * 32 * pitch  # c4: first column, where it is not ROWS
    raw = core.near(at, dwords, 4 * n, 4 * pitch)
    by_column = raw.reshape(dwords, n, 4).transpose(1, 0, 2).reshape(n, 4 * dwords)
    if dwords == 8:
        return by_column.astype(dtype).astype(np.int64)
    if fmt == BFormat.MXFP6:
        return numerics.unpack_fp6(by_column).astype(np.int64)
    nibbles = np.concatenate([by_column & 15, by_column >> 4], axis=1).astype(np.int64)
    if fmt == BFormat.MXFP4:
        return np.asarray(numerics.FP4_CODES, np.int64)[nibbles]
    if fmt == BFormat.INT4:
        return (nibbles ^ 8) - 8
    return nibbles - 8 if fmt == BFormat.Q4_0 else nibbles


_FRACTION_BITS = {BFormat.MX8: 6, BFormat.MXFP6: 3, BFormat.MXFP4: 1}
_B_FORMATS, _REDUCES, _STORES, _DEQS = (
    frozenset(int(one) for one in modes) for modes in (BFormat, Reduce, Store, Deq)
)
"""Legal numbers of each mode field."""


def _b_scales(
    core: Core, o: Ints, c: Ints, fmt: BFormat, block: int, j: int, slices: int
) -> tuple[F32, F32]:
    """FP32 scale and offset [1, n] of one block of B."""
    n, pitch, none = o[6], c[3], np.zeros((1, o[6]), np.float32)
    if not B_SCALE_BYTES[fmt]:
        return none + np.float32(2.0 ** (-8 * j)), none
    at = o[3] + block * c[5] + slices * 4 * B_DWORDS[fmt] * pitch
    if B_SCALE_BYTES[fmt] == 1:
        codes = core.near(at + c[4], 1, n, n)
        return from_e8m0(codes, shift=_FRACTION_BITS[fmt] + 8 * j), none
    at += 2 * c[4]
    half = core.near(at, 1, n, 2 * n, np.float16).astype(np.float32)
    if fmt != BFormat.Q4_1:
        return half, none
    return half, core.near(at + 2 * pitch, 1, n, 2 * n, np.float16).astype(np.float32)


def matmul(core: Core, o: Ints, c: Ints) -> None:
    """acc[row0 + r, col] (+)= sum over blocks ascending, slice pairs in the order of `passes`."""
    acc_row, _, _, _, m, blocks, n, mode = o
    fmt, si, sj = matmul_format(mode)
    check_zero_points(mode, c)
    accumulate, integer = bool(mode & 256), bool(mode & 512)
    columns = core.chip.columns
    if n > columns or m < 0 or acc_row < 0 or acc_row + m > core.chip.accumulator_rows:
        raise Fault(5, f"{m} rows at {acc_row}, {n} columns")
    if m <= 0 or n <= 0:
        return
    at = ACCUMULATOR_BASE + 4 * acc_row * columns
    if integer:
        _int_matmul(core, o, c, fmt, core.tile(at, m, n, 4 * columns, np.int32), accumulate)
        return
    out = core.tile(at, m, n, 4 * columns)
    acc = out.copy() if accumulate else np.zeros((m, n), np.float32)
    scaled = fmt in _FRACTION_BITS or B_SCALE_BYTES[fmt] > 0 or fmt == BFormat.ROWS
    for block in range(blocks):
        for i, j in passes(si, sj):
            a, sa = _a_block(core, o, c, block, i, scaled)
            sb, offset = _b_scales(core, o, c, fmt, block, j, sj)
            dot = (a @ _b_codes(core, o, c, fmt, block, j).T).astype(np.float32)
            term = dot * (sa * sb)
            if fmt == BFormat.Q4_1:
                term = term + a.sum(1, keepdims=True).astype(np.float32) * (sa * offset)
            acc = acc + term
    out[...] = canonical(acc)


def matmul_format(mode: int) -> tuple[BFormat, int, int]:
    """B format and slice counts of a `mode` slot; an illegal one is a shape fault."""
    fmt, si, sj = mode & 15, mode >> 4 & 3, mode >> 6 & 3
    multi = fmt in (BFormat.MX8, BFormat.ROWS)
    if fmt not in _B_FORMATS or not si or not sj or (sj > 1 and not multi) or mode >> 10:
        raise Fault(5, f"matmul mode {mode:#x}")
    if mode & 512 and (fmt not in (BFormat.INT8, BFormat.UINT8, BFormat.INT4) or si > 1):
        raise Fault(5, f"matmul mode {mode:#x}: INT32 needs integer operands")
    return BFormat(fmt), si, sj


def check_zero_points(mode: int, c: Ints) -> None:
    """INT32: a code less its zero point must be an operand of 9 bits; else a shape fault."""
    if not mode & 512:
        return
    low, high = (0, 255) if mode & 15 == BFormat.UINT8 else (-128, 127)
    if not (0 <= c[6] <= 256 and low <= c[7] <= high):
        raise Fault(5, f"zero points {c[6]} - 1 and {c[7]}")


def _int_matmul(core: Core, o: Ints, c: Ints, fmt: BFormat, out: Array, accumulate: bool) -> None:
    """Plain integers, INT32 sums that wrap. c6 > 0: A is UINT8 with zero point c6 - 1; c7: B's."""
    total = out.astype(np.int64) if accumulate else np.zeros(out.shape, np.int64)
    for block in range(o[5]):
        dtype = np.uint8 if c[6] else np.int8
        a = core.near(o[1] + 32 * block, o[4], 32, c[0], dtype).astype(np.int64)
        a = a - (c[6] - 1) if c[6] else a
        total += a @ (_b_codes(core, o, c, fmt, block, 0) - c[7]).T
    out[...] = (total & 0xFFFF_FFFF).astype(np.uint32).view(np.int32)


# ------------------------------------------------------------------------------------------- VECTOR


def _binary(op: int, t: F32, x: F32) -> F32:
    if op == Op.ADD:
        return t + x
    if op == Op.SUB:
        return t - x
    if op == Op.RSUB:
        return x - t
    if op == Op.MUL:
        return t * x
    if op == Op.MAX:
        return numerics.f32_max(t, x)
    if op == Op.MIN:
        return -numerics.f32_max(-t, -x)
    return np.where(t > x, np.float32(1), np.float32(0)) if op == Op.GT else t


def _unary(func: int, t: F32) -> F32:
    table = {
        Func.EXP2: numerics.exp2,
        Func.LOG2: numerics.log2,
        Func.RECIP: numerics.reciprocal,
        Func.RSQRT: numerics.rsqrt,
        Func.SIN: numerics.sin_turns,
        Func.COS: numerics.cos_turns,
        Func.ABS: np.abs,
        Func.NEG: np.negative,
    }
    if func not in table and func != Func.ID:
        raise Fault(5, f"function {func}")
    return t if func == Func.ID else table[Func(func)](np.ascontiguousarray(t, np.float32))


def masked(a: F32, c: Ints) -> F32:
    """-inf outside a row's span: limit-window <= column < limit, limit = c4 + row % c5."""
    rows, cols = a.shape
    limit = c[4] + np.arange(rows, dtype=np.int64)[:, None] % max(c[5], 1)
    column = np.arange(cols, dtype=np.int64)[None, :]
    keep = (column < limit) & ((c[6] <= 0) | (column >= limit - c[6]))
    return np.where(keep, a, np.float32(-np.inf)).astype(np.float32)


def vew(core: Core, o: Ints, c: Ints) -> None:
    """dst = func((a op1 b) op2 c), each stage rounded to FP32."""
    dst, a, b, third, rows, cols, fn, kinds = o
    t = core.tile(a, rows, cols, c[1])
    if rows <= 0 or cols <= 0:
        return
    t = masked(t, c) if kinds & 16 else t
    if fn & 7:
        t = _binary(fn & 7, t, core.operand(kinds & 3, b, rows, cols, c[2]))
    if fn >> 3 & 7:
        x = core.operand(kinds >> 2 & 3, third, rows, cols, c[3])
        t = _binary(fn >> 3 & 7, canonical(t), x)
    core.tile(dst, rows, cols, c[0])[...] = canonical(_unary(fn >> 6, canonical(t)))


def vred(core: Core, o: Ints, c: Ints) -> None:
    """dst[r] = reduction of row r by the fixed tree of `numerics.reduce`."""
    dst, a, rows, cols, op, mask = o[:6]
    if op not in _REDUCES:
        raise Fault(5, f"reduction {op}")
    t = core.tile(a, rows, cols, c[1])
    if rows <= 0 or cols <= 0:
        return
    t = masked(t, c) if mask else t
    t = t * t if op == Reduce.SUMSQ else t
    result = numerics.tree_max(t) if op == Reduce.MAX else numerics.tree_sum(t)
    core.tile(dst, rows, 1, c[0])[...] = canonical(result)[:, None]


def vquant(core: Core, o: Ints, c: Ints) -> None:
    """Convert a (times b) to a storage format; planes at dst + j*c4, one scale byte a block."""
    dst, dst_scale, a, b, rows, cols, mode = o[:7]
    target, wide = mode & 7, bool(mode & 8)
    if target not in _STORES or (target <= Store.MX3 and not wide and cols % 32):
        raise Fault(5, f"vquant mode {mode:#x}, {cols} columns")
    x = core.tile(a, rows, cols, c[1])
    if rows <= 0 or cols <= 0:
        return
    x = canonical(x * core.operand(mode >> 5 & 3, b, rows, cols, c[2])) if mode & 16 else x
    if target == Store.F16:
        core.tile(dst, rows, cols, c[0], np.uint16)[...] = numerics.f32_to_f16_bits(x)
    elif target == Store.BF16:
        core.tile(dst, rows, cols, c[0], np.uint16)[...] = numerics.f32_to_bf16_bits(x)
    elif target == Store.INT8:
        core.tile(dst, rows, cols, c[0], np.int8)[...] = numerics.f32_to_int8(x)
    else:
        codes, scales = numerics.mx_slices(x, slices=target, block=cols if wide else 32)
        places = [core.tile(dst_scale, rows, scales.shape[1], c[3], np.uint8)]
        places += [core.tile(dst + j * c[4], rows, cols, c[0], np.uint8) for j in range(target)]
        for place, part in zip(places, (scales, *codes), strict=True):  # after the last check
            place[...] = part.view(np.uint8)


def vdeq(core: Core, o: Ints, c: Ints) -> None:
    """dst = FP32 of rows in a storage format; codes at src (planes c4 apart), scales beside."""
    dst, src, _, rows, cols, fmt = o[:6]
    if fmt not in _DEQS or (Deq.MX1 <= fmt <= Deq.Q4_1 and cols % 32):
        raise Fault(5, f"vdeq format {fmt}, {cols} columns")
    if rows <= 0 or cols <= 0:
        return
    out = core.tile(dst, rows, cols, c[0])
    if fmt in (Deq.F16, Deq.BF16):
        raw = core.tile(src, rows, cols, c[1], np.uint16)
        out[...] = canonical(
            raw.view(np.float16).astype(np.float32)
            if fmt == Deq.F16
            else (raw.astype(np.uint32) << 16).view(np.float32)
        )
    elif fmt in (Deq.INT32, Deq.INT8):
        dtype = np.int32 if fmt == Deq.INT32 else np.int8
        out[...] = core.tile(src, rows, cols, c[1], dtype).astype(np.float32)
    else:
        out[...] = canonical(_dequantise(core, o, c, Deq(fmt)))


def _dequantise(core: Core, o: Ints, c: Ints, fmt: Deq) -> F32:
    """Rows of blocks: code times scale (plus offset), each step rounded to FP32."""
    _, src, src_scale, rows, cols = o[:5]
    blocks = cols // 32
    if fmt in (Deq.Q4_0, Deq.Q4_1):
        packed = core.tile(src, rows, cols // 2, c[1], np.uint8).reshape(rows, blocks, 16)
        codes = np.concatenate([packed & 15, packed >> 4], axis=2).astype(np.float32)
        codes = codes - np.float32(8) if fmt == Deq.Q4_0 else codes
    elif fmt == Deq.Q8_0:
        codes = core.tile(src, rows, cols, c[1], np.int8).reshape(rows, blocks, 32)
        codes = codes.astype(np.float32)
    else:
        return _dequantise_mx(core, o, c, int(fmt - Deq.MX1) + 1)
    scale = core.tile(src_scale, rows, blocks, c[2], np.float16).astype(np.float32)[:, :, None]
    value = codes * scale
    if fmt == Deq.Q4_1:
        at = src_scale + 2 * blocks
        value = value + core.tile(at, rows, blocks, c[2], np.float16).astype(np.float32)[:, :, None]
    return value.reshape(rows, cols)


def _dequantise_mx(core: Core, o: Ints, c: Ints, slices: int) -> F32:
    """The slices joined to one integer, then one multiplication by the block's scale."""
    _, src, src_scale, rows, cols = o[:5]
    whole = core.tile(src, rows, cols, c[1], np.int8).astype(np.int64)
    for j in range(1, slices):
        whole = whole * 256 + core.tile(src + j * c[4], rows, cols, c[1], np.uint8)
    codes = core.tile(src_scale, rows, cols // 32, c[2], np.uint8)
    scale = from_e8m0(codes, shift=8 * slices - 2)
    return whole.astype(np.float32) * np.repeat(scale, 32, axis=1)
