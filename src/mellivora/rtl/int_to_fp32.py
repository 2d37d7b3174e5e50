"""INT32 to FP32, one rounding."""

from amaranth.hdl import Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.rtl.fp32_fields import leading_zeros, round_pack
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive


class IntToFp32(wiring.Component):
    """q = fl(i) after 2 cycles: magnitude and leading one; round and pack."""

    i: In(signed(32))
    q: Out(32)
    module_name = "int_to_fp32"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        negative = self.i < 0
        size = wire(m, Mux(negative, -self.i, self.i)[:32], "size")
        count, normal = leading_zeros(m, size, "count")
        count_1 = register(m, count, "count_1")
        q = round_pack(
            m,
            sign=register(m, negative, "negative_1"),
            exponent=127 + 31 - count_1,
            significand=register(m, normal, "normal_1"),
            name="round",
        )
        m.d.comb += self.q.eq(register(m, q, "q_out"))
        return m


INT_TO_FP32 = Primitive(name="int_to_fp32", compute=numerics.from_int, create=IntToFp32, stages=2)
"""VDEQ of INT32 and INT8. MATRIX needs none of it: see `scale_dot`."""
