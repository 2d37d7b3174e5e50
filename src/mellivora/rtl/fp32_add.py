"""FP32 addition: nearest even, subnormals kept, one NaN."""

from amaranth.hdl import C, Cat, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.rtl.fp32_fields import leading_zeros, round_pack, shift_left, shift_right, unpack
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive


class Fp32Add(wiring.Component):
    """q = fl(a + b) after `stages` cycles: 3, or 2 with the alignment and the sum in one.

    1  order by magnitude, align with guard, round and sticky bits
    2  add or subtract
    3  normalise as far as the exponent allows, round, pack
    """

    a: In(32)
    b: In(32)
    q: Out(32)

    def __init__(self, *, stages: int = 3) -> None:
        assert stages in (2, 3)
        self.stages, self.module_name = stages, "fp32_add" if stages == 3 else "fp32_add_2"
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        swap = wire(m, self.a[:31] < self.b[:31], "swap")
        x = unpack(m, wire(m, Mux(swap, self.b, self.a), "larger"), "x")
        y = unpack(m, wire(m, Mux(swap, self.a, self.b), "smaller"), "y")
        distance = wire(m, (x.exponent - y.exponent)[:8], "distance")
        amount = wire(m, distance[:5] | Mux(distance[5:].any(), 31, 0), "amount")
        aligned = shift_right(m, Cat(C(0, 2), y.significand), amount, "align")  # 27 bits
        opposite = x.sign ^ y.sign
        nan = x.nan | y.nan | (x.infinite & y.infinite & opposite)

        gap = 1 if self.stages == 3 else 0
        larger = register(m, x.significand, "larger_1", stages=gap)
        smaller = register(m, aligned, "smaller_1", stages=gap)
        subtract = register(m, opposite, "subtract_1", stages=gap)
        wide = larger << 3
        total = wire(m, Mux(subtract, wide - smaller, wide + smaller)[:28], "total")

        total_2 = register(m, total, "total_2")
        exponent = register(m, x.exponent, "exponent", stages=gap + 1)
        # x is the larger, so its sign holds, but an exact 0 is +0 unless both are negative.
        sign = register(m, x.sign, "sign", stages=gap + 1)
        both = register(m, x.sign & y.sign, "both", stages=gap + 1)
        nan_2 = register(m, nan, "nan", stages=gap + 1)
        infinite = register(m, x.infinite, "infinite", stages=gap + 1)

        # Bit 27 of the total, the carry, weighs one exponent more than x's hidden bit.
        count, _ = leading_zeros(m, total_2, "count")
        shift = wire(m, Mux(count > exponent, exponent, count)[:5], "shift")
        q = round_pack(
            m,
            sign=Mux(total_2 == 0, both, sign),
            exponent=exponent + 1 - shift,
            significand=shift_left(m, total_2, shift, "norm"),
            nan=nan_2,
            infinite=infinite,
            name="round",
        )
        m.d.comb += self.q.eq(register(m, q, "q_out"))
        return m


FP32_ADD = Primitive(name="fp32_add", compute=numerics.add, create=Fp32Add, stages=3)
"""The binary stage of VECTOR and the accumulator of MATRIX."""

FP32_ADD_2 = Primitive(
    name="fp32_add_2", compute=numerics.add, create=lambda: Fp32Add(stages=2), stages=2
)
"""The adder of the reduction tree."""
