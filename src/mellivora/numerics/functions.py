"""Table functions of the VECTOR engine, FP32 -> FP32: exp2 log2 recip rsqrt sin_turns cos_turns.

Every one is integer arithmetic in stated widths: reduce the argument, look up a parabola by the top
7 bits, evaluate it at the D bits below,

    p2 = (c2 * (d >> (D - 15))) >> 15        17 x 15 bits      (shifts floor)
    p  = c0 + (((c1 + p2) * d) >> D)         25 x D bits,  D = 16 or 18

and round once, to nearest even. `*_bits` take and give bit patterns in Python integers: they are
the meaning. The array functions are the same in NumPy, proven equal by tests. Largest errors, ulp,
by exhaustive sweeps over all significands: exp2 0.71, log2 0.58, recip 0.78, rsqrt 0.62, sin_turns
0.60, cos_turns 0.72.

    exp2       -inf 0, +inf inf, overflow inf, subnormal results rounded once, integers exact
    log2       +-0 -inf, negative NaN, inf inf; relative accuracy near 1; powers of two exact
    recip      +-0 +-inf, +-inf +-0, subnormal results rounded once
    rsqrt      +0 inf, -0 -inf, negative NaN, inf 0
    sin_turns  sin(2 pi x), +-inf NaN; zeros have the sign of x; relative accuracy near them
    cos_turns  cos(2 pi x), +-inf NaN; zeros are +0
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mellivora.numerics.block import CANONICAL_NAN, F32, AnyArray
from mellivora.numerics.fp32 import INF_BITS, NAN_BITS, SIGN_BIT, decode, encode, is_nan_bits
from mellivora.numerics.fp32 import round_shift as _round_shift
from mellivora.numerics.function_tables import Table, cpp_tables, table

__all__ = ["cos_turns", "cpp_tables", "exp2", "log2", "recip", "rsqrt", "sin_turns"]

INT = npt.NDArray[np.int64]

_EXP2_BITS = 25  # fraction bits of exp2's reduced argument: 7 of index, 18 below
_TURN_BITS = 27  # fraction bits of a quarter turn: 2 zero, 7 of index, 18 below
_quiet = np.errstate(all="ignore")  # both sides of a `where` are computed, one of them in vain
_LOW18, _LOW16 = (1 << 18) - 1, (1 << 16) - 1


# ---------------------------------------------------------------- meaning: Python integers


def _parabola(t: Table, i: int, d: int, bits: int) -> int:
    p2 = (int(t.c2[i]) * (d >> (bits - 15))) >> 15
    return int(t.c0[i]) + (((int(t.c1[i]) + p2) * d) >> bits)


def _split(x: int) -> tuple[int, int]:
    """Positive finite pattern -> (24-bit significand with its leading one, exponent)."""
    m, e = decode(x & 0x7FFFFFFF)
    up = 24 - m.bit_length()
    return m << up, e - up + 23


def exp2_bits(x: int) -> int:
    """2^x on patterns."""
    if is_nan_bits(x):
        return NAN_BITS
    m, e = decode(x)
    if (x & 0x7FFFFFFF) >= 0x43480000:  # |x| >= 200, infinities too
        return 0 if x & SIGN_BIT else INF_BITS
    size = _round_shift(abs(m), -e)
    n = -size if m < 0 else size
    rest = m - (n << -e)  # exact, at most 1/2 in magnitude
    size = _round_shift(abs(rest), -e - _EXP2_BITS)
    fixed = (n << _EXP2_BITS) + (-size if rest < 0 else size)
    fraction = fixed & ((1 << _EXP2_BITS) - 1)
    p = _parabola(table("exp2"), fraction >> 18, fraction & _LOW18, 18)
    return encode(p, (fixed >> _EXP2_BITS) - 30, negative=False)


def recip_bits(x: int) -> int:
    """1 / x on patterns."""
    if is_nan_bits(x):
        return NAN_BITS
    sign, size = x & SIGN_BIT, x & 0x7FFFFFFF
    if size in (0, INF_BITS):
        return sign | (INF_BITS - size)
    m, e = _split(size)
    p = _parabola(table("recip"), (m >> 16) & 127, m & _LOW16, 16)
    return encode(p, -e - 30, negative=sign != 0)


def rsqrt_bits(x: int) -> int:
    """1 / sqrt(x) on patterns."""
    if x in (0, SIGN_BIT):
        return x | INF_BITS
    if is_nan_bits(x) or x & SIGN_BIT:
        return NAN_BITS
    if x == INF_BITS:
        return 0
    m, e = _split(x)
    p = _parabola(table("rsqrt"), (e & 1) << 7 | (m >> 16) & 127, m & _LOW16, 16)
    return encode(p, -(e >> 1) - 30, negative=False)


def log2_bits(x: int) -> int:
    """log2(x) on patterns."""
    if x in (0, SIGN_BIT):
        return SIGN_BIT | INF_BITS
    if is_nan_bits(x) or x & SIGN_BIT:
        return NAN_BITS
    if x == INF_BITS:
        return INF_BITS
    m, e = _split(x)
    g = _parabola(table("log2"), (m >> 16) & 127, m & _LOW16, 16)
    if m >> 22 == 3:  # significand from 3/2: halve it
        t, e = m - (1 << 24), e + 1
    else:
        t = (m - (1 << 23)) << 1
    total = (e << 54) + t * g  # t in 2^-24, g in 2^-30
    return encode(abs(total), -54, negative=total < 0)


def _sine_slope(fixed: int) -> int:
    """sin(2 pi b) / b in units of 2^-26, 29 bits; b = fixed * 2^-27 up to 1/4."""
    return (_parabola(table("sin"), fixed >> 18, fixed & _LOW18, 18) + 2) >> 2


def _turn(x: int) -> tuple[int, int]:
    """x less the nearest integer: (m, e), m signed, exact."""
    m, e = decode(x)
    if e >= 0:
        return 0, 0
    n = _round_shift(abs(m), -e) << -e
    return m - (-n if m < 0 else n), e


def sin_turns_bits(x: int) -> int:
    """sin(2 pi x) on patterns."""
    if (x & 0x7FFFFFFF) >= INF_BITS:
        return NAN_BITS
    r, e = _turn(x)
    b = abs(r)
    if e < 0 and 4 * b > 1 << -e:
        b = (1 << -e - 1) - b
    product = b * _sine_slope(_round_shift(b, -e - _TURN_BITS))
    return encode(product, e - 26, negative=bool(x & SIGN_BIT) if b == 0 else r < 0)


def cos_turns_bits(x: int) -> int:
    """cos(2 pi x) on patterns."""
    if (x & 0x7FFFFFFF) >= INF_BITS:
        return NAN_BITS
    r, e = _turn(x)
    # 1/4 - |r|. Rounding it to 27 bits costs little: where |r| is finer, the cosine is flat.
    q = (1 << _TURN_BITS - 2) - _round_shift(abs(r), -e - _TURN_BITS)
    return encode(abs(q) * _sine_slope(abs(q)), -_TURN_BITS - 26, negative=q < 0)


# ---------------------------------------------------------------- fast form: NumPy


def _parabolas(t: Table, i: INT, d: INT, bits: int) -> INT:
    p2 = (t.c2[i].astype(np.int64) * (d >> (bits - 15))) >> 15
    return t.c0[i] + (((t.c1[i] + p2) * d) >> bits)


def _pack(p: INT, biased: INT) -> F32:
    """p * 2^(biased - 157), p from 2^30 to 2^31, rounded once to FP32 (subnormals, infinity)."""
    shift = np.minimum(7 + np.maximum(1 - biased, 0), 40)
    rounded = (p + (np.int64(1) << (shift - 1)) - 1 + ((p >> shift) & 1)) >> shift
    bits = (np.maximum(biased - 1, 0) << 23) + rounded
    return np.minimum(bits, INF_BITS).astype(np.uint32).view(np.float32)


def _splits(x: F32) -> tuple[INT, INT]:
    """|x| -> (24-bit significand, exponent); for zeros and infinities anything."""
    small = np.abs(x) < np.float32(2.0**-126)
    bits = np.where(small, x * np.float32(2.0**24), x).view(np.uint32).astype(np.int64)
    return bits & 0x7FFFFF | 0x800000, ((bits >> 23) & 255) - 127 - 24 * small


@_quiet
def exp2(x: AnyArray) -> F32:
    """2^x, float32 of any shape."""
    x = np.asarray(x, np.float32)
    clipped = np.where(np.isnan(x), np.float32(0), np.clip(x, -200, 200))
    n = np.rint(clipped)
    rest = np.rint((clipped - n) * np.float32(2.0**_EXP2_BITS)).astype(np.int64)
    fixed = (n.astype(np.int64) << _EXP2_BITS) + rest
    fraction = fixed & ((1 << _EXP2_BITS) - 1)
    p = _parabolas(table("exp2"), fraction >> 18, fraction & _LOW18, 18)
    return np.where(np.isnan(x), CANONICAL_NAN, _pack(p, (fixed >> _EXP2_BITS) + 127))


@_quiet
def recip(x: AnyArray) -> F32:
    """1 / x, float32 of any shape."""
    x = np.asarray(x, np.float32)
    m, e = _splits(x)
    p = _parabolas(table("recip"), (m >> 16) & 127, m & _LOW16, 16)
    y = _pack(2 * p, 126 - e)
    y = np.where(x == 0, np.float32(np.inf), np.where(np.isinf(x), np.float32(0), y))
    return np.where(np.isnan(x), CANONICAL_NAN, np.copysign(y, x))


@_quiet
def rsqrt(x: AnyArray) -> F32:
    """1 / sqrt(x), float32 of any shape."""
    x = np.asarray(x, np.float32)
    m, e = _splits(x)
    p = _parabolas(table("rsqrt"), (e & 1) << 7 | (m >> 16) & 127, m & _LOW16, 16)
    y = _pack(2 * p, 126 - (e >> 1))
    y = np.where(np.isinf(x), np.float32(0), y)
    y = np.where(x == 0, np.copysign(np.float32(np.inf), x), y)
    return np.where(np.isnan(x) | (x < 0), CANONICAL_NAN, y)


@_quiet
def log2(x: AnyArray) -> F32:
    """log2(x), float32 of any shape."""
    x = np.asarray(x, np.float32)
    m, e = _splits(x)
    g = _parabolas(table("log2"), (m >> 16) & 127, m & _LOW16, 16)
    upper = m >> 22 == 3
    t = np.where(upper, m - (1 << 24), (m - (1 << 23)) << 1)
    total = ((e + upper) << 54) + t * g
    y = total.astype(np.float32) * np.float32(2.0**-54)
    y = np.where(x == 0, np.float32(-np.inf), np.where(np.isinf(x), x, y))
    return np.where(np.isnan(x) | (x < 0), CANONICAL_NAN, y)


def _sine_slopes(fixed: INT) -> INT:
    return (_parabolas(table("sin"), fixed >> 18, fixed & _LOW18, 18) + 2) >> 2


@_quiet
def sin_turns(x: AnyArray) -> F32:
    """sin(2 pi x), float32 of any shape."""
    x = np.asarray(x, np.float32)
    finite = np.where(np.isfinite(x), x, np.float32(0))
    r = finite - np.rint(finite)
    size = np.abs(r)
    b = np.where(size > np.float32(0.25), np.float32(0.5) - size, size)
    slope = _sine_slopes(np.rint(b * np.float32(2.0**_TURN_BITS)).astype(np.int64))
    # 24 x 29 bits: the product is exact in float64, so there is one rounding.
    y = (b.astype(np.float64) * slope.astype(np.float64) * 2.0**-26).astype(np.float32)
    y = np.copysign(y, np.where(b == 0, x, r))
    return np.where(np.isfinite(x), y, CANONICAL_NAN)


@_quiet
def cos_turns(x: AnyArray) -> F32:
    """cos(2 pi x), float32 of any shape."""
    x = np.asarray(x, np.float32)
    finite = np.where(np.isfinite(x), x, np.float32(0))
    size = np.abs(finite - np.rint(finite))
    q = (1 << _TURN_BITS - 2) - np.rint(size * np.float32(2.0**_TURN_BITS)).astype(np.int64)
    y = (q * _sine_slopes(np.abs(q))).astype(np.float32) * np.float32(2.0 ** (-_TURN_BITS - 26))
    return np.where(np.isfinite(x), y, CANONICAL_NAN)
