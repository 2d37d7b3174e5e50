"""From what memory gives to what the lanes take: kinds of operands, formats of VDEQ, the mask."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.modes import Deq, Kind
from mellivora.rtl.e8m0 import e8m0_value
from mellivora.rtl.pipeline import wire
from mellivora.rtl.sharing import share
from mellivora.rtl.vector_control import BLOCK, MX_FORMATS, blocks_a_beat, control_layout, is_in
from mellivora.rtl.vector_lane import ONE_BITS, only_if
from mellivora.rtl.widen import f16_value
from mellivora.spec import ChipSpec

NEGATIVE_INFINITY = 0xFF800000
SCALE_BYTES = 2


def d_bytes(lanes: int) -> int:
    """Width of port d: the scales of a beat."""
    return max(4, lanes // 8)


class LaneOperand(wiring.Component):
    """t of one lane for VDEQ, after a cycle: FP32, an INT32, or a sign and 24 bits of magnitude.

    plane_0..2: its bytes of each plane; half: its two bytes (F16, BF16); whole: its four.
    enable: else it stands still. fp32: `whole` if `inside`, else -infinity.
    """

    enable: In(1)
    fp32: In(1)
    inside: In(1)
    deq: In(4)
    whole: In(32)
    half: In(16)
    plane_0: In(8)
    plane_1: In(8)
    plane_2: In(8)
    nibble: In(4)
    t: Out(32)
    module_name = "lane_operand"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        deq = self.deq
        top, middle, low = self.plane_0.as_signed(), self.plane_1, self.plane_2
        number: Value = top  # MX1, Q8_0, INT8
        number = Mux(deq == Deq.MX2, Cat(middle, top).as_signed(), number)
        number = Mux(deq == Deq.MX3, Cat(low, middle, top).as_signed(), number)
        number = Mux(deq == Deq.Q4_0, self.nibble - 8, number)
        number = wire(m, Mux(deq == Deq.Q4_1, self.nibble, number), "number")
        negative = number < 0
        size = wire(m, Mux(negative, -number, number)[:24], "size")
        integer = Cat(size, C(0, 7), negative)
        wide = Cat(C(0, 16), self.half)
        t = Mux(deq == Deq.F16, f16_value(m, self.half, "half"), integer)
        t = Mux(deq == Deq.BF16, wide, t)
        t = Mux(deq == Deq.INT32, self.whole, t)
        t = Mux(self.fp32, Mux(self.inside, self.whole, NEGATIVE_INFINITY), t)
        taken = Signal(32, name="t_out", reset_less=True)
        with m.If(self.enable):
            m.d.sync += taken.eq(t)
        m.d.comb += self.t.eq(taken)
        return m


class OperandSelect(wiring.Component):
    """t, x1, x2 of every lane, a cycle after the data of the ports: OPERANDS_STAGE in all.

    Stands still where no beat is `valid`.
    """

    def __init__(self, chip: ChipSpec) -> None:
        self.chip, lanes = chip, chip.lanes
        self.module_name = f"operand_select_{lanes}"
        words = data.ArrayLayout(32, lanes)
        super().__init__(
            {
                "control": In(control_layout(chip)),
                "valid": In(1),
                "high": In(1),
                "keep": In(lanes),
                "a": In(32 * lanes),
                "b": In(32 * lanes),
                "c": In(32 * lanes),
                "d": In(8 * d_bytes(lanes)),
                "t": Out(words),
                "x1": Out(words),
                "x2": Out(words),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, control = self.chip.lanes, self.control
        vdeq, deq = control.vdeq, control.deq
        scales, offsets = self._scales(m)
        self._t(m)
        for i in range(lanes):
            group = i // BLOCK
            b = self._operand(m, "b", control.b_kind, control.b_const, i)
            c = self._operand(m, "c", control.c_kind, control.c_const, i)
            x1 = Mux(vdeq, scales[group], only_if(control.uses_b, b))
            x1 = self._held(m, x1, f"x1_{i}")
            m.d.comb += self.x1[i].eq(Mux(control.square, self.t[i], x1))
            x2 = Mux(vdeq, only_if(deq == Deq.Q4_1, offsets[group]), only_if(control.uses_c, c))
            m.d.comb += self.x2[i].eq(self._held(m, x2, f"x2_{i}"))
        return m

    def _held(self, m: Module, value: Value, name: str) -> Signal:
        taken = Signal(len(value), name=name, reset_less=True)
        with m.If(self.valid):
            m.d.sync += taken.eq(value)
        return taken

    def _operand(self, m: Module, name: str, kind: Value, constant: Value, lane: int) -> Value:
        """Operand b or c of a lane."""
        port = getattr(self, name)
        scale = e8m0_value(m, port[8 * lane : 8 * lane + 8], 0, f"{name}_{lane}")
        word = Mux(kind == Kind.ROW, port[:32], port[32 * lane : 32 * lane + 32])
        word = Mux(kind == Kind.CONST, constant, word)
        return wire(m, Mux(kind == Kind.E8M0, scale, word), f"{name}_word_{lane}")

    def _scales(self, m: Module) -> tuple[list[Value], list[Value]]:
        """Scale and offset (Q4_1) of each block of a VDEQ beat."""
        deq = self.control.deq
        is_mx = is_in(deq, MX_FORMATS)
        slices = Mux(deq == Deq.MX1, 1, Mux(deq == Deq.MX2, 2, 3))
        shift = wire(m, (slices << 3) - 2, "scale_shift")
        scales, offsets = [], []
        for g in range(blocks_a_beat(self.chip.lanes)):
            power = e8m0_value(m, self.d[8 * g : 8 * g + 8], shift[:5], f"power_{g}")
            half = f16_value(m, self.d[16 * g : 16 * g + 16], f"scale_{g}")
            scale = Mux(deq == Deq.INT8, ONE_BITS, Mux(is_mx, power, half))
            scales.append(wire(m, scale, f"scale_{g}"))
            offset = f16_value(m, self.b[16 * g : 16 * g + 16], f"offset_{g}")
            offsets.append(wire(m, offset, f"offset_{g}"))
        return scales, offsets

    def _t(self, m: Module) -> None:
        lanes, control = self.chip.lanes, self.control
        for i in range(lanes):
            m.submodules[f"lane_{i}"] = share(lane := LaneOperand())
            byte = slice(8 * i, 8 * i + 8)
            m.d.comb += [
                lane.enable.eq(self.valid),
                lane.fp32.eq(~control.vdeq),
                lane.inside.eq(self.keep[i]),
                lane.deq.eq(control.deq),
                lane.whole.eq(self.a[32 * i : 32 * i + 32]),
                lane.half.eq(self.a[16 * i : 16 * i + 16]),
                lane.plane_0.eq(self.a[byte]),
                lane.plane_1.eq(self.b[byte]),
                lane.plane_2.eq(self.c[byte]),
                lane.nibble.eq(self._nibble(i)),
                self.t[i].eq(lane.t),
            ]

    def _nibble(self, lane: int) -> Any:
        """Column i of a block: the lower nibble of byte i, from 16 on the upper one of i - 16."""
        half = BLOCK // 2
        if self.chip.lanes >= BLOCK:
            group, place = divmod(lane, BLOCK)
            at = 8 * (half * group + place % half) + 4 * (place >= half)
            return self.a[at : at + 4]
        at = 8 * lane
        return Mux(self.high, self.a[at + 4 : at + 8], self.a[at : at + 4])
