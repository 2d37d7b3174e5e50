"""Coefficient tables of the table functions, from `decimal` alone: the same on every machine.

Each interval of a function f is replaced by the parabola through its three Chebyshev nodes, whose
largest error is |f'''| h^3 / 192 for an interval of width h. Coefficients are integers:

    f(start + u h) = (c0 + c1 u + c2 u^2) * 2^-frac_bits,   0 <= u < 1

    function   f(m)                     m        intervals  h          frac_bits  |f'''| h^3 / 192
    exp2       2^m                      [0, 1)   128        2^-7       30         2^-29.2
    recip      1 / m                    [1, 2)   128        2^-7       30         2^-26.0
    rsqrt      1 / sqrt(m)              [1, 4)   128 + 128  2^-7 2^-6  30         2^-27.7
    log2       log2(m) / (m - 1)        [3/4,    64 + 64    2^-7 2^-8  30         2^-27.4
                                         3/2)
    sin        sin(2 pi m) / m          [0,1/4]  128 + 1    2^-9       28         2^-25.7 of 4..6.28
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

INT32 = npt.NDArray[np.int32]
INTERVALS = 128

_CONTEXT = Context(prec=50, rounding=ROUND_HALF_EVEN)


class Table(NamedTuple):
    """c0, c1, c2: int32 [intervals], in units of 2^-frac_bits."""

    c0: INT32
    c1: INT32
    c2: INT32
    frac_bits: int


def _arctan_of_inverse(n: int) -> Decimal:
    """arctan(1/n) by its series."""
    total, power, k = Decimal(0), Decimal(1) / n, 1
    while power > Decimal(10) ** -55:
        total += power / k if k % 4 == 1 else -power / k
        power, k = power / (n * n), k + 2
    return total


def _sine(a: Decimal) -> Decimal:
    """sin(a), 0 <= a < 2, by its series."""
    total, term, k = Decimal(0), a, 1
    while abs(term) > Decimal(10) ** -55:
        total += term
        term, k = -term * a * a / ((k + 1) * (k + 2)), k + 2
    return total


def _exp2(m: Decimal) -> Decimal:
    return (m * Decimal(2).ln()).exp()


def _recip(m: Decimal) -> Decimal:
    return 1 / m


def _rsqrt(m: Decimal) -> Decimal:
    return 1 / m.sqrt()


def _log2_slope(m: Decimal) -> Decimal:
    return m.ln() / Decimal(2).ln() / (m - 1)


def _sine_slope(m: Decimal) -> Decimal:
    return _sine(8 * (4 * _arctan_of_inverse(5) - _arctan_of_inverse(239)) * m) / m


def _parabola(
    f: Callable[[Decimal], Decimal], start: Decimal, h: Decimal, frac_bits: int
) -> tuple[int, int, int]:
    """Integer c0, c1, c2 of f on [start, start + h]."""
    root = Decimal(3).sqrt() / 4
    u = [Decimal("0.5") - root, Decimal("0.5"), Decimal("0.5") + root]
    y = [f(start + h * x) for x in u]
    first = (y[1] - y[0]) / (u[1] - u[0])
    second = ((y[2] - y[1]) / (u[2] - u[1]) - first) / (u[2] - u[0])
    c = (y[0] - u[0] * first + u[0] * u[1] * second, first - (u[0] + u[1]) * second, second)
    unit = Decimal(2) ** frac_bits
    c0, c1, c2 = (int((x * unit).to_integral_value()) for x in c)
    return c0, c1, c2


@cache
def table(name: str) -> Table:
    """The table of exp2, recip, rsqrt, log2 or sin."""
    with localcontext(_CONTEXT):
        one = Decimal(1)
        h, frac_bits = one / INTERVALS, 30
        # Spans: (start, width of an interval, intervals).
        if name == "exp2":
            f, spans = _exp2, [(Decimal(0), h, 128)]
        elif name == "recip":
            f, spans = _recip, [(one, h, 128)]
        elif name == "rsqrt":
            f, spans = _rsqrt, [(one, h, 128), (2 * one, 2 * h, 128)]
        elif name == "log2":
            # By the significand in [1, 2): its upper half stands for m = significand / 2.
            f, spans = _log2_slope, [(one, h, 64), (3 * one / 4, h / 2, 64)]
        else:
            f, spans, frac_bits = _sine_slope, [(Decimal(0), h / 4, 128)], 28
        rows = [
            _parabola(f, start + i * width, width, frac_bits)
            for start, width, count in spans
            for i in range(count)
        ]
    if name == "exp2":  # powers of two come out exact, ties among subnormals included
        rows[0] = (1 << 30, *rows[0][1:])
    if name == "sin":  # the one argument 1/4 itself
        rows.append((4 << 28, 0, 0))
    c0, c1, c2 = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    return Table(c0, c1, c2, frac_bits)


def cpp_tables() -> str:
    """The text of `function_tables.inc`: the same tables for the C++ form."""
    lines = ["// Made by mellivora.numerics.function_tables.cpp_tables(); not edited by hand."]
    for name in ("exp2", "recip", "rsqrt", "log2", "sin"):
        for part, column in zip(("C0", "C1", "C2"), table(name)[:3], strict=True):
            values = ",".join(str(v) for v in column.tolist())
            lines.append(f"static const int32_t MV_{name.upper()}_{part}[] = {{{values}}};")
    return "\n".join(lines) + "\n"
