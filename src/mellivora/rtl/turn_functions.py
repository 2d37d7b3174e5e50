"""sin_turns and cos_turns: x less the nearest integer, folded, times the slope of the sine there.

1  less the nearest integer, fold to a quarter turn, to fixed point of 27 bits
2, 3, 4  the parabola      5  multiply      6  normalise, round, pack
"""

from dataclasses import dataclass

from amaranth.hdl import C, Cat, Module, Mux, Value

from mellivora.numerics.fp32 import INF_BITS
from mellivora.rtl.fp32_fields import (
    leading_zeros,
    round_pack,
    round_significand,
    shift_left,
    shift_right,
    unpack,
)
from mellivora.rtl.parabola import parabola
from mellivora.rtl.pipeline import register, wire

_TURN_BITS = 27


@dataclass
class Turn:
    """|r| = size * 2^-(25 + extra), at most 1/2, r = x less the nearest integer; r < 0 where it is
    not 0. extra is 0 from |x| = 1/4 on; it can be up to 124."""

    size: Value
    extra: Value
    negative: Value


def _turn(m: Module, x: Value) -> Turn:
    parts = unpack(m, x, "x")
    high = wire(m, parts.exponent >= 125, "high")  # |x| >= 1/4
    left = wire(m, (parts.exponent - 125)[:8], "left")
    amount = wire(m, Mux(high, left[:5] | Mux(left[5:].any(), 31, 0), 0)[:5], "left_by")
    fraction = shift_left(m, Cat(parts.significand, C(0, 1)), amount, "turn")  # in 2^-25
    beyond = wire(m, fraction > 1 << 24, "beyond")  # which way a tie goes shows nowhere
    size = wire(m, Mux(beyond, (1 << 25) - fraction, fraction)[:25], "size")
    extra = wire(m, Mux(high, 0, 125 - parts.exponent)[:7], "extra")
    return Turn(size, extra, x[31] ^ beyond)


def _fixed(m: Module, size: Value, extra: Value) -> Value:
    """size * 2^-(25 + extra) to the nearest multiple of 2^-27: 27 bits."""
    amount = wire(m, extra[:5] | Mux(extra[5:].any(), 31, 0), "fixed_by")
    moved = shift_right(m, Cat(C(0, 3), size), amount, "fixed")[: len(size) + 4]
    return round_significand(m, moved, len(size) + 2, "fixed")[:27]


def _slope(m: Module, fixed: Value) -> Value:
    """sin(2 pi b) / b in 2^-26, 29 bits, 3 stages later than a register on b * 2^27."""
    index, below = register(m, fixed[18:26], "index"), register(m, fixed[:18], "below")
    return wire(m, (parabola(m, "sin", index, below) + 2) >> 2, "slope")[:29]


def sin_turns(m: Module, x: Value) -> Value:
    """sin(2 pi x), the result of stage 6."""
    turn = _turn(m, x)
    second = wire(m, turn.size > 1 << 23, "second") & (turn.extra == 0)  # beyond a quarter turn
    b = wire(m, Mux(second, (1 << 24) - turn.size, turn.size)[:24], "b")
    slope = _slope(m, _fixed(m, b, turn.extra))
    product = register(m, register(m, b, "b_4", stages=4) * slope, "product")  # 53 bits
    extra = register(m, turn.extra, "extra_5", stages=5)
    sign = register(m, Mux(b == 0, x[31], turn.negative), "sign", stages=5)
    count, _ = leading_zeros(m, product, "count")
    room = wire(m, 127 - extra, "room")[:7]  # how far the exponent allows to normalise
    shift = wire(m, Mux(count > room, room, count)[:6], "shift")
    return round_pack(
        m,
        sign=sign,
        exponent=128 - extra - shift,
        significand=shift_left(m, product, shift, "norm"),
        nan=register(m, x[:31] >= INF_BITS, "nan", stages=5),
        name="round",
    )


def cos_turns(m: Module, x: Value) -> Value:
    """cos(2 pi x), the result of stage 6: the sine of 1/4 - |r|."""
    turn = _turn(m, x)
    q = wire(m, (1 << _TURN_BITS - 2) - _fixed(m, turn.size, turn.extra), "q")
    size = wire(m, Mux(q < 0, -q, q)[:26], "q_size")
    slope = _slope(m, size)
    product = register(m, register(m, size, "size_4", stages=4) * slope, "product")  # 55 bits
    count, normal = leading_zeros(m, product, "count")
    return round_pack(
        m,
        sign=register(m, q < 0, "sign", stages=5),
        exponent=128 - count,
        significand=normal,
        nan=register(m, x[:31] >= INF_BITS, "nan", stages=5),
        name="round",
    )
