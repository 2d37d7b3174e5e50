"""Cosine and sine of FP32 angles on the host, the same bits on every host.

Rotary tables are made before a program starts. A math library's cosine differs in the last bit from
one CPU to the next; this one is float64 additions and multiplications alone, which IEEE 754 fixes,
and is rounded to FP32 once.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

# pi/2 in three parts (Cody and Waite): n times the first two is exact for |n| < 2^20.
_HALF_PI = (1.5707963267341256e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21)
_TERMS = 9
"""Terms of either series: on [-pi/4, pi/4] the first one left out is below 2^-56."""


def cos_sin(angles: F32) -> tuple[F32, F32]:
    """Cosine and sine of finite FP32 angles in radians, |angle| < 2^20; float32 of any shape.

    Right to within half a unit in the last place and 2^-50 of the result's scale.
    """
    x = angles.astype(np.float64)
    quarter = np.rint(x * (2.0 / math.pi))
    for part in _HALF_PI:
        x = x - quarter * part
    square = x * x
    sine, cosine = x * _series(square, 1), _series(square, 0)
    turn = quarter.astype(np.int64) & 3
    cos_out = np.choose(turn, [cosine, -sine, -cosine, sine])
    sin_out = np.choose(turn, [sine, cosine, -sine, -cosine])
    return cos_out.astype(np.float32), sin_out.astype(np.float32)


def _series(square: F64, first: int) -> F64:
    """Taylor series of sin(x)/x (first 1) or cos(x) (first 0) in x^2, by Horner's rule."""
    total = np.zeros_like(square)
    for k in reversed(range(_TERMS)):
        total = total * square + (-1.0) ** k / math.factorial(2 * k + first)
    return total


def inverse_powers(base: float, count: int) -> F32:
    """base^(-i/count) for i < count: float32 [count], each correctly rounded."""
    with localcontext() as context:
        context.prec = 40
        exact = Decimal(base)
        return np.array(
            [float(exact ** (-Decimal(i) / Decimal(count))) for i in range(count)], np.float32
        )
