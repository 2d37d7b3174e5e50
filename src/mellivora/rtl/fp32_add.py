"""FP32 addition: nearest even, subnormals kept, one NaN."""

from amaranth.hdl import C, Cat, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.numerics.fp32 import INF_BITS, NAN_BITS
from mellivora.rtl.fp32_fields import leading_zeros, shift_left, shift_right, unpack
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive


class Fp32Add(wiring.Component):
    """q = fl(a + b) after `stages` cycles: 3, or 2 with the first two in one.

    integers: has a port `integer`, with which q = a + the 22 low bits of b, or a less these if b's
    top bit is 1, modulo 2^32: MATRIX accumulates so. The sum goes where the larger number would.

    1  order by magnitude, how far apart; align by eights
    2  align by ones with guard, round and sticky bits, add or subtract
    3  round, or where many leading bits cancelled, normalise as far as the exponent allows
    """

    def __init__(self, *, stages: int = 3, integers: bool = False) -> None:
        assert stages in (2, 3)
        self.stages, self.integers = stages, integers
        self.module_name = ("fp32_add" if stages == 3 else "fp32_add_2") + integers * "_integer"
        choice = {"integer": In(1)} if integers else {}
        super().__init__({"a": In(32), "b": In(32), **choice, "q": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        swap = wire(m, self.a[:31] < self.b[:31], "swap")
        x = unpack(m, wire(m, Mux(swap, self.b, self.a), "larger"), "x")
        y = unpack(m, wire(m, Mux(swap, self.a, self.b), "smaller"), "y")
        # How far apart: both differences, so that it does not wait for which is larger.
        ends = [Cat(one[23] | (one[23:31] == 0), one[24:31]) for one in (self.a, self.b)]
        ahead, behind = wire(m, ends[0] - ends[1], "ahead"), wire(m, ends[1] - ends[0], "behind")
        distance = wire(m, Mux(ahead[8], behind, ahead)[:8], "distance")
        opposite = x.sign ^ y.sign
        nan = x.nan | y.nan | (x.infinite & y.infinite & opposite)

        gap = 1 if self.stages == 3 else 0
        integer = self.integer if self.integers else C(0, 1)
        off = self.b[31]
        size = wire(m, Cat(self.b[:22], C(0, 10)) ^ off.replicate(32), "size")
        # The carry comes in from a bit below: a sum of three would be a chain of full adders.
        whole = wire(m, (Cat(C(1, 1), self.a) + Cat(off, size))[1:33], "whole")
        far = wire(m, distance[5:].any(), "far")
        amount = wire(m, distance[:5] | far.replicate(5), "amount")
        fine = register(m, amount[:3], "fine", stages=gap)
        larger = Mux(integer, whole[:24], x.significand)
        larger = register(m, larger, "larger_1", stages=gap)
        smaller = Cat(C(0, 2), Mux(integer, 0, y.significand))
        coarse = shift_right(m, smaller, amount[3:], "coarse", unit=8)
        coarse = register(m, coarse, "coarse_1", stages=gap)
        subtract = register(m, opposite & ~integer, "subtract_1", stages=gap)
        exponent = wire(m, Mux(integer, whole[24:], x.exponent), "exponent_0")
        aligned = shift_right(m, coarse[1:], fine, "align")  # 27 bits
        aligned = Cat(aligned[0] | coarse[0], aligned[1:])
        flipped = wire(m, aligned ^ subtract.replicate(len(aligned)), "flipped")
        total = wire(m, (Cat(C(0, 3), larger) + Cat(flipped, subtract) + subtract)[:28], "total")

        total_2 = register(m, total, "total_2")
        exponent = register(m, exponent, "exponent", stages=gap + 1)
        q = _finish(
            m,
            total=total_2,
            exponent=exponent,
            # x is the larger, so its sign holds, but an exact 0 is +0 unless both are negative.
            sign=register(m, x.sign, "sign", stages=gap + 1),
            both=register(m, x.sign & y.sign, "both", stages=gap + 1),
            nan=register(m, nan, "nan", stages=gap + 1),
            infinite=register(m, x.infinite, "infinite", stages=gap + 1),
        )
        if self.integers:
            integer_2 = register(m, integer, "integer", stages=gap + 1)
            q = Mux(integer_2, Cat(total_2[3:27], exponent), q)
        m.d.comb += self.q.eq(register(m, q, "q_out"))
        return m


def _finish(
    m: Module,
    *,
    total: Value,
    exponent: Value,
    sign: Value,
    both: Value,
    nan: Value,
    infinite: Value,
) -> Value:
    """The pattern of a total of 28 bits; bit 26 weighs as x's hidden bit, the last three are the
    guard, round and sticky bits.

    Either one of the top three bits is set: the total moves by one place at most and is rounded.
    Or x and y were so close that nothing was shifted out but one bit: the total moves as far as it
    can and is exact. Neither needs the other, so they go side by side.
    """
    more = wire(m, exponent != 1, "more")  # there is room to move left
    left = wire(m, ~total[27] & ~total[26] & more, "left")
    near = wire(m, ~total[27] & ~total[26] & ~(total[25] & more), "near")
    placed = wire(m, Mux(total[27], Cat(total[1] | total[0], total[2:]),
                         Mux(left, total << 1, total))[:27], "placed")  # fmt: skip
    guard, rest = placed[2], placed[:2]
    up = wire(m, guard & (placed[3] | rest.any()), "up")
    base = wire(m, (exponent + total[27] - 1 - left)[:8], "base")
    rounded = wire(m, (Cat(placed[3:26], base) + Cat(C(0, 23), placed[26]) + up)[:32], "rounded")

    low = total[2:27]  # 25 bits
    count, _ = leading_zeros(m, low, "count")
    room = wire(m, exponent - 1, "room")
    shift = wire(m, Mux(room < count, room, count)[:5], "shift")
    moved = wire(m, shift_left(m, low, shift, "norm")[1:], "moved")  # 24 bits
    field = wire(m, Mux(moved[23], (exponent - shift)[:8], 0), "field")

    value = wire(m, Mux(near, Cat(moved[:23], field), rounded), "value")
    large = infinite | (~near & (rounded[23:] >= 255))
    magnitude = Mux(large, INF_BITS, value[:31])
    signed = Cat(magnitude[:31], Mux(total == 0, both, sign))
    return wire(m, Mux(nan, NAN_BITS, signed), "bits")


FP32_ADD = Primitive(name="fp32_add", compute=numerics.add, create=Fp32Add, stages=3)
"""The binary stage of VECTOR and the accumulator of MATRIX."""

FP32_ADD_2 = Primitive(
    name="fp32_add_2", compute=numerics.add, create=lambda: Fp32Add(stages=2), stages=2
)
"""The adder of the reduction tree."""
