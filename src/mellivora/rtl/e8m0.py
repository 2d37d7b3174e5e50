"""E8M0 scale to FP32, with the exponent of the slice and the element taken off."""

from amaranth.hdl import C, Cat, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.numerics.formats import E8M0_NAN
from mellivora.numerics.fp32 import NAN_BITS
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive


def e8m0_value(m: Module, code: Value, shift: Value, name: str) -> Value:
    """2^(code - 127 - shift) as an FP32 pattern, combinational; code 255 gives NaN."""
    field = wire(m, code - shift, f"{name}_field")  # signed
    subnormal = wire(m, C(1 << 22, 23) >> (-field)[:5], f"{name}_subnormal")
    value = Mux(field < 1, subnormal, Cat(C(0, 23), field[:8]))
    return Mux(code == E8M0_NAN, NAN_BITS, value)


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
        value = e8m0_value(m, self.code, self.shift, "expand")
        m.d.comb += self.q.eq(register(m, value, "q_out"))
        return m


E8M0_EXPAND = Primitive(name="e8m0_expand", compute=numerics.from_e8m0, create=E8m0Expand, stages=1)
"""Scales of MATRIX operands, VEW's and VQUANT's E8M0 operands, VDEQ of MX rows."""
