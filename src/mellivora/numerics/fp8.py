"""FP32 to and from the 8-bit floats E4M3 (OCP: no infinity, 448 largest) and E5M2 (IEEE-like).

Rounding is to nearest even with subnormals. A finite value that rounds beyond the largest one
saturates, because one NaN or infinity would spoil a whole row; see the table in `formats.py` for
what others do. NaN is 0x7F; an infinity stays one in E5M2 and becomes NaN in E4M3.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from mellivora.numerics.block import CANONICAL_NAN, F32, AnyArray

Fp8 = Literal["e4m3", "e5m2"]

# fraction bits, exponent bias, pattern of the largest finite value
_LAYOUT: dict[Fp8, tuple[int, int, int]] = {"e4m3": (3, 7, 0x7E), "e5m2": (2, 15, 0x7B)}


@np.errstate(all="ignore")
def to_fp8(x: AnyArray, fmt: Fp8) -> npt.NDArray[np.uint8]:
    """float32 of any shape -> uint8 patterns."""
    fraction, bias, largest = _LAYOUT[fmt]
    x = np.asarray(x, np.float32)
    size = np.where(np.isfinite(x), np.abs(x), np.float32(0)).astype(np.float64)
    # In units of the last place of its binade (of the lowest binade, if subnormal).
    exponent = np.where(size == 0, 1 - bias, np.maximum(np.frexp(size)[1] - 1, 1 - bias))
    units = np.rint(np.ldexp(size, fraction - exponent)).astype(np.int64)
    bits = np.minimum(((exponent + bias - 1) << fraction) + units, largest)
    if fmt == "e5m2":
        bits = np.where(np.isinf(x), 0x7C, bits)
    else:
        bits = np.where(np.isinf(x), 0x7F, bits)
    bits = np.where(np.signbit(x) & (bits != 0x7F), bits | 0x80, bits)
    return np.where(np.isnan(x), 0x7F, bits).astype(np.uint8)


@np.errstate(all="ignore")
def from_fp8(bits: AnyArray, fmt: Fp8) -> F32:
    """uint8 patterns of any shape -> float32, exact; every NaN becomes the canonical one."""
    fraction, bias, largest = _LAYOUT[fmt]
    code = np.asarray(bits, np.uint8).astype(np.int32)
    size, field = code & 0x7F, (code & 0x7F) >> fraction
    m = (size & ((1 << fraction) - 1)) | (np.minimum(field, 1) << fraction)
    value = np.ldexp(m.astype(np.float32), np.maximum(field, 1) - bias - fraction)
    value = np.where(size <= largest, value, CANONICAL_NAN)
    if fmt == "e5m2":
        value = np.where(size == 0x7C, np.float32(np.inf), value)
    negative = (code >= 0x80) & ~np.isnan(value)
    return np.where(negative, -value, value).astype(np.float32)
