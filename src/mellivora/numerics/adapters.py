"""Conversions in the form the engines have them: slices as planes, packed codes, INT8."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mellivora.numerics.block import AnyArray
from mellivora.numerics.formats import BLOCK, format_of
from mellivora.numerics.quantize import e8m0_blocks

FP4_CODES: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""E2M1 times 2, by its four bits."""

_FP6_SIZES = [m if e == 0 else (8 + m) << (e - 1) for e in range(4) for m in range(8)]
FP6_CODES: tuple[int, ...] = (*_FP6_SIZES, *(-size for size in _FP6_SIZES))
"""E2M3 times 8, by its six bits."""


def unpack_fp6(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """E2M3 codes, four in three bytes, low bits first: uint8 [..., 3 q] -> int8 [..., 4 q]."""
    parts = packed.reshape(*packed.shape[:-1], -1, 3).astype(np.uint32)
    word = parts[..., 0] | parts[..., 1] << 8 | parts[..., 2] << 16
    bits = word[..., None] >> np.array([0, 6, 12, 18], np.uint32) & 63
    return np.array(FP6_CODES, np.int8)[bits].reshape(*packed.shape[:-1], -1)


def pack_fp6(integers: AnyArray) -> npt.NDArray[np.uint8]:
    """The way back: integers of FP6_CODES [..., 4 q] -> uint8 [..., 3 q]."""
    bits_of = np.zeros(256, np.uint32)
    bits_of[np.array(FP6_CODES[::-1], np.int8).view(np.uint8)] = np.arange(63, -1, -1)
    bits = bits_of[np.asarray(integers).astype(np.int8).view(np.uint8)]
    bits = bits.reshape(*bits.shape[:-1], -1, 4)
    word = bits[..., 0] | bits[..., 1] << 6 | bits[..., 2] << 12 | bits[..., 3] << 18
    three = np.stack([word, word >> 8, word >> 16], axis=-1) & 255
    return three.astype(np.uint8).reshape(*bits.shape[:-2], -1)


def fp4_nibbles(integers: AnyArray) -> npt.NDArray[np.uint8]:
    """Integers of FP4_CODES to their four bits, uint8 of the same shape; 0 gives +0."""
    bits_of = np.zeros(256, np.uint8)
    bits_of[np.array(FP4_CODES[::-1], np.int8).view(np.uint8)] = np.arange(15, -1, -1)
    return bits_of[np.asarray(integers).astype(np.int8).view(np.uint8)]


def f32_to_int8(x: AnyArray) -> npt.NDArray[np.int8]:
    """To the nearest, ties to even, clipped to -128..127; NaN gives 0."""
    x = np.asarray(x, np.float32)
    clean = np.where(np.isnan(x), np.float32(0), x)
    return np.clip(np.rint(clean), -128, 127).astype(np.int8)


def mx_slices(
    x: AnyArray, *, slices: int, block: int = BLOCK
) -> tuple[list[AnyArray], npt.NDArray[np.uint8]]:
    """The activation quantiser, by planes.

    x: float32 [rows, cols], cols a multiple of block (any width; 32 gives mxint8, x2, x3).
    Gives codes, one [rows, cols] a slice (int8, then uint8), and scales uint8 [rows, cols / block].
    """
    rows, cols = x.shape
    spec = format_of(("mxint8", "x2", "x3")[slices - 1])
    blocks = np.ascontiguousarray(x, np.float32).reshape(-1, block)
    with np.errstate(all="ignore"):
        q, scales = e8m0_blocks(blocks, spec)
    q = q.reshape(rows, cols)
    # astype keeps the low eight bits.
    codes: list[AnyArray] = [(q >> 8 * (slices - 1)).astype(np.int8)]
    codes += [(q >> 8 * (slices - 1 - j)).astype(np.uint8) for j in range(1, slices)]
    return codes, scales.reshape(rows, -1)
