"""The activation quantiser: 32 FP32 values to one E8M0 scale and up to three slices of bytes."""

from amaranth.hdl import C, Cat, Module, Mux, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.numerics import BLOCK
from mellivora.numerics.formats import E8M0_NAN
from mellivora.rtl.fp32_fields import round_significand, shift_right
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive
from mellivora.rtl.sharing import share


class MxElement(wiring.Component):
    """q = x in units of 2^(scale - 127 - fraction bits), rounded and clipped, after 4 cycles.

    1  how far the significand lies below the scale
    2  shift right, a sticky bit beside
    3  round to nearest even, clip
    4  sign; scale 255 gives 0
    """

    x: In(32)
    scale: In(8)
    slices: In(2)
    q: Out(signed(24))
    module_name = "mx_element"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        x, slices = self.x, self.slices
        # A significand at the block's own exponent has 24 bits, of which 7, 15 or 23 remain.
        drop = Mux(slices == 1, 17, Mux(slices == 2, 9, 1))
        normal = x[23:31] != 0
        exponent = Cat(x[23] | ~normal, x[24:31])
        # Never negative: in a block of scale 0 the exponent is 1, and 1 bit is dropped at least.
        down = wire(m, (self.scale - exponent + drop)[:9], "down")
        amount = wire(m, down[:5] | Mux(down[5:].any(), 31, 0), "amount")
        amount_1 = register(m, amount, "amount_1")
        size_1 = register(m, Cat(x[:23], normal), "size_1")
        moved = shift_right(m, Cat(C(0, 1), size_1), amount_1, "moved")  # 26 bits
        rounded = round_significand(m, register(m, moved, "moved_2"), 24, "round")  # 25 bits
        slices_2 = register(m, slices, "slices_2", stages=2)
        most = Mux(slices_2 == 1, 127, Mux(slices_2 == 2, (1 << 15) - 1, (1 << 23) - 1))
        size_3 = register(m, Mux(rounded > most, most, rounded)[:23], "size_3")
        sign_3 = register(m, x[31], "sign_3", stages=3)
        invalid_3 = register(m, self.scale == E8M0_NAN, "invalid_3", stages=3)
        m.d.comb += self.q.eq(register(m, Mux(invalid_3, 0, Mux(sign_3, -size_3, size_3)), "q_out"))
        return m


class MxQuantise(wiring.Component):
    """scale and planes of a block after 6 cycles; a block each cycle.

    slices: 1 to 3. planes[0] is the signed slice, planes[j] the j-th byte below it; those from
    `slices` on are 0. The largest exponent field of the block takes two cycles (32 to 4, 4 to 1),
    `MxElement` four.
    """

    x: In(data.ArrayLayout(32, BLOCK))
    slices: In(2)
    scale: Out(8)
    planes: Out(data.ArrayLayout(data.ArrayLayout(8, BLOCK), 3))
    module_name = "mx_quantise"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        values = [Value.cast(self.x[i]) for i in range(BLOCK)]
        fields = largest(m, [x[23:31] for x in values], 4, "few")
        fields = [register(m, field, f"few_{i}") for i, field in enumerate(fields)]
        scale_2 = register(m, largest(m, fields, 1, "one")[0], "scale_2")
        slices_2 = register(m, self.slices, "slices_2", stages=2)
        slices_6 = register(m, slices_2, "slices_6", stages=4)
        one, two, three = (wire(m, slices_6 == count, f"is_{count}") for count in (1, 2, 3))
        m.d.comb += self.scale.eq(register(m, scale_2, "scale_6", stages=4))
        for i, x in enumerate(values):
            element = MxElement()
            m.submodules[f"element_{i}"] = share(element)
            top, middle, low = element.q[16:], element.q[8:16], element.q[:8]
            m.d.comb += [
                element.x.eq(register(m, x, f"x_2_{i}", stages=2)),
                element.scale.eq(scale_2),
                element.slices.eq(slices_2),
                self.planes[0][i].eq(Mux(one, low, Mux(two, middle, top))),
                self.planes[1][i].eq(Mux(two, low, Mux(three, middle, 0))),
                self.planes[2][i].eq(Mux(three, low, 0)),
            ]
        return m


def largest(m: Module, fields: list[Value], count: int, name: str) -> list[Value]:
    """The largest of each group, `count` groups."""
    while len(fields) > count:
        half = len(fields) // 2
        pairs = zip(fields[:half], fields[half:])
        fields = [wire(m, Mux(a > b, a, b), f"{name}_{half}_{i}") for i, (a, b) in enumerate(pairs)]
    return fields


MX_QUANTISE = Primitive(name="mx_quantise", compute=numerics.mx_slices, create=MxQuantise, stages=6)
"""VQUANT to MX1, MX2, MX3 by blocks of 32: QUANT_FILL_CYCLES."""
