"""32-term dot product of 9-bit integers, exact; and the sum of 32 of them."""

import numpy as np
import numpy.typing as npt
from amaranth.hdl import Module, Value, signed
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
    """dot = sum of a[i] * b[i] after 4 cycles: multiply, then a tree over three."""

    a: In(CODES)
    b: In(CODES)
    dot: Out(signed(DOT_BITS))
    module_name = "dot32"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        products = [
            register(m, self.a[i] * self.b[i], f"product_{i}") for i in range(BLOCK)
        ]  # 18 bits
        m.d.comb += self.dot.eq(_sum_tree(m, products, stages=3))
        return m


class Sum32(wiring.Component):
    """total = sum of a[i] after 4 cycles, in step with Dot32; one serves all columns (Q4_1)."""

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


def sum32(a: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """int64 [...] of integers [..., 32]."""
    return np.asarray(a, np.int64).sum(axis=-1)


DOT32 = Primitive(name="dot32", compute=dot32, create=Dot32, stages=4)
SUM32 = Primitive(name="sum32", compute=sum32, create=Sum32, stages=4)
"""MATRIX, "multiply and tree"."""
