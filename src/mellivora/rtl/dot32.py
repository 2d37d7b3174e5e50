"""32-term dot product of small integers, exact; and the sum of 32 of them."""

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
B_BITS = 8
B_CODES = data.ArrayLayout(signed(B_BITS), BLOCK)
FACTOR_BITS = 10
"""What may have been taken off all b's: 128 of unsigned bytes, a zero point of either kind."""
OFFSET_STAGE = 1
"""`offset` is due so many cycles after the codes."""


class Dot32(wiring.Component):
    """dot = offset + sum of a[i] * b[i] after 2 cycles: two halves of the products, then the sum.

    Bit k of b[i] and of b[i + 1] choose 0, a[i], a[i + 1] or a[i] + a[i + 1]. `pairs` has the sums,
    made once for all columns. That is what the three products of a pair say: of their right
    factors no two have the same bit, so in hardware their rows are one, and half as many as with
    a[i] * b[i] + a[i + 1] * b[i + 1] are left to add.

    The sum of a[i] * (b[i] + x) is that of a[i] * b[i], and x times the sum of the a's. So b's need
    a signed byte only: `offset` has the other part, made once for all columns (`Sum32`).
    """

    a: In(CODES)
    pairs: In(PAIRS)
    b: In(B_CODES)
    offset: In(signed(DOT_BITS))
    dot: Out(signed(DOT_BITS))
    module_name = "dot32"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        halves = []
        for start in (0, BLOCK // 2):
            products: list[Value] = []
            for i in range(start, start + BLOCK // 2, 2):
                x, y = self.b[i][:B_BITS], self.b[i + 1][:B_BITS]
                for left, right in (
                    (self.a[i], x & ~y),
                    (self.a[i + 1], y & ~x),
                    (self.pairs[i // 2], x & y),
                ):
                    bits = wire(m, right, f"choice_{i}")[:B_BITS]
                    term = Signal(signed(PAIR_BITS + B_BITS), name=f"term_{i}")
                    wide = Signal(signed(PAIR_BITS), name=f"wide_{i}")
                    m.d.comb += [wide.eq(left), term.eq(wide * bits.as_signed())]
                    products.append(term)
            total = products[0]
            for n, term in enumerate(products[1:]):
                total = wire(m, total + term, f"total_{start}_{n}")
            halves.append(register(m, total[: DOT_BITS - 2].as_signed(), f"half_{start}"))
        dot = (halves[0] + halves[1] + self.offset)[:DOT_BITS].as_signed()
        m.d.comb += self.dot.eq(register(m, dot, "dot"))
        return m


class Sum32(wiring.Component):
    """total = sum of a[i] - zero, offset = factor * total, after 2 cycles; one serves all columns.

    factor: is due a cycle after a.
    """

    a: In(CODES)
    zero: In(signed(CODE_BITS))
    factor: In(signed(FACTOR_BITS))
    total: Out(signed(SUM_BITS))
    offset: Out(signed(DOT_BITS))
    module_name = "sum32"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        halves: list[Value] = []
        for start in (0, BLOCK // 2):
            codes = [self.a[i].as_signed() for i in range(start, start + BLOCK // 2)]
            total = sum(codes, -(self.zero << 4))[: SUM_BITS - 1].as_signed()
            halves.append(register(m, total, f"half_{start}"))
        total = (halves[0] + halves[1])[:SUM_BITS].as_signed()
        products = [half * self.factor for half in halves]  # not of the total, which comes late
        offset = (products[0] + products[1])[:DOT_BITS].as_signed()
        m.d.comb += [
            self.total.eq(register(m, total, "total")),
            self.offset.eq(register(m, offset, "offset")),
        ]
        return m


def dot32(a: npt.ArrayLike, b: npt.ArrayLike, offset: npt.ArrayLike = 0) -> npt.NDArray[np.int64]:
    """int64 [...] of integers [..., 32] and an integer [...]."""
    products = np.einsum("...k,...k->...", np.asarray(a, np.int64), np.asarray(b, np.int64))
    return products + np.asarray(offset, np.int64)


def pair_sums(a: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """int64 [..., 16] of integers [..., 32]: what `pairs` is beside `a`."""
    codes = np.asarray(a, np.int64)
    return codes[..., 0::2] + codes[..., 1::2]


def sum32(a: npt.ArrayLike, zero: npt.ArrayLike = 0) -> npt.NDArray[np.int64]:
    """int64 [...] of integers [..., 32], and [...]."""
    return np.asarray(a, np.int64).sum(axis=-1) - BLOCK * np.asarray(zero, np.int64)


DOT32 = Primitive(name="dot32", compute=dot32, create=Dot32, stages=2)
SUM32 = Primitive(name="sum32", compute=sum32, create=Sum32, stages=2)
"""MATRIX's products; the sum of codes goes beside them for Q4_1 and for what b's are short of."""
