"""FP32 to the narrow storage types: binary16, bfloat16, INT8."""

from amaranth.hdl import C, Cat, Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.rtl.fp32_fields import denormalise, round_significand, shift_right, unpack
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive

NARROW_STAGES = 2
F16_INF = 0x7C00


class ToF16(wiring.Component):
    """q = binary16 of x after 2 cycles: shift to the exponent range; round and pack."""

    x: In(32)
    q: Out(16)
    module_name = "to_f16"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parts = unpack(m, self.x, "x")
        rebiased = wire(m, parts.exponent - (127 - 15), "rebiased")
        exponent, significand = denormalise(m, rebiased, parts.significand, "low")
        exponent_1 = register(m, exponent, "exponent_1")
        significand_1 = register(m, significand, "significand_1")
        rounded = round_significand(m, significand_1, 11, "round")
        base = wire(m, Mux(significand_1[-1], exponent_1 - 1, 0), "base")
        packed = wire(m, (base << 10) + rounded, "packed")
        large = register(m, parts.infinite, "infinite_1") | (packed >= F16_INF)
        with_sign = Cat(Mux(large, F16_INF, packed)[:15], register(m, parts.sign, "sign_1"))
        m.d.comb += self.q.eq(
            register(m, Mux(register(m, parts.nan, "nan_1"), 0x7E00, with_sign), "q_out")
        )
        return m


class ToBf16(wiring.Component):
    """q = bfloat16 of x after 2 cycles, as many as its sisters take."""

    x: In(32)
    q: Out(16)
    module_name = "to_bf16"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        nan = register(m, unpack(m, self.x, "x").nan, "nan_1")
        # The exponent range is the same: round the pattern; a carry is the next exponent.
        rounded = round_significand(m, self.x, 16, "round")[:16]
        m.d.comb += self.q.eq(
            register(m, Mux(nan, 0x7FC0, register(m, rounded, "rounded_1")), "q_out")
        )
        return m


class ToInt8(wiring.Component):
    """q = x to the nearest even integer, clipped to -128..127, NaN to 0; after 2 cycles."""

    x: In(32)
    q: Out(signed(8))
    module_name = "to_int8"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parts = unpack(m, self.x, "x")
        large = wire(m, parts.exponent >= 134, "large")  # |x| >= 128
        down = wire(m, (150 - parts.exponent)[:8], "down")  # 17 and more where not large
        amount = wire(m, down[:5] | Mux(down[5:].any(), 31, 0), "amount")
        moved = shift_right(m, Cat(C(0, 1), parts.significand), amount, "moved")
        moved_1 = register(m, moved, "moved_1")
        large_1 = register(m, large, "large_1")
        sign_1 = register(m, parts.sign, "sign_1")
        nan_1 = register(m, parts.nan, "nan_1")
        size = wire(m, Mux(large_1, 128, round_significand(m, moved_1, 24, "round")[:8]), "size")
        value = Mux(sign_1, -size, Mux(size[7], 127, size))
        m.d.comb += self.q.eq(register(m, Mux(nan_1, 0, value), "q_out"))
        return m


TO_F16 = Primitive(name="to_f16", compute=numerics.to_f16, create=ToF16, stages=NARROW_STAGES)
TO_BF16 = Primitive(name="to_bf16", compute=numerics.to_bf16, create=ToBf16, stages=NARROW_STAGES)
TO_INT8 = Primitive(
    name="to_int8", compute=numerics.f32_to_int8, create=ToInt8, stages=NARROW_STAGES
)
"""VQUANT to F16, BF16 and INT8, within QUANT_FILL_CYCLES."""
