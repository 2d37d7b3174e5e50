"""The quantisers, vectorised: float32 [rows, k] -> BlockTensor.

`exact.py` is the meaning of the e8m0 ones in Python integers; this is the fast form. For q8_0, q4_0
and q4_1 the rule is ggml's reference, bit for bit, for every block whose scale is finite and
normal; ggml leaves the other blocks undefined, here they have a meaning: a block with a NaN or an
infinity (or a scale beyond FP32) gets d = NaN, a block too small for 1/d gets codes 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mellivora.numerics.block import CANONICAL_NAN, F32, AnyArray, BlockTensor, check_shape
from mellivora.numerics.formats import BLOCK, E8M0_NAN, Format, format_of

_CHUNK_ELEMENTS = 1 << 17  # temporaries of a chunk stay in the second-level cache


def quantize(x: npt.ArrayLike, fmt: str, *, per_tensor: bool = False) -> BlockTensor:
    """Quantise a matrix.

    x: [rows, k] of any floating dtype, taken as float32 (bf16 and f16 widen exactly).
    fmt: any block format; per_tensor: one scale for all rows (int8, uint8, int4 only).
    Rounding is to nearest, ties to even, clipped symmetrically (GGUF formats: ggml's rule).
    Raises IsaError MV0680 (unknown format), MV0681 (shape), MV0688 (a float format).
    """
    spec = format_of(fmt)
    array = np.ascontiguousarray(x, dtype=np.float32)
    check_shape(spec, array.shape)
    rows, k = array.shape
    if spec.is_float:  # let BlockTensor raise its own error
        return BlockTensor(fmt, (rows, k), array, array)
    with np.errstate(all="ignore"):
        if spec.is_row_scaled:
            return _row_scaled(array, spec, per_tensor=per_tensor)
        return _blocked(array, spec)


def _blocked(x: F32, spec: Format) -> BlockTensor:
    rows, k = x.shape
    blocks = x.reshape(-1, BLOCK)
    count = blocks.shape[0]
    codes = np.empty((spec.slices, count, BLOCK), np.int8 if spec.signed else np.uint8)
    scales = np.empty(count, np.uint8 if spec.scale == "e8m0" else np.float16)
    offsets = np.empty(count, np.float16) if spec.has_offset else None
    step = _CHUNK_ELEMENTS // BLOCK
    for start in range(0, count, step):
        part = slice(start, start + step)
        if spec.scale == "e8m0":
            q, scales[part] = e8m0_blocks(blocks[part], spec)
            for j in range(spec.slices):
                byte = q >> (8 * (spec.slices - 1 - j)) if j < spec.slices - 1 else q
                codes[j, part] = byte.astype(np.int8)  # keeps the low eight bits
        elif spec.name == "q8_0":
            codes[0, part], scales[part] = _q8_0(blocks[part])
        elif spec.name == "q4_0":
            codes[0, part], scales[part] = _q4_0(blocks[part])
        else:
            assert offsets is not None
            codes[0, part], scales[part], offsets[part] = _q4_1(blocks[part])
    return BlockTensor(
        spec.name,
        (rows, k),
        codes.reshape(spec.slices, rows, k),
        scales.reshape(rows, -1),
        None if offsets is None else offsets.reshape(rows, -1),
    )


# 2^n in two float32 factors, indexed by the scale E: the product alone would overflow for small E.
# Splitting cannot round an element twice: only a value that ends below 2^-60 gets there inexactly.
_E = np.arange(256, dtype=np.int32)


def _half_scales(shift: int) -> tuple[F32, F32]:
    exponent = 127 + shift - _E
    first = exponent >> 1
    return (
        np.ldexp(np.float32(1), first).astype(np.float32),
        np.ldexp(np.float32(1), exponent - first).astype(np.float32),
    )


def e8m0_blocks(blocks: F32, spec: Format) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Integers q, int32 [blocks, 32], and scales E, uint8 [blocks], of an e8m0 format."""
    magnitude = blocks.view(np.uint32) & np.uint32(0x7FFFFFFF)
    field = (magnitude.max(axis=1) >> np.uint32(23)).astype(np.int32)
    scale = np.where(field == 255, E8M0_NAN, np.maximum(field - spec.emax, 0))
    first, second = _half_scales(spec.shift)
    y = blocks * first[scale][:, None]
    y *= second[scale][:, None]
    if spec.emax:  # E2M3, E2M1: the grid is coarser by 2 and by 4 in the upper two binades
        lowest = np.float32(1 << (spec.frac_bits + 1))  # from here on codes are even
        size = np.abs(y)
        step = np.float32(1) + (size >= lowest) + np.float32(2) * (size >= 2 * lowest)
        y /= step
        np.rint(y, out=y)
        y *= step
    else:
        np.rint(y, out=y)
    limit = np.float32(spec.integer_max)
    np.clip(y, -limit, limit, out=y)
    if (scale == E8M0_NAN).any():
        y[scale == E8M0_NAN] = 0
    return y.astype(np.int32), scale.astype(np.uint8)


def _reciprocal_scale(d: F32) -> tuple[F32, F32]:
    """ggml's `id = d ? 1/d : 0`, with 0 also where d is not finite or 1/d overflows; d or NaN."""
    inverse = np.float32(1) / d
    inverse[~np.isfinite(inverse) | ~np.isfinite(d)] = 0
    return inverse, np.where(np.isfinite(d), d, CANONICAL_NAN)


def _zero_where_nan(blocks: F32, d: F32) -> F32:
    return np.where(np.isnan(d), np.float32(0), blocks) if np.isnan(d).any() else blocks


def _q8_0(blocks: F32) -> tuple[AnyArray, AnyArray]:
    inverse, d = _reciprocal_scale(np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127))
    y = _zero_where_nan(blocks, d) * inverse
    # roundf: half away from zero. floor(|y| + 0.5) would round 0.49999997 up.
    size = np.abs(y)
    whole = np.floor(size)
    whole += size - whole >= np.float32(0.5)
    return np.copysign(whole, y).astype(np.int8), d[:, 0].astype(np.float16)


def _q4_0(blocks: F32) -> tuple[AnyArray, AnyArray]:
    where = np.abs(blocks).argmax(axis=1)[:, None]
    inverse, d = _reciprocal_scale(np.take_along_axis(blocks, where, axis=1) / np.float32(-8))
    y = _zero_where_nan(blocks, d) * inverse + np.float32(8.5)
    return np.minimum(y.astype(np.int32), 15).astype(np.int8) - np.int8(8), d[:, 0].astype(
        np.float16
    )


def _q4_1(blocks: F32) -> tuple[AnyArray, AnyArray, AnyArray]:
    low = blocks.min(axis=1, keepdims=True)
    inverse, d = _reciprocal_scale((blocks.max(axis=1, keepdims=True) - low) / np.float32(15))
    low = np.where(np.isnan(d), CANONICAL_NAN, low)
    y = _zero_where_nan(blocks - low, d) * inverse + np.float32(0.5)
    codes = np.clip(y.astype(np.int32), 0, 15).astype(np.uint8)
    return codes, d[:, 0].astype(np.float16), low[:, 0].astype(np.float16)


def _row_scaled(x: F32, spec: Format, *, per_tensor: bool) -> BlockTensor:
    """int8, int4: scale = amax / code_max, symmetric. uint8: ONNX DynamicQuantizeLinear's rule."""
    rows, k = x.shape
    # `initial=0` also makes the range include 0, so that 0 has an exact code.
    high = x.max(axis=1, initial=0, keepdims=True)
    low = x.min(axis=1, initial=0, keepdims=True)
    if per_tensor and rows:
        high, low = np.full_like(high, high.max()), np.full_like(low, low.min())
    offsets = None
    if spec.signed:
        scale = np.maximum(high, -low) / np.float32(spec.code_max)
    else:
        scale = (high - low) / np.float32(spec.code_max)
    # A row whose scale is not finite has the scale NaN; one without any value has scale 0.
    bad, empty = ~np.isfinite(scale), scale == 0
    scale[bad] = CANONICAL_NAN
    y = np.where(bad | empty, np.float32(0), x / scale)
    limit = np.float32(spec.code_max)
    if spec.signed:
        codes = np.clip(np.rint(y), -limit, limit).astype(np.int8)
    else:
        zero = np.where(bad | empty, np.float32(0), np.rint(np.clip(-low / scale, 0, limit)))
        offsets = zero.astype(np.int32)
        codes = np.clip(np.rint(y) + zero, 0, limit).astype(np.uint8)
    return BlockTensor(spec.name, (rows, k), codes[None], scale.astype(np.float32), offsets)
