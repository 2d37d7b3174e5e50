"""FP32 multiplication: nearest even, subnormals kept, one NaN, never fused."""

from dataclasses import dataclass

from amaranth.hdl import Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.rtl.fp32_fields import (
    Fields,
    leading_zeros,
    round_pack,
    shift_left,
    shift_right,
    unpack,
)
from mellivora.rtl.pipeline import register, registers, wire
from mellivora.rtl.primitive import Primitive


@dataclass
class _Rest:
    """What goes round the multiplier."""

    sign: Value
    nan: Value
    infinite: Value


def multiply(m: Module, a: Fields, b: Fields) -> Value:
    """fl(a * b) as a pattern, combinational after the second register: 2 stages and a bit.

    1  24 x 24 bits; beside it the leading zeros of both
    2  normalise as far as the exponent allows, or shift right into the subnormals
    3  the last bit of normalisation, round, pack; the caller's register ends it
    """
    zeros_a, _ = leading_zeros(m, a.significand, "zeros_a")
    zeros_b, _ = leading_zeros(m, b.significand, "zeros_b")
    zero = (a.significand == 0) | (b.significand == 0)
    either = a.infinite | b.infinite
    product = register(m, a.significand * b.significand, "product_1")  # 48 bits
    zeros = register(m, zeros_a + zeros_b, "zeros_1")  # of the product; or it has one more
    # The product's bit 47 weighs one exponent more than the hidden bit of this:
    exponent = register(m, a.exponent + b.exponent - 127, "exponent_1")
    rest = _Rest(sign=a.sign ^ b.sign, nan=a.nan | b.nan | (either & zero), infinite=either)

    small = wire(m, exponent < zeros, "small")  # no room to bring the leading one to the top
    right = wire(m, exponent < 0, "right")
    left_by = wire(m, Mux(right, 0, Mux(small, exponent, zeros))[:6], "left_by")
    right_by = wire(m, Mux(right, -exponent, 0)[:8], "right_by")
    left = shift_left(m, product, left_by, "left")
    moved = shift_right(m, left, right_by, "right")
    # exponent + 1 - shift, as the shift is `exponent` itself where it is small
    scaled = wire(m, Mux(small, 1, exponent + 1 - zeros), "scaled")

    moved_2 = register(m, moved, "moved_2")  # 49 bits
    scaled_2 = register(m, scaled, "scaled_2")
    rest_2 = registers(m, rest, "rest", stages=2)

    once = wire(m, ~moved_2[-1] & (scaled_2 > 1), "once")
    return round_pack(
        m,
        sign=rest_2.sign,
        exponent=scaled_2 - once,
        significand=Mux(once, moved_2 << 1, moved_2)[: len(moved_2)],
        nan=rest_2.nan,
        infinite=rest_2.infinite,
        name="round",
    )


class Fp32Mul(wiring.Component):
    """q = fl(a * b) after 3 cycles."""

    a: In(32)
    b: In(32)
    q: Out(32)
    module_name = "fp32_mul"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.q.eq(
            register(m, multiply(m, unpack(m, self.a, "a"), unpack(m, self.b, "b")), "q_out")
        )
        return m


FP32_MUL = Primitive(name="fp32_mul", compute=numerics.mul, create=Fp32Mul, stages=3)
"""The binary stage of VECTOR."""
