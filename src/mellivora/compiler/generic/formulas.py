"""Elementwise functions as short VECTOR programs on tiles, with their largest errors.

Errors are in ulp of the result unless said otherwise; the table functions are within 0.8
(numerics.functions).

    add sub mul max min neg abs relu clip   exact rounding, as NumPy
    div            2.5: a * recip(b)                     reciprocal, rsqrt   0.8
    sqrt           1.7: x * rsqrt(x), exact at 0 and inf
    exp            2 + |x|: the rounding of x * log2(e) is scaled by x     log   2, and 1e-7 near 1
    erf, tanh      7: x * P(x^2) / Q(x^2), P and Q of degree 5, fitted; at most 4e-7 absolute
    sigmoid        4 + |x|, below 2^-128: 0       silu 5 + |x|       gelu 4e-7 * |x| absolute
    softplus       2, and 1.2e-7 absolute: small exponentials are lost beside 1
    gelu_tanh      5 + 2 * x^2 (its argument is a cubic), softcap 8
    sin, cos       1e-7 * max(1, |x|) absolute
    pow            exact products for exponents 1 to 4; else 2^(b log2 a): 3 + 2 * |b log2 a|
    compare        exact; NaN compares false (ne: true)
    where          exact; a NaN in the branch not taken stays
    floor, cast    exact for |x| < 2**47
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mellivora.compiler.kernel import Kernel, RowVec, Term, Tile
from mellivora.isa.modes import Func, Op

LOG2E = math.log2(math.e)
FLT_MAX = 3.4028234663852886e38
INF = math.inf
ERF = (
    (1.1283791065216064, 0.19040022790431976, 0.05274789407849312, 0.0037653453182429075,
     0.0002848758886102587, 2.0501279323070776e-06),
    (1.0, 0.5020705461502075, 0.11410652846097946, 0.01496867835521698, 0.0011624679900705814,
     3.809177360381e-05),
    3.92,
)  # fmt: skip
TANH = (
    (1.0, 0.14099952578544617, 0.004426938947290182, 4.229931437293999e-05,
     1.1132360810961472e-07, 3.683707158752547e-11),
    (1.0, 0.4743328392505646, 0.029204556718468666, 0.0005010248278267682,
     2.6062357392220292e-06, 2.95666313654408e-09),
    9.0,
)  # fmt: skip
"""P, Q in powers of x^2, and where the function is 1 to FP32; by reweighted least squares on
Chebyshev nodes."""

_SWAPPED = {Op.ADD: Op.ADD, Op.MUL: Op.MUL, Op.MAX: Op.MAX, Op.MIN: Op.MIN}
_SWAPPED |= {Op.SUB: Op.RSUB, Op.RSUB: Op.SUB}


@dataclass(frozen=True)
class Pen:
    """Writes VEW on tiles of [rows, cols]; `spare` are tiles for what is in between."""

    kernel: Kernel
    rows: int
    cols: int
    spare: tuple[Tile, ...] = ()

    def v(
        self,
        dst: Tile,
        a: Tile,
        op1: Op = Op.NONE,
        b: Term = None,
        op2: Op = Op.NONE,
        c: Term = None,
        func: Func = Func.ID,
    ) -> None:
        """dst = func((a op1 b) op2 c)."""
        self.kernel.vew(
            dst, a, rows=self.rows, cols=self.cols, op1=op1, b=b, op2=op2, c=c, func=func
        )

    def binary(self, dst: Tile, a: Term, op: Op, b: Term) -> None:
        """dst = a op b, whichever of them is a tile; VEW wants one first."""
        if type(a) is Tile:
            self.v(dst, a, op, b)
            return
        assert type(b) is Tile
        if op != Op.GT:
            self.v(dst, b, _SWAPPED[op], a)
        else:  # a > b as 0 < a - b: subnormals are kept, and inf - inf compares false
            self.v(dst, b, Op.RSUB, a, Op.GT, 0.0)


Unary = Callable[[Pen, Tile, Tile], None]
"""Writes dst from x; dst and x may be the same tile only for programs of one VEW."""


def one(
    op1: Op = Op.NONE, b: Term = None, op2: Op = Op.NONE, c: Term = None, func: Func = Func.ID
) -> Unary:
    """A function that is one VEW."""
    return lambda pen, dst, x: pen.v(dst, x, op1, b, op2, c, func)


def rational(table: tuple[tuple[float, ...], tuple[float, ...], float]) -> Unary:
    """x * P(x^2) / Q(x^2) on |x| <= limit, cut to [-1, 1]."""
    top, bottom, limit = table

    def write(pen: Pen, dst: Tile, x: Tile) -> None:
        t, q = pen.spare[:2]
        pen.v(dst, x, Op.MIN, limit, Op.MAX, -limit)
        pen.v(t, dst, Op.MUL, dst)
        pen.v(q, t, Op.MUL, bottom[-1], Op.ADD, bottom[-2])
        for value in bottom[-3::-1]:
            pen.v(q, q, Op.MUL, t, Op.ADD, value)
        pen.v(q, q, func=Func.RECIP)
        pen.v(dst, dst, Op.MUL, q)
        pen.v(q, t, Op.MUL, top[-1], Op.ADD, top[-2])
        for value in top[-3::-1]:
            pen.v(q, q, Op.MUL, t, Op.ADD, value)
        pen.v(dst, dst, Op.MUL, q, Op.MIN, 1.0)
        pen.v(dst, dst, Op.MAX, -1.0)

    return write


erf, tanh = rational(ERF), rational(TANH)


def sqrt(pen: Pen, dst: Tile, x: Tile) -> None:
    """x * rsqrt(x); the bounds touch only rsqrt(0) = inf and rsqrt(inf) = 0."""
    y = pen.spare[0]
    pen.v(y, x, func=Func.RSQRT)
    pen.v(y, y, Op.MIN, FLT_MAX, Op.MAX, 2.0**-65)
    pen.v(dst, y, Op.MUL, x)


def log(pen: Pen, dst: Tile, x: Tile) -> None:
    pen.v(pen.spare[0], x, func=Func.LOG2)
    pen.v(dst, pen.spare[0], Op.MUL, math.log(2))


def sigmoid(pen: Pen, dst: Tile, x: Tile) -> None:
    y = pen.spare[0]
    pen.v(y, x, Op.MUL, -LOG2E, func=Func.EXP2)
    pen.v(dst, y, Op.ADD, 1.0, func=Func.RECIP)


def softplus(pen: Pen, dst: Tile, x: Tile) -> None:
    """max(x, 0) + log2(1 + 2^(-|x| log2 e)) * ln 2."""
    y, positive = pen.spare[:2]
    pen.v(y, x, func=Func.ABS)
    pen.v(y, y, Op.MUL, -LOG2E, func=Func.EXP2)
    pen.v(y, y, Op.ADD, 1.0, func=Func.LOG2)
    pen.v(positive, x, Op.MAX, 0.0)
    pen.v(dst, y, Op.MUL, 1.0 / LOG2E, Op.ADD, positive)


def silu(pen: Pen, dst: Tile, x: Tile) -> None:
    """x * sigmoid(x); x is bounded below, where the product is zero, so that -inf gives -0."""
    y = pen.spare[1]
    sigmoid(pen, y, x)
    pen.v(dst, x, Op.MAX, -1e30, Op.MUL, y)


def gelu(pen: Pen, dst: Tile, x: Tile) -> None:
    scaled, y = pen.spare[2:4]
    pen.v(scaled, x, Op.MUL, math.sqrt(0.5))
    erf(pen, y, scaled)
    pen.v(y, y, Op.ADD, 1.0, Op.MUL, 0.5)
    pen.v(dst, x, Op.MAX, -1e30, Op.MUL, y)


def gelu_tanh(pen: Pen, dst: Tile, x: Tile) -> None:
    """x * sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))."""
    k, y = 2.0 * math.sqrt(2.0 / math.pi), pen.spare[0]
    pen.v(y, x, Op.MUL, x, Op.MUL, 0.044715 * k)
    pen.v(y, y, Op.ADD, k, Op.MUL, x)
    pen.v(y, y, Op.MUL, -LOG2E, func=Func.EXP2)
    pen.v(y, y, Op.ADD, 1.0, func=Func.RECIP)
    pen.v(dst, x, Op.MAX, -1e30, Op.MUL, y)


def softcap(cap: float) -> Unary:
    def write(pen: Pen, dst: Tile, x: Tile) -> None:
        scaled, y = pen.spare[2:4]
        pen.v(scaled, x, Op.MUL, 1.0 / cap)
        tanh(pen, y, scaled)
        pen.v(dst, y, Op.MUL, cap)

    return write


def turns(func: Func) -> Unary:
    """sin or cos of radians."""
    return one(Op.MUL, 1.0 / (2.0 * math.pi), func=func)


def _magnitude(pen: Pen, dst: Tile, x: Tile) -> None:
    """|x| rounded to an integer (x >= 0): through 2**23, beyond which all are integers already."""
    kept = pen.spare[2]
    pen.v(kept, x, Op.MIN, 2.0**23)
    pen.v(dst, kept, Op.ADD, 2.0**23, Op.SUB, 2.0**23)
    pen.v(kept, x, Op.SUB, kept)
    pen.v(dst, dst, Op.ADD, kept)


def truncate(pen: Pen, dst: Tile, x: Tile) -> None:
    """Towards zero: the rounded magnitude, less one where it passed |x|, with the sign of x."""
    size, whole = pen.spare[:2]
    pen.v(size, x, func=Func.ABS)
    _magnitude(pen, whole, size)
    pen.v(size, whole, Op.GT, size)
    pen.v(whole, whole, Op.SUB, size)
    pen.v(size, x, Op.GT, 0.0, Op.SUB, 0.5)
    pen.v(dst, size, Op.MUL, 2.0, Op.MUL, whole)


def floor(pen: Pen, dst: Tile, x: Tile) -> None:
    """Towards zero, less one where that is above x."""
    whole = pen.spare[3]
    truncate(pen, whole, x)
    pen.v(pen.spare[0], whole, Op.GT, x)
    pen.v(dst, whole, Op.SUB, pen.spare[0])


UNARY: dict[str, tuple[Unary, int]] = {
    "neg": (one(func=Func.NEG), 0),
    "abs": (one(func=Func.ABS), 0),
    "relu": (one(Op.MAX, 0.0), 0),
    "floor": (floor, 4),
    "exp": (one(Op.MUL, LOG2E, func=Func.EXP2), 0),
    "log": (log, 1),
    "sin": (turns(Func.SIN), 0),
    "cos": (turns(Func.COS), 0),
    "sqrt": (sqrt, 1),
    "rsqrt": (one(func=Func.RSQRT), 0),
    "reciprocal": (one(func=Func.RECIP), 0),
    "tanh": (tanh, 2),
    "erf": (erf, 2),
    "sigmoid": (sigmoid, 1),
    "softplus": (softplus, 2),
    "silu": (silu, 2),
    "gelu": (gelu, 4),
    "gelu_tanh": (gelu_tanh, 1),
}
"""Operation -> (program, spare tiles it needs)."""

BINARY = {"add": Op.ADD, "sub": Op.SUB, "mul": Op.MUL, "max": Op.MAX, "min": Op.MIN}


def divide(pen: Pen, dst: Tile, a: Term, b: Term) -> None:
    """a * recip(b); where b is no tile, a is one."""
    y = pen.spare[0]
    if isinstance(b, float):
        assert type(a) is Tile
        pen.v(dst, a, Op.MUL, 1.0 / b if b else math.copysign(INF, b))
    elif isinstance(b, RowVec):
        assert type(a) is Tile
        count = pen.rows if b.stride else 1
        line = Tile(b.ref, 0)
        pen.kernel.vew(Tile(y.ref, 0), line, rows=1, cols=count, func=Func.RECIP)
        pen.v(dst, a, Op.MUL, RowVec(y.ref, b.stride))
    else:
        assert type(b) is Tile
        pen.v(y, b, func=Func.RECIP)
        pen.binary(dst, a, Op.MUL, y)


def _ordered(pen: Pen, dst: Tile, x: Tile, spare: Tile) -> None:
    """1 where x is a number, 0 where it is NaN."""
    pen.v(spare, x, Op.GT, -1.0)
    pen.v(dst, x, Op.MUL, -1.0, Op.GT, -1.0)
    pen.v(dst, dst, Op.MAX, spare)


def compare(kind: str) -> Callable[[Pen, Tile, Tile, Tile], None]:
    """dst = 1 or 0; both operands are tiles."""

    def write(pen: Pen, dst: Tile, a: Tile, b: Tile) -> None:
        above, below, spare = pen.spare[:3]
        if kind in ("gt", "lt"):
            pen.v(dst, *((a, Op.GT, b) if kind == "gt" else (b, Op.GT, a)))
            return
        pen.v(above, a, Op.GT, b)
        pen.v(below, b, Op.GT, a)
        against = {"ge": below, "le": above, "eq": above, "ne": above}[kind]
        if kind in ("eq", "ne"):
            pen.v(above, above, Op.MAX, below)
        pen.v(dst, against, Op.RSUB, 1.0)
        for operand in (a, b):
            _ordered(pen, below, operand, spare)
            pen.v(dst, dst, Op.MUL, below)
        if kind == "ne":
            pen.v(dst, dst, Op.RSUB, 1.0)

    return write


def where(pen: Pen, dst: Tile, condition: Tile, a: Term, b: Term) -> None:
    """max(min(a, m), min(b, -m)) with m = +inf where the condition is 1, -inf where it is 0."""
    gate, other = pen.spare[:2]
    pen.v(gate, condition, Op.SUB, 0.5, Op.MUL, INF)
    pen.binary(dst, gate, Op.MIN, a)
    pen.v(gate, gate, Op.MUL, -1.0)
    pen.binary(other, gate, Op.MIN, b)
    pen.v(dst, dst, Op.MAX, other)


def power(pen: Pen, dst: Tile, a: Tile, b: Term) -> None:
    """a ** b: products for 1 to 4, a root for 0.5, else 2^(b log2 a) (NaN for a < 0)."""
    y = pen.spare[0]
    if b == 0.5:
        sqrt(pen, dst, a)
    elif b == -0.5:
        pen.v(dst, a, func=Func.RSQRT)
    elif b in (1.0, 2.0, 3.0, 4.0):
        if b == 1.0:
            pen.v(dst, a)
        elif b == 4.0:
            pen.v(y, a, Op.MUL, a)
            pen.v(dst, y, Op.MUL, y)
        else:
            pen.v(dst, a, Op.MUL, a, Op.MUL if b == 3.0 else Op.NONE, a)
    elif b == -1.0:
        pen.v(dst, a, func=Func.RECIP)
    else:
        pen.v(y, a, func=Func.LOG2)
        pen.v(dst, y, Op.MUL, b, func=Func.EXP2)
