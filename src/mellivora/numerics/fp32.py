"""FP32 on the chip: IEEE-754 binary32, nearest-even, subnormals kept, one NaN, no fused operations.

Two faces of each operation. The scalar ones (`*_bits`) take and give bit patterns and compute in
Python integers: they are the meaning. The array ones are NumPy's float32 operations with NaN
results made canonical: they are the fast form, proven equal by tests.

    NaN: every operation that gives a NaN gives 0x7FC00000 (f16: 0x7E00, bf16: 0x7FC0).
    max: NaN if either operand is NaN, else a if a > b else b; so of two zeros the second.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mellivora.numerics.block import CANONICAL_NAN, F32, AnyArray

NAN_BITS = 0x7FC00000
INF_BITS = 0x7F800000
SIGN_BIT = 0x80000000
NEGATIVE_ZERO = np.float32(-0.0)  # the identity of addition: x + -0 = x, for x = +0 too


# ---------------------------------------------------------------- meaning: integers on bit patterns


def is_nan_bits(a: int) -> bool:
    return (a & 0x7FFFFFFF) > INF_BITS


def decode(a: int) -> tuple[int, int]:
    """Finite pattern -> (m, e) with value m * 2^e, m signed."""
    field, fraction = (a >> 23) & 0xFF, a & 0x7FFFFF
    m, e = (fraction, -149) if field == 0 else (fraction | 0x800000, field - 150)
    return (-m if a & SIGN_BIT else m), e


def round_shift(m: int, shift: int) -> int:
    """m / 2^shift to the nearest integer, ties to even, for m >= 0 (shift may be negative)."""
    if shift <= 0:
        return m << -shift
    half = 1 << (shift - 1)
    return (m + half - 1 + ((m >> shift) & 1)) >> shift


def encode(m: int, e: int, *, negative: bool, fraction: int = 23, width: int = 8) -> int:
    """m * 2^e (m >= 0) rounded to a binary float of the given fraction and exponent widths."""
    bias = (1 << (width - 1)) - 1
    infinity = ((1 << width) - 1) << fraction
    lowest = 1 - bias - fraction  # exponent of the last bit of a subnormal
    last = max(e + m.bit_length() - 1 - fraction, lowest) if m else lowest
    rounded = round_shift(m, last - e) if m else 0
    # A rounded significand of 2^(fraction + 1) carries into the exponent field by itself.
    bits = ((last - lowest) << fraction) + rounded
    return min(bits, infinity) | (int(negative) << (fraction + width))


def add_bits(a: int, b: int) -> int:
    """a + b on patterns."""
    if is_nan_bits(a) or is_nan_bits(b):
        return NAN_BITS
    a_infinite, b_infinite = a & 0x7FFFFFFF == INF_BITS, b & 0x7FFFFFFF == INF_BITS
    if a_infinite or b_infinite:
        return NAN_BITS if a_infinite and b_infinite and a != b else a if a_infinite else b
    (ma, ea), (mb, eb) = decode(a), decode(b)
    e = min(ea, eb)
    total = (ma << (ea - e)) + (mb << (eb - e))
    if total == 0:  # an exact zero is +0, unless both operands are -0
        return a & b & SIGN_BIT
    return encode(abs(total), e, negative=total < 0)


def mul_bits(a: int, b: int) -> int:
    """a * b on patterns."""
    if is_nan_bits(a) or is_nan_bits(b):
        return NAN_BITS
    sign = (a ^ b) & SIGN_BIT
    if INF_BITS in (a & 0x7FFFFFFF, b & 0x7FFFFFFF):
        return NAN_BITS if 0 in (a & 0x7FFFFFFF, b & 0x7FFFFFFF) else INF_BITS | sign
    (ma, ea), (mb, eb) = decode(a), decode(b)
    return encode(abs(ma * mb), ea + eb, negative=sign != 0)


def _order(a: int) -> int:
    """Patterns of numbers in numeric order; -0 equals +0."""
    return -(a & 0x7FFFFFFF) if a & SIGN_BIT else a


def max_bits(a: int, b: int) -> int:
    """max(a, b) on patterns."""
    if is_nan_bits(a) or is_nan_bits(b):
        return NAN_BITS
    return a if _order(a) > _order(b) else b


def from_int_bits(i: int) -> int:
    """int -> FP32."""
    return encode(abs(i), 0, negative=i < 0)


def to_f16_bits(a: int) -> int:
    """FP32 -> binary16 (overflow gives an infinity)."""
    return _narrow(a, fraction=10, width=5, nan=0x7E00)


def to_bf16_bits(a: int) -> int:
    """FP32 -> bfloat16 (overflow gives an infinity)."""
    return _narrow(a, fraction=7, width=8, nan=0x7FC0)


def _narrow(a: int, *, fraction: int, width: int, nan: int) -> int:
    if is_nan_bits(a):
        return nan
    sign = bool(a & SIGN_BIT)
    if a & 0x7FFFFFFF == INF_BITS:
        return ((1 << width) - 1) << fraction | int(sign) << (fraction + width)
    m, e = decode(a)
    return encode(abs(m), e, negative=sign, fraction=fraction, width=width)


# ---------------------------------------------------------------- fast form: NumPy

_quiet = np.errstate(all="ignore")  # overflow, underflow and NaN have a defined result here


@_quiet
def canonical(x: AnyArray) -> F32:
    """x as float32 with every NaN replaced by 0x7FC00000 (a new array only if there is one)."""
    x = np.asarray(x, dtype=np.float32)
    nan = np.isnan(x)
    return np.where(nan, CANONICAL_NAN, x) if nan.any() else x


@_quiet
def add(a: npt.ArrayLike, b: npt.ArrayLike) -> F32:
    """fl32(a + b), element by element."""
    return canonical(np.add(a, b, dtype=np.float32))


@_quiet
def sub(a: npt.ArrayLike, b: npt.ArrayLike) -> F32:
    """fl32(a - b), element by element."""
    return canonical(np.subtract(a, b, dtype=np.float32))


@_quiet
def mul(a: npt.ArrayLike, b: npt.ArrayLike) -> F32:
    """fl32(a * b), element by element."""
    return canonical(np.multiply(a, b, dtype=np.float32))


@_quiet
def maximum(a: npt.ArrayLike, b: npt.ArrayLike) -> F32:
    """NaN if either is NaN, else a where a > b, else b."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return np.where(np.isnan(a) | np.isnan(b), CANONICAL_NAN, np.where(a > b, a, b))


@_quiet
def minimum(a: npt.ArrayLike, b: npt.ArrayLike) -> F32:
    """NaN if either is NaN, else a where a < b, else b."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return np.where(np.isnan(a) | np.isnan(b), CANONICAL_NAN, np.where(a < b, a, b))


def from_int(i: AnyArray) -> F32:
    """int32 or int64 -> FP32, one rounding."""
    return np.asarray(i).astype(np.float32)


@_quiet
def to_f16(x: AnyArray) -> npt.NDArray[np.uint16]:
    """FP32 -> binary16 patterns; overflow gives an infinity."""
    x = np.asarray(x, np.float32)
    bits = x.astype(np.float16).view(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7E00), bits)


@_quiet
def to_bf16(x: AnyArray) -> npt.NDArray[np.uint16]:
    """FP32 -> bfloat16 patterns; overflow gives an infinity."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded.astype(np.uint16))


@_quiet
def from_f16(bits: AnyArray) -> F32:
    """binary16 patterns -> FP32, exact."""
    return canonical(np.asarray(bits, np.uint16).view(np.float16).astype(np.float32))


@_quiet
def from_bf16(bits: AnyArray) -> F32:
    """bfloat16 patterns -> FP32, exact."""
    return canonical(
        (np.asarray(bits, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    )
