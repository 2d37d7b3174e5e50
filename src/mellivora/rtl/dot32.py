"""32-term dot product of 9-bit integers, exact; and the sum of 32 of them."""

import numpy as np
import numpy.typing as npt
from amaranth.hdl import C, Module, Mux, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.numerics import BLOCK
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive
from mellivora.rtl.scale_dot import DOT_BITS

CODE_BITS = 9
"""Signed and unsigned bytes, and bytes less a zero point of their own kind."""
SUM_BITS = 14
CODES = data.ArrayLayout(signed(CODE_BITS), BLOCK)
PAIR_BITS = CODE_BITS + 1
PAIRS = data.ArrayLayout(signed(PAIR_BITS), BLOCK // 2)
"""a[0] + a[1], a[2] + a[3], ..."""


def _sum_tree(m: Module, terms: list[Value], *, stages: int) -> Value:
    """The sum of 32 terms, 5 levels over the stages: 2, 2, 1 of 3, a register after each stage."""
    for stage in range(1, stages + 1):
        for _ in range(1 if stage == stages else 2):
            half = len(terms) // 2
            terms = [
                wire(m, terms[i] + terms[i + half], f"sum_{stage}_{half}_{i}") for i in range(half)
            ]
        terms = [register(m, term, f"terms_{stage}_{i}") for i, term in enumerate(terms)]
    (total,) = terms
    return total


class Dot32(wiring.Component):
    """dot = sum of a[i] * b[i] after 2 cycles: the rows of all products, then their sum.

    Two products are one sum of rows: bit k of b[i] and of b[i + 1] choose 0, a[i], a[i + 1] or
    a[i] + a[i + 1]. `pairs` has the sums, made once for all columns; that halves the adders here.
    """

    a: In(CODES)
    pairs: In(PAIRS)
    b: In(CODES)
    dot: Out(signed(DOT_BITS))
    module_name = "dot32"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        halves = []
        single = [wire(m, self.a[i].as_signed(), f"a_{i}") for i in range(BLOCK)]
        for start in (0, BLOCK // 2):
            total: Value = C(0, 1)
            for k in range(CODE_BITS):
                rows = []
                for i in range(start, start + BLOCK // 2, 2):
                    x, y = self.b[i][k], self.b[i + 1][k]
                    first, second = Mux(x & ~y, single[i], 0), Mux(y & ~x, single[i + 1], 0)
                    both = Mux(x & y, self.pairs[i // 2].as_signed(), 0)
                    row = wire(m, (first | second | both)[:PAIR_BITS].as_signed(), f"row_{i}_{k}")
                    rows.append(row << k)
                while len(rows) > 1:
                    rows = [x + y for x, y in zip(rows[::2], rows[1::2])]
                    rows = [wire(m, row, f"rows_{start}_{k}_{len(rows)}") for row in rows]
                # The last bit of b counts negative.
                total = total - rows[0] if k == CODE_BITS - 1 else total + rows[0]
                total = wire(m, total, f"total_{start}_{k}")
            halves.append(register(m, total[: DOT_BITS - 1].as_signed(), f"half_{start}"))
        m.d.comb += self.dot.eq(register(m, (halves[0] + halves[1])[:DOT_BITS].as_signed(), "dot"))
        return m


class Sum32(wiring.Component):
    """total = sum of a[i] after 4 cycles; one serves all columns (Q4_1)."""

    a: In(CODES)
    total: Out(signed(SUM_BITS))
    module_name = "sum32"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        codes = [register(m, self.a[i], f"code_{i}") for i in range(BLOCK)]
        m.d.comb += self.total.eq(_sum_tree(m, codes, stages=3))
        return m


def dot32(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """int64 [...] of integers [..., 32]."""
    return np.einsum("...k,...k->...", np.asarray(a, np.int64), np.asarray(b, np.int64))


def pair_sums(a: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """int64 [..., 16] of integers [..., 32]: what `pairs` is beside `a`."""
    codes = np.asarray(a, np.int64)
    return codes[..., 0::2] + codes[..., 1::2]


def sum32(a: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """int64 [...] of integers [..., 32]."""
    return np.asarray(a, np.int64).sum(axis=-1)


DOT32 = Primitive(name="dot32", compute=dot32, create=Dot32, stages=2)
SUM32 = Primitive(name="sum32", compute=sum32, create=Sum32, stages=4)
"""MATRIX's products; the sum of codes goes beside them for Q4_1."""
