"""What MATRIX computes: block-scaled products with one defined order of every rounding.

For each block of 32 in ascending k, for each pass (i, j) of slices in the order of `passes`:

    dot  = sum over the block of a_i[c] * b_j[c]                 exact integer
    s    = fl(sa * sb)                                           block scales, each exact in FP32
    acc  = fl(acc + fl(float(dot) * s))                          float(dot) rounds once

If b has minima (q4_1; value d * code + m), one pass adds both parts before the accumulator:

    term = fl(fl(float(dot) * fl(sa * d)) + fl(float(sum of a's codes) * fl(sa * m)))
    acc  = fl(acc + term)

Passes with i + j >= max(slices) are left out: they weigh less than the last slice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mellivora.errors import IsaError
from mellivora.numerics import fp32
from mellivora.numerics.block import F32, AnyArray, BlockTensor
from mellivora.numerics.formats import BLOCK

INT32 = npt.NDArray[np.int32]


def passes(a_slices: int, b_slices: int) -> list[tuple[int, int]]:
    """Passes (i, j) over slices, in order of weight: 1 for 1x1, 2 for 2x1, 4 for 2x2, 8 for 3x3.

    Lower slices are unsigned bytes, so a product of two of them has a positive mean: leaving out
    the first order that could be dropped (i + j = slices) would bias every sum (2x2: rms 0.099
    against 0.001 on a K = 512 normal product). It is kept where both sides are sliced; what is
    dropped is 2^-16 of that again.
    """
    limit = max(a_slices, b_slices) + (a_slices > 1 and b_slices > 1)
    pairs = [(i, j) for i in range(a_slices) for j in range(b_slices) if i + j < limit]
    return sorted(pairs, key=lambda p: (p[0] + p[1], p[0]))


def block_matmul(a: BlockTensor, b: BlockTensor, *, acc: AnyArray | None = None) -> F32:
    """a [m, k] times b [n, k] transposed, plus acc: float32 [m, n].

    a: an e8m0 format or q8_0, q4_0 (activations: mxint8, x2, x3).  b: also q4_1.
    acc: float32 [m, n] to start from; zeros (+0) if None.
    Raises IsaError MV0689 (shapes differ), MV0690 (a row-scaled format, or offsets on a).
    """
    _same_k(a, b)
    for side, tensor in (("a", a), ("b", b)):
        if tensor.format.is_row_scaled or (side == "a" and tensor.offsets is not None):
            raise IsaError(
                "MV0690",
                "format cannot be this operand of a block matmul",
                where=f"operand {side}",
                given=tensor.fmt,
                allowed="mxint8 x2 x3 mxfp6 mxfp4 q8_0 q4_0 (b: also q4_1)",
                hint="Use int_matmul for int8, uint8, int4.",
            )
    (m, k), n = a.shape, b.shape[0]
    out = np.zeros((m, n), np.float32) if acc is None else np.array(acc, np.float32)
    order = passes(a.slices, b.slices)
    # Codes as float32: a product is below 2^16 and a sum of 32 below 2^21, so BLAS is exact.
    a_codes = [_by_block(a.slice_codes(i)) for i in range(a.slices)]  # [k/32, m, 32]
    b_codes = [_by_block(b.slice_codes(j)) for j in range(b.slices)]  # [k/32, n, 32]
    a_scales = [a.slice_scales(i) for i in range(a.slices)]  # [m, k/32]
    b_scales = [b.slice_scales(j) for j in range(b.slices)]  # [n, k/32]
    minima = None if b.offsets is None else b.offsets.astype(np.float32)  # [n, k/32]
    with np.errstate(all="ignore"):
        for block in range(k // BLOCK):
            for i, j in order:
                dot = a_codes[i][block] @ b_codes[j][block].T  # [m, n]
                dot += np.float32(0)  # float(0) is +0; BLAS may leave -0
                sa = a_scales[i][:, block, None]
                term = dot * (sa * b_scales[j][None, :, block])
                if minima is not None:
                    total = a_codes[i][block].sum(axis=1, keepdims=True)
                    term = term + total * (sa * minima[None, :, block])
                out += term
    return fp32.canonical(out)


def int_matmul(
    a: BlockTensor, b: BlockTensor, *, acc: npt.NDArray[np.integer] | None = None
) -> INT32:
    """Plain integers, int8 uint8 int4: sum of (a - zero_a) (b - zero_b), int32 [m, n].

    Accumulation is modulo 2^32, as the INT32 accumulators do. Scales are not applied.
    Raises IsaError MV0689 (shapes differ), MV0690 (not a row-scaled format).
    """
    _same_k(a, b)
    for side, tensor in (("a", a), ("b", b)):
        if not tensor.format.is_row_scaled:
            raise IsaError(
                "MV0690",
                "format cannot be an operand of a plain integer matmul",
                where=f"operand {side}",
                given=tensor.fmt,
                allowed="int8 uint8 int4",
                hint="Use block_matmul for block formats.",
            )
    # |code - zero| <= 255, so a sum over k stays below 2^53 for k < 2^37: float64 is exact.
    dot = a.integers().astype(np.float64) @ b.integers().astype(np.float64).T
    total = dot.astype(np.int64)
    if acc is not None:
        total = total + acc
    return total.astype(np.uint32).view(np.int32)


def block_dot_bits(a: BlockTensor, b: BlockTensor, row: int, column: int, acc: int = 0) -> int:
    """The meaning of one output element, in Python integers on FP32 patterns."""
    a_codes = [a.slice_codes(i)[row].tolist() for i in range(a.slices)]
    b_codes = [b.slice_codes(j)[column].tolist() for j in range(b.slices)]
    a_scales = [a.slice_scales(i)[row].view(np.uint32).tolist() for i in range(a.slices)]
    b_scales = [b.slice_scales(j)[column].view(np.uint32).tolist() for j in range(b.slices)]
    minima: list[int] | None = None
    if b.offsets is not None:
        minima = b.offsets[column].astype(np.float32).view(np.uint32).tolist()
    mul, add = fp32.mul_bits, fp32.add_bits
    for block in range(a.shape[1] // BLOCK):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        for i, j in passes(a.slices, b.slices):
            left, right = a_codes[i][part], b_codes[j][part]
            dot = sum(x * y for x, y in zip(left, right, strict=True))
            sa = a_scales[i][block]
            term = mul(fp32.from_int_bits(dot), mul(sa, b_scales[j][block]))
            if minima is not None:
                total = fp32.from_int_bits(sum(left))
                term = add(term, mul(total, mul(sa, minima[block])))
            acc = add(acc, term)
    return acc


def _same_k(a: BlockTensor, b: BlockTensor) -> None:
    if a.shape[1] != b.shape[1]:
        raise IsaError(
            "MV0689",
            "operands of a matmul have different k",
            given=f"a {a.shape}, b {b.shape}",
            allowed="a [m, k], b [n, k]",
            hint="Weights are [out_features, in_features]; pad k on both sides.",
        )


def _by_block(codes: AnyArray) -> F32:
    rows, k = codes.shape
    return np.ascontiguousarray(
        codes.reshape(rows, k // BLOCK, BLOCK).transpose(1, 0, 2), dtype=np.float32
    )
