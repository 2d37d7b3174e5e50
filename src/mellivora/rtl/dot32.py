"""32-term dot product of 9-bit integers, exact; and the sum of 32 of them."""

import numpy as np
import numpy.typing as npt
from amaranth.hdl import Module, Signal, Value, signed
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


class Dot32(wiring.Component):
    """dot = sum of a[i] * b[i] after 2 cycles: all products in two halves, then their sum.

    Bit k of b[i] and of b[i + 1] choose 0, a[i], a[i + 1] or a[i] + a[i + 1]. `pairs` has the sums,
    made once for all columns. That is what the three products of a pair say: of their right
    factors no two have the same bit, so in hardware their rows are one, and half as many as with
    a[i] * b[i] + a[i + 1] * b[i + 1] are left to add.
    """

    a: In(CODES)
    pairs: In(PAIRS)
    b: In(CODES)
    dot: Out(signed(DOT_BITS))
    module_name = "dot32"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        halves = []
        for start in (0, BLOCK // 2):
            products: list[Value] = []
            for i in range(start, start + BLOCK // 2, 2):
                x, y = self.b[i][:CODE_BITS], self.b[i + 1][:CODE_BITS]
                for left, right in (
                    (self.a[i], x & ~y),
                    (self.a[i + 1], y & ~x),
                    (self.pairs[i // 2], x & y),
                ):
                    bits = wire(m, right, f"choice_{i}")[:CODE_BITS]
                    term = Signal(signed(PAIR_BITS + CODE_BITS), name=f"term_{i}")
                    wide = Signal(signed(PAIR_BITS), name=f"wide_{i}")
                    m.d.comb += [wide.eq(left), term.eq(wide * bits.as_signed())]
                    products.append(term)
            total = products[0]
            for n, term in enumerate(products[1:]):
                total = wire(m, total + term, f"total_{start}_{n}")
            halves.append(register(m, total[: DOT_BITS - 1].as_signed(), f"half_{start}"))
        m.d.comb += self.dot.eq(register(m, (halves[0] + halves[1])[:DOT_BITS].as_signed(), "dot"))
        return m


class Sum32(wiring.Component):
    """total = sum of a[i] after 2 cycles, in step with Dot32; one serves all columns (Q4_1)."""

    a: In(CODES)
    total: Out(signed(SUM_BITS))
    module_name = "sum32"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parts: list[Value] = []
        for start in range(0, BLOCK, BLOCK // 4):
            codes = [self.a[i].as_signed() for i in range(start, start + BLOCK // 4)]
            parts.append(register(m, sum(codes[1:], codes[0]), f"part_{start}"))
        total = sum(parts[1:], parts[0])[:SUM_BITS].as_signed()
        m.d.comb += self.total.eq(register(m, total, "total"))
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
SUM32 = Primitive(name="sum32", compute=sum32, create=Sum32, stages=2)
"""MATRIX's products; the sum of codes goes beside them for Q4_1."""
