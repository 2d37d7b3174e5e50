"""An exact integer times the product of two scales: conversion and multiplication of MATRIX in one.

What the scales of operands are makes it small: A's are powers of two, B's are powers of two or were
FP16. So their product needs no multiplier, and has at most 11 significant bits.
"""

import numpy as np
import numpy.typing as npt
from amaranth.hdl import C, Cat, Module, Mux, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.rtl.fp32_fields import Fields, leading_zeros, round_pack, shift_left
from mellivora.rtl.pipeline import register, registers, wire
from mellivora.rtl.primitive import Primitive

DOT_BITS = 23
"""32 products of 9-bit integers: from -2^21 + 2^13 to 2^21, which is 32 * -256 * -256."""
SCALE_BITS = 11
"""Significant bits of a scale: FP16's."""
_FRACTION = SCALE_BITS - 1


class ScaleDot(wiring.Component):
    """q = fl(float(dot) * fl(sa * sb)) after 5 cycles.

    sa: plus or minus a power of two, or NaN. sb: a power of two or a widened FP16 number; `half`
    promises FP16. With other operands q has no meaning. `integer` passes dot on
    instead: its size in the low bits of q, its sign in the top bit.

    1  the scales' exponents added; the size of dot
    2  the scales' product rounded; leading zeros of dot
    3  dot without leading zeros, as far as the exponent allows
    4  22 x 11 bits
    5  the last bit of normalisation, round, pack
    """

    def __init__(self, bits: int = DOT_BITS, *, half: bool = False) -> None:
        self.bits, self.half = bits, half
        self.module_name = "scale_dot" if bits == DOT_BITS else f"scale_dot_{bits}"
        ports = {"dot": In(signed(bits)), "sa": In(32), "sb": In(32), "integer": In(1)}
        super().__init__({**ports, "q": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = self.bits - 1
        negative = self.dot < 0
        size_1 = register(m, Mux(negative, -self.dot, self.dot)[:width], "size_1")
        number = _operands(m, self.sa, self.sb, half=self.half)
        number.sign &= ~self.integer
        number_1 = registers(m, number, "number_1")
        number_1.sign ^= register(m, negative, "negative_1")

        integer_2 = register(m, self.integer, "integer_2", stages=2)
        count, _ = leading_zeros(m, size_1, "zeros")
        size_2, count_2 = register(m, size_1, "size_2"), register(m, count, "count_2")
        scale = _round(m, number_1)
        scale.nan |= scale.infinite & (size_1 == 0)
        number_2 = registers(m, scale, "number_2")

        # The top bit of size times significand has the exponent field room + 1; 1 is the least
        # there is. Below it the significand, which ends in zeros there, moves right.
        room = wire(m, number_2.exponent + (width - 1), "room")
        under = wire(m, room < 0, "under")
        shift = Mux(room < count_2, room, count_2)[: len(count_2)]
        shift = wire(m, Mux(integer_2 | under, 0, shift), "shift")
        size_3 = register(m, shift_left(m, size_2, shift, "norm"), "size_3")
        number_2.exponent = wire(m, Mux(under, 1, room + 1 - shift)[:9], "left")
        least = width - 1 - (SCALE_BITS + 12)  # _round gives 0 below
        down = wire(m, Mux(under, -room, 0)[: (-least).bit_length()], "down")
        significand = (number_2.significand >> down)[:SCALE_BITS]
        number_2.significand = Mux(integer_2, 1, significand)[:SCALE_BITS]
        digits = [register(m, digit, "digit_3") for digit in _digits(m, number_2.significand)]
        number_2.significand = C(0, 0)
        number_3 = registers(m, number_2, "number_3")

        product = register(m, _multiple(m, size_3, digits), "product")
        number_4 = registers(m, number_3, "number_4")
        once = wire(m, ~product[-1] & (number_4.exponent > 1), "once")
        padding = C(0, max(0, 26 - len(product)))
        packed = round_pack(
            m,
            sign=number_4.sign,
            exponent=(number_4.exponent - once)[:9],
            significand=Cat(padding, Mux(once, product << 1, product)[: len(product)]),
            nan=number_4.nan,
            infinite=number_4.infinite,
            name="round",
        )
        integer = register(m, integer_2, "integer_4", stages=2)
        whole = Cat(product[:width], C(0, 31 - width), number_4.sign)
        m.d.comb += self.q.eq(register(m, Mux(integer, whole, packed), "q_out"))
        return m


def _exponent(m: Module, bits: Value, name: str, *, subnormal: bool) -> Value:
    """The exponent field; of a subnormal power of two what it would be, -22 to 0."""
    field, fraction = bits[23:31], bits[:23]
    if not subnormal:
        return field
    place = Cat(Cat(fraction[i] for i in range(23) if i >> k & 1).any() for k in range(5))
    below = wire(m, Mux(field == 0, place - 22, 0)[:6].as_signed(), f"{name}_below")
    return wire(m, (field + below)[:10].as_signed(), f"{name}_exponent")


def _operands(m: Module, sa: Value, sb: Value, *, half: bool) -> Fields:
    """sa * sb = significand (11 bits, leading one first, or 0) * 2^(exponent - 137)."""
    a, b = _exponent(m, sa, "sa", subnormal=True), _exponent(m, sb, "sb", subnormal=not half)
    low, special = sb[23:31] == 0, sb[23:31] == 255  # low: a subnormal power, or 0
    fraction = sb[23 - _FRACTION : 23]
    zero = wire(m, low if half else sb[:31] == 0, "sb_zero")
    return Fields(
        sign=sa[31] ^ sb[31],
        exponent=wire(m, a + b - 127, "field"),
        significand=Cat(Mux(low, 0, fraction), ~zero),
        nan=(sa[23:31] == 255) | (special & fraction.any()),
        infinite=special & ~fraction.any(),
    )


def _round(m: Module, number: Fields) -> Fields:
    """The number in FP32: the significand's top bit is 1, or all of it 0."""
    field, significand = number.exponent, number.significand
    # FP32 ends at 2^-149: below field -12 the last bits of 11 go, as many as it is below.
    lost = wire(m, -_FRACTION - 2 - field, "lost")
    some = wire(m, lost > 0, "some_lost")
    mask = wire(m, Cat(some & (lost > i) for i in range(SCALE_BITS)), "mask")
    last = wire(m, mask & ~Cat(mask[1:], C(0, 1)), "half_unit")
    tie = ~(significand & mask & ~last).any()
    odd = (significand & Cat(0, last)).any()
    up = wire(m, (significand & last).any() & (odd | ~tie), "up")
    unit = Mux(up, Cat(C(0, 1), last), 0)
    rounded = wire(m, ((significand & ~mask) + unit)[: SCALE_BITS + 1], "rounded")
    carry = rounded[SCALE_BITS]
    whole = Mux(carry, 1 << _FRACTION, rounded[:SCALE_BITS])
    return Fields(
        sign=number.sign,
        exponent=wire(m, field + carry, "rounded_field"),
        significand=wire(m, Mux(some & (lost > SCALE_BITS), 0, whole), "kept"),
        nan=number.nan,
        infinite=number.infinite | ((field > 254) & significand[-1]),
    )


def _digits(m: Module, factor: Value) -> list[Value]:
    """The factor in digits of weight 4^k, from -2 to 2 (Booth): bits one, two, negative."""
    padded = Cat(C(0, 1), factor, C(0, 2))
    digits = []
    for k in range(len(factor) // 2 + 1):
        low, middle, high = padded[2 * k], padded[2 * k + 1], padded[2 * k + 2]
        two = Mux(high, ~middle & ~low, middle & low)
        digits.append(wire(m, Cat(middle ^ low, two, high), f"digit_{k}"))
    return digits


def _multiple(m: Module, size: Value, digits: list[Value]) -> Value:
    """size times the number with these digits: half the rows of a plain product."""
    width = len(size) + 2 * len(digits) - 1
    ends = Cat(Cat(digit[2], C(0, 1)) for digit in digits)  # what a negative row is short of
    total: Value = ends
    for k, digit in enumerate(digits):
        one, two, negative = digit[0], digit[1], digit[2]
        row = Mux(one, size, 0) | (Mux(two, size, 0) << 1)
        row = wire(m, Cat(row ^ negative.replicate(len(row)), negative).as_signed(), f"row_{k}")
        total = wire(m, total + (row << 2 * k), f"sum_{k}")
    return total[:width]


def scale_dot(dot: npt.ArrayLike, sa: npt.ArrayLike, sb: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """fl(float(dot) * fl(sa * sb)), float32."""
    return numerics.mul(numerics.from_int(np.asarray(dot)), numerics.mul(sa, sb))


SCALE_DOT = Primitive(name="scale_dot", compute=scale_dot, create=ScaleDot, stages=5)
"""MATRIX, "convert and scale"."""
