"""One column's block of operand B: comes in dword by dword while the one before is multiplied."""

from amaranth.hdl import C, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.numerics import BLOCK
from mellivora.numerics.formats import E8M0_BIAS
from mellivora.rtl.b_unpack import LANES, STORED_BITS, UNPACK, unpack
from mellivora.rtl.dot32 import B_BITS, B_CODES
from mellivora.rtl.e8m0 import e8m0_value
from mellivora.rtl.pipeline import wire
from mellivora.rtl.widen import f16_value

B_CONTROL = data.StructLayout(
    {
        "unpack": UNPACK,
        "rows": 1,  # k-rows of bytes, not dwords of a column
        "slots": BLOCK,  # which codes this cycle's bytes are
        "scale": 1,  # this cycle brings scales (and offsets)
        "half": 1,  # scales are FP16, not E8M0
        "unit": 1,  # there are none: 1
        "offset": 1,  # Q4_1
        "is_signed": 1,  # with swap: its bytes are
        "swap": 1,  # the block that is complete is multiplied from the next cycle on
        "swap_scale": 1,  # its scale is due in the next cycle
        "shift": 5,  # with swap_scale: it is divided by 2^shift (E8M0)
    }
)
"""For all columns, in the cycle in which the memory shows the bytes."""


class BColumn(wiring.Component):
    """Two blocks: `slots` and `scale` fill one, `swap` copies it to the other, which is shown.

    In the cycle of `swap` the first may be written already. `b` changes in the cycle after it, `sb`
    and `minimum` in the cycle after `swap_scale`, before which the first's are still as they were.
    b: signed bytes; an unsigned one is shown less 128.
    """

    control: In(B_CONTROL)
    dword: In(32)
    rows: In(32)  # a byte for each lane of a group
    half_scale: In(16)
    half_minimum: In(16)
    b: Out(B_CODES)
    sb: Out(32)
    minimum: Out(32)
    module_name = "b_column"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control = self.control
        word = wire(m, Mux(control.rows, self.rows, self.dword), "word")
        low, high = unpack(m, word, control.unpack)
        next_codes, codes = (
            [Signal(STORED_BITS, name=f"{name}_{i}", reset_less=True) for i in range(BLOCK)]
            for name in ("next", "code")
        )
        for i, code in enumerate(next_codes):
            lanes = low if i < BLOCK // 2 else high
            with m.If(control.slots[i]):
                m.d.sync += code.eq(lanes[i % LANES])
        scale, minimum = Signal(16, reset_less=True), Signal(16, reset_less=True)
        with m.If(control.scale):
            byte = self.rows[:8]
            m.d.sync += scale.eq(Mux(control.half, self.half_scale, byte))
            with m.If(control.offset):
                m.d.sync += minimum.eq(self.half_minimum)
        power = e8m0_value(
            m, wire(m, Mux(control.unit, E8M0_BIAS, scale[:8]), "power"), control.shift, "scale"
        )
        shown, shown_minimum = Signal(32, reset_less=True), Signal(32, reset_less=True)
        with m.If(control.swap):
            top = Cat(C(0, B_BITS - 1), ~control.is_signed)
            m.d.sync += [code.eq(following ^ top) for code, following in zip(codes, next_codes)]
        with m.If(control.swap_scale):
            m.d.sync += shown.eq(Mux(control.half, f16_value(m, scale, "half"), power))
            with m.If(control.offset):
                m.d.sync += shown_minimum.eq(f16_value(m, minimum, "minimum"))
        m.d.comb += [
            self.b.eq(Cat(codes)),
            self.sb.eq(shown),
            self.minimum.eq(shown_minimum),
        ]
        return m
