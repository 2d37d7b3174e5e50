"""exp2 log2 recip rsqrt sin_turns cos_turns in 6 cycles, from the tables of `numerics`.

1  take apart, reduce the argument      4  second multiplication
2  table read                           5  third multiplication, or shift into the subnormals
3  first multiplication                 6  normalise, round, pack
"""

from collections.abc import Callable
from dataclasses import dataclass

from amaranth.hdl import C, Cat, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.numerics.fp32 import INF_BITS, NAN_BITS
from mellivora.rtl.fp32_fields import (
    denormalise,
    leading_zeros,
    round_pack,
    round_significand,
    shift_right,
    unpack,
)
from mellivora.rtl.parabola import parabola
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive
from mellivora.rtl.turn_functions import cos_turns, sin_turns

TABLE_STAGES = 6


class TableFunction(wiring.Component):
    """q = name(x) after 6 cycles; name: of FUNCTIONS."""

    x: In(32)
    q: Out(32)

    def __init__(self, name: str) -> None:
        self.name, self.module_name = name, f"table_{name}"
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.q.eq(register(m, FUNCTIONS[self.name](m, self.x), "q_out"))
        return m


@dataclass
class Special:
    """Results that no arithmetic gives: where `taken`, the pattern `bits`."""

    taken: Value
    bits: Value

    def over(self, m: Module, bits: Value) -> Value:
        """The result, this being decided in stage 1 and `bits` combinational in stage 6."""
        taken = register(m, self.taken, "special", stages=5)
        return Mux(taken, register(m, self.bits, "special_bits", stages=5), bits)


def _special(*cases: tuple[Value, Value | int]) -> Special:
    """The first case that holds."""
    taken, bits = C(0, 1), C(0, 32)
    for condition, value in reversed(cases):
        taken, bits = taken | condition, Mux(condition, value, bits)
    return Special(taken, bits)


def _split(m: Module, x: Value) -> tuple[Value, Value]:
    """(significand with its leading one at the top, biased exponent: signed, -22 to 254)."""
    parts = unpack(m, x, "x")
    count, normal = leading_zeros(m, parts.significand, "x_zeros")
    return normal, wire(m, parts.exponent - count, "x_exponent")


def _is(x: Value) -> tuple[Value, Value, Value]:
    """zero, infinite, nan."""
    size = x[:31]
    return size == 0, size == INF_BITS, size > INF_BITS


def exp2(m: Module, x: Value) -> Value:
    """x to fixed point with 25 bits below, rounded: 7 of index, 18 into the parabola."""
    _, _, nan = _is(x)
    parts = unpack(m, x, "x")
    large = x[:31] >= 0x43480000  # 200
    # At exponent 134, the largest below 200, the fixed point is significand << 9: 33 bits.
    far = wire(m, (134 - parts.exponent)[:8], "far")
    amount = wire(m, far[:6] | Mux(far[6:].any(), 63, 0), "amount")
    moved = shift_right(m, Cat(C(0, 10), parts.significand), amount, "fixed")  # + guard, sticky
    size = round_significand(m, moved, 33, "fixed")
    fixed = wire(m, Mux(parts.sign, -size, size)[:35].as_signed(), "fixed_signed")
    p = parabola(m, "exp2", register(m, fixed[18:25], "index"), register(m, fixed[:18], "below"))
    whole = register(m, fixed[25:].as_signed() + 127, "whole", stages=4)
    exponent, significand = denormalise(m, whole, p, "low")
    bits = round_pack(
        m,
        sign=C(0, 1),
        exponent=register(m, exponent, "exponent_5"),
        significand=register(m, significand, "significand_5"),
        name="round",
    )
    special = _special((nan, NAN_BITS), (large & x[31], 0), (large, INF_BITS))
    return special.over(m, bits)


def recip(m: Module, x: Value) -> Value:
    """1 / significand from 1/2 to 1; the exponent negated."""
    zero, infinite, nan = _is(x)
    significand, exponent = _split(m, x)
    p = parabola(
        m, "recip", register(m, significand[16:23], "index"), register(m, significand[:16], "below")
    )
    # x = significand * 2^(exponent - 150), so 1 / x = p * 2^-30 * 2^(127 - exponent).
    negated = register(m, 254 - exponent, "negated", stages=4)
    one = wire(m, p[30], "one")
    scaled, kept = denormalise(m, negated - ~one, Mux(one, p, p << 1)[:31], "low")
    bits = round_pack(
        m,
        sign=register(m, x[31], "sign", stages=5),
        exponent=register(m, scaled, "exponent_5"),
        significand=register(m, kept, "significand_5"),
        name="round",
    )
    signed_infinity = Cat(C(INF_BITS, 31), x[31])
    special = _special((nan, NAN_BITS), (zero, signed_infinity), (infinite, Cat(C(0, 31), x[31])))
    return special.over(m, bits)


def rsqrt(m: Module, x: Value) -> Value:
    """1 / sqrt(significand), from the table's upper half if the exponent is odd."""
    zero, infinite, nan = _is(x)
    significand, exponent = _split(m, x)
    unbiased = wire(m, exponent - 127, "unbiased")
    index = Cat(significand[16:23], unbiased[0])
    p = parabola(m, "rsqrt", register(m, index, "index"), register(m, significand[:16], "below"))
    negated = register(m, 127 - (unbiased >> 1), "negated", stages=4)
    one = wire(m, p[30], "one")
    bits = round_pack(
        m,
        sign=C(0, 1),
        exponent=register(m, negated - ~one, "exponent_5"),
        significand=register(m, Mux(one, p, p << 1)[:31], "significand_5"),
        name="round",
    )
    signed_infinity = Cat(C(INF_BITS, 31), x[31])
    special = _special((zero, signed_infinity), (nan | x[31], NAN_BITS), (infinite, 0))
    return special.over(m, bits)


def log2(m: Module, x: Value) -> Value:
    """exponent + t * slope, t = significand - 1 (from 3/2 on: significand / 2 - 1)."""
    zero, infinite, nan = _is(x)
    significand, exponent = _split(m, x)
    g = parabola(
        m, "log2", register(m, significand[16:23], "index"), register(m, significand[:16], "below")
    )
    upper = significand[22]  # the bit below the leading one
    # In units of 2^-24: 2 * (significand - 2^23), or significand - 2^24.
    fraction = significand[:23]
    t = wire(m, Mux(upper, fraction - (1 << 23), fraction << 1), "t")
    t_4 = register(m, t, "t_4", stages=4)
    e_4 = register(m, exponent - 127 + upper, "e_4", stages=4)
    total = register(m, (e_4 << 54) + t_4 * g, "total")  # in units of 2^-54
    negative = total < 0
    size = wire(m, Mux(negative, -total, total)[:62], "size")  # below 150 * 2^54
    count, normal = leading_zeros(m, size, "count")
    bits = round_pack(
        m,
        sign=negative,
        exponent=127 + 61 - 54 - count,
        significand=normal,
        name="round",
    )
    special = _special((zero, 0xFF800000), (nan | x[31], NAN_BITS), (infinite, INF_BITS))
    return special.over(m, bits)


FUNCTIONS: dict[str, Callable[[Module, Value], Value]] = {
    "exp2": exp2,
    "log2": log2,
    "recip": recip,
    "rsqrt": rsqrt,
    "sin_turns": sin_turns,
    "cos_turns": cos_turns,
}


def _primitive(name: str, compute: Callable[..., object]) -> Primitive:
    return Primitive(
        name=f"table_{name}",
        compute=compute,
        create=lambda: TableFunction(name),
        stages=TABLE_STAGES,
    )


EXP2 = _primitive("exp2", numerics.exp2)
LOG2 = _primitive("log2", numerics.log2)
RECIP = _primitive("recip", numerics.recip)
RSQRT = _primitive("rsqrt", numerics.rsqrt)
SIN_TURNS = _primitive("sin_turns", numerics.sin_turns)
COS_TURNS = _primitive("cos_turns", numerics.cos_turns)
"""VEW's functions: TABLE_FILL_CYCLES."""
