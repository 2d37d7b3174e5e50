"""Row reductions by one fixed tree, so that a sum is a definition and not an accident.

    1. The row is padded to a multiple of 32 with the identity (-0 for sums, -infinity for max).
    2. Chunks of 32:  y[i] = x[i] op x[i + 16], i < 16;  then strides 8, 4, 2, 1.
    3. Chunk results: padded with the identity to a power of two, then neighbours in pairs:
       (c0 op c1) op (c2 op c3) ...

-0 is the identity of FP32 addition (x + -0 = x even for x = -0), so padding never changes a bit;
an empty row gives the identity. Every op is an FP32 one of `fp32.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mellivora.numerics import fp32
from mellivora.numerics.block import F32, AnyArray

CHUNK = 32


def tree_bits(row: list[int], op: Callable[[int, int], int], identity: int) -> int:
    """The meaning: reduce a list of FP32 patterns with `op` on patterns."""
    row = row + [identity] * (-len(row) % CHUNK)
    chunks: list[int] = []
    for start in range(0, len(row), CHUNK):
        y = row[start : start + CHUNK]
        while len(y) > 1:
            half = len(y) // 2
            y = [op(y[i], y[i + half]) for i in range(half)]
        chunks.append(y[0])
    while len(chunks) > 1 or not chunks:
        if not chunks or len(chunks) & (len(chunks) - 1):
            chunks.append(identity)
            continue
        chunks = [op(chunks[i], chunks[i + 1]) for i in range(0, len(chunks), 2)]
    return chunks[0]


def _tree(x: AnyArray, op: Callable[[F32, F32], F32], identity: np.float32) -> F32:
    x = np.asarray(x, np.float32)
    lead, cols = x.shape[:-1], x.shape[-1]
    count = max(1, -(-cols // CHUNK))
    padded = 1 << (count - 1).bit_length()
    y = np.full((*lead, padded * CHUNK), identity, np.float32)
    y[..., :cols] = x
    y = y.reshape(*lead, padded, CHUNK)
    while (half := y.shape[-1] // 2) > 0:
        y = op(y[..., :half], y[..., half:])
    y = y[..., 0]
    while y.shape[-1] > 1:
        y = op(y[..., 0::2], y[..., 1::2])
    return fp32.canonical(y[..., 0])


def tree_sum(x: AnyArray) -> F32:
    """Sum over the last axis: [..., cols] -> [...], float32."""
    with np.errstate(all="ignore"):  # NaN made canonical at the end is the same as at every step
        return _tree(x, np.add, fp32.NEGATIVE_ZERO)


def tree_max(x: AnyArray) -> F32:
    """Maximum over the last axis: [..., cols] -> [...], float32; NaN if there is one."""
    return _tree(x, fp32.maximum, np.float32(-np.inf))


def tree_sumsq(x: AnyArray) -> F32:
    """Sum of fl32(x * x) over the last axis: [..., cols] -> [...], float32."""
    return tree_sum(fp32.mul(x, x))
