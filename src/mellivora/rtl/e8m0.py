"""E8M0 scale to FP32, with the exponent of the slice and the element taken off."""

from amaranth.hdl import C, Cat, Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.numerics.formats import E8M0_NAN
from mellivora.numerics.fp32 import NAN_BITS
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive


class E8m0Expand(wiring.Component):
    """q = 2^(code - 127 - shift) after 1 cycle, exact; code 255 gives NaN.

    shift: 0 to 22, fraction bits of the element (6, 3, 1) and 8 for each slice above it: with code
    0 and shift 22 the result is 2^-149, the least number FP32 has.
    """

    code: In(8)
    shift: In(5)
    q: Out(32)
    module_name = "e8m0_expand"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        field = wire(m, self.code - self.shift, "field")  # signed
        subnormal = wire(m, C(1 << 22, 23) >> (-field)[:5], "subnormal")
        value = Mux(field < 1, subnormal, Cat(C(0, 23), field[:8]))
        m.d.comb += self.q.eq(register(m, Mux(self.code == E8M0_NAN, NAN_BITS, value), "q_out"))
        return m


E8M0_EXPAND = Primitive(name="e8m0_expand", compute=numerics.from_e8m0, create=E8m0Expand, stages=1)
"""Scales of MATRIX operands, VEW's and VQUANT's E8M0 operands, VDEQ of MX rows."""
