"""Half-precision storage to FP32, exact: scales of GGUF formats, VDEQ of F16 and BF16."""

from amaranth.hdl import C, Cat, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.numerics.fp32 import NAN_BITS
from mellivora.rtl.fp32_fields import leading_zeros, unpack
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive


def f16_value(m: Module, x: Value, name: str) -> Value:
    """FP32 of a binary16 pattern, combinational."""
    field, fraction = x[10:15], x[:10]
    count, normal = leading_zeros(m, Cat(fraction, C(0, 1)), f"{name}_count")
    exponent = wire(m, field + (127 - 15), f"{name}_exponent")
    rest = Cat(C(0, 13), fraction)
    # A subnormal has exponent 1 and its leading one `count` places below the hidden bit.
    low = wire(m, 127 - 15 + 1 - count, f"{name}_low")[:8]
    subnormal = Mux(fraction == 0, 0, Cat(C(0, 13), normal[:10], low))
    special = Mux(fraction == 0, 0x7F800000, NAN_BITS)[:31]
    size = Mux(field == 31, special, Mux(field == 0, subnormal, Cat(rest, exponent[:8])))
    nan = (field == 31) & (fraction != 0)
    return Cat(size[:31], x[15] & ~nan)


class FromF16(wiring.Component):
    """q = FP32 of a binary16 pattern after 1 cycle; subnormals become normal."""

    x: In(16)
    q: Out(32)
    module_name = "from_f16"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.q.eq(register(m, f16_value(m, self.x, "x"), "q_out"))
        return m


class FromBf16(wiring.Component):
    """q = FP32 of a bfloat16 pattern after 1 cycle."""

    x: In(16)
    q: Out(32)
    module_name = "from_bf16"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        wide = Cat(C(0, 16), self.x)
        m.d.comb += self.q.eq(register(m, Mux(unpack(m, wide, "x").nan, NAN_BITS, wide), "q_out"))
        return m


FROM_F16 = Primitive(name="from_f16", compute=numerics.from_f16, create=FromF16, stages=1)
FROM_BF16 = Primitive(name="from_bf16", compute=numerics.from_bf16, create=FromBf16, stages=1)
"""Operand read of VDEQ, and of MATRIX's block scales."""
