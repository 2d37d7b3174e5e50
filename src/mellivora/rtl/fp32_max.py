"""FP32 comparison: the larger of two, and whether the first is greater."""

from amaranth.hdl import Module, Mux
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.numerics.fp32 import NAN_BITS
from mellivora.rtl.fp32_fields import unpack
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive


class Fp32Max(wiring.Component):
    """q = a if a > b else b, NaN if either is; greater = a > b. After 1 cycle.

    The minimum is -max(-a, -b) but for the sign of a NaN, which the result has not.
    """

    a: In(32)
    b: In(32)
    q: Out(32)
    greater: Out(1)
    module_name = "fp32_max"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        nan = unpack(m, self.a, "a").nan | unpack(m, self.b, "b").nan
        zeros = (self.a[:31] == 0) & (self.b[:31] == 0)
        above = wire(m, self.a[:31] > self.b[:31], "above")
        below = wire(m, self.a[:31] < self.b[:31], "below")
        # Signs differ: a is greater if b is negative, unless both are zeros.
        same = Mux(self.a[31], below, above)
        order = Mux(self.a[31] ^ self.b[31], self.b[31] & ~zeros, same)
        greater = wire(m, order & ~nan, "order")
        m.d.comb += self.greater.eq(register(m, greater, "greater_out"))
        m.d.comb += self.q.eq(
            register(m, Mux(nan, NAN_BITS, Mux(greater, self.a, self.b)), "q_out")
        )
        return m


FP32_MAX = Primitive(name="fp32_max", compute=numerics.maximum, create=Fp32Max, stages=1)
"""MAX, MIN and GT of VECTOR, and the reduction tree."""
