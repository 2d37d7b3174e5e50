"""The e8m0 quantiser in Python integers on FP32 bit patterns: the meaning of `quantize.py`."""

from __future__ import annotations

from mellivora.numerics.formats import E8M0_NAN, Format
from mellivora.numerics.fp32 import decode, round_shift


def quantize_block(block: list[int], fmt: Format) -> tuple[list[int], int]:
    """32 FP32 patterns -> (32 integers q, scale E); value = q * 2^(E - 127 - fmt.shift).

    fmt: mxint8, x2, x3, mxfp6 or mxfp4. q is rounded to nearest even on the format's grid and
    clipped to +-fmt.integer_max. E = 255 and all q = 0 if the block holds a NaN or an infinity.
    """
    field = max((x >> 23) & 0xFF for x in block)
    if field == 255:
        return [0] * len(block), E8M0_NAN
    scale = max(field - fmt.emax, 0)
    return [_element(x, scale, fmt) for x in block], scale


def _element(x: int, scale: int, fmt: Format) -> int:
    m, e = decode(x)
    # |value| = |m| 2^e = |m| 2^(-down) units, a unit being 2^(scale - 127 - fmt.shift).
    down = scale - 127 - fmt.shift - e
    coarse = 0
    if fmt.emax:  # a float element: upper binades have a coarser grid
        top = abs(m).bit_length() - 1 - down  # floor(log2) in units
        coarse = min(max(top - fmt.frac_bits, 0), 2)
    q = round_shift(abs(m), down + coarse) << coarse
    q = min(q, fmt.integer_max)
    return -q if m < 0 else q


def slices_of(q: int, slices: int) -> list[int]:
    """Cut the two's complement integer q: slice 0 signed, the lower ones unsigned bytes."""
    return [q >> 8 * (slices - 1), *((q >> 8 * (slices - 1 - j)) & 255 for j in range(1, slices))]
