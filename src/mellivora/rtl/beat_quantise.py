"""VQUANT behind the lanes: the largest exponent of each block, or row, then its beats rounded."""

from amaranth.hdl import C, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.modes import Store
from mellivora.rtl.mx_quantise import MxElement, largest
from mellivora.rtl.narrow import NARROW_STAGES, ToBf16, ToF16, ToInt8
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.sharing import share
from mellivora.rtl.vector_control import BLOCK, TOKEN, beats_a_block, blocks_a_beat
from mellivora.rtl.vector_lane import only_if
from mellivora.spec import ChipSpec

SCALE_STAGES = 2
"""The largest exponent of a beat."""
ELEMENT_STAGES = 4
PLANES = 3


def quantise_stages(lanes: int) -> int:
    """From a beat to its codes: a beat waits until the last one of its block is looked at."""
    return SCALE_STAGES + beats_a_block(lanes) - 1 + ELEMENT_STAGES


class LaneQuantise(wiring.Component):
    """Codes of one lane 4 cycles after x: by the scale of its block, or narrow."""

    x: In(32)
    scale: In(8)
    target: In(3)
    enable: In(1)
    planes: Out(data.ArrayLayout(8, PLANES))
    narrow: Out(16)
    module_name = "lane_quantise"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        target, enable = self.target, self.enable
        m.submodules.element = share(element := MxElement())
        slices = wire(m, Mux(enable & (target <= Store.MX3), target, 0)[:2], "slices")
        m.d.comb += [
            element.x.eq(only_if(slices != 0, self.x)),
            element.scale.eq(only_if(slices != 0, self.scale)),
            element.slices.eq(slices),
        ]
        parts = [element.q[8 * i : 8 * i + 8] for i in range(PLANES)]
        for j in range(PLANES):  # plane j of n slices is byte n - 1 - j
            plane: Value = C(0, 8)
            for count in range(j + 1, PLANES + 1):
                plane = Mux(slices == count, parts[count - 1 - j], plane)
            m.d.comb += self.planes[j].eq(plane)
        narrow: Value = C(0, 16)
        units = {Store.F16: ToF16(), Store.BF16: ToBf16(), Store.INT8: ToInt8()}
        for store, unit in units.items():
            m.submodules[store.name.lower()] = share(unit)
            asked = wire(m, enable & (target == store), f"is_{store.name.lower()}")
            m.d.comb += unit.x.eq(only_if(asked, self.x))
            narrow = Mux(asked, unit.q, narrow)
        later = ELEMENT_STAGES - NARROW_STAGES
        m.d.comb += self.narrow.eq(register(m, narrow[:16], "narrow_late", stages=later))
        return m


class BeatQuantise(wiring.Component):
    """codes, narrow and scales of a beat, `quantise_stages` after it.

    Blocks of 32: fewer lanes have some beats a block, whose largest exponent runs along; the beats
    wait in a line meanwhile. wide: the first pass over a row gives the scale for the second.
    Stands still while not `enable`d.
    """

    has_reset = False

    def __init__(self, chip: ChipSpec) -> None:
        self.chip, lanes = chip, chip.lanes
        self.module_name = f"beat_quantise_{lanes}"
        self.blocks = blocks_a_beat(lanes)
        super().__init__(
            {
                "enable": In(1),
                "target": In(3),
                "wide": In(1),
                "token": In(TOKEN),
                "inside": In(lanes),
                "x": In(data.ArrayLayout(32, lanes)),
                "codes": Out(data.ArrayLayout(data.ArrayLayout(8, lanes), PLANES)),
                "narrow": Out(data.ArrayLayout(16, lanes)),
                "scales": Out(data.ArrayLayout(8, self.blocks)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes, within = self.chip.lanes, beats_a_block(self.chip.lanes)
        x = [only_if(self.enable, self.x[i]) for i in range(lanes)]
        scales = self._scales(m, x)
        for g, scale in enumerate(scales):
            late = register(m, scale, f"scale_late_{g}", stages=ELEMENT_STAGES)
            m.d.comb += self.scales[g].eq(late)
        wait = SCALE_STAGES + within - 1
        for i in range(lanes):
            m.submodules[f"lane_{i}"] = share(lane := LaneQuantise())
            m.d.comb += [
                lane.x.eq(register(m, x[i], f"x_{i}", stages=wait)),
                lane.scale.eq(scales[i // BLOCK]),
                lane.target.eq(self.target),
                lane.enable.eq(self.enable),
                self.narrow[i].eq(lane.narrow),
                *(self.codes[j][i].eq(lane.planes[j]) for j in range(PLANES)),
            ]
        return m

    def _scales(self, m: Module, x: list[Value]) -> list[Value]:
        """The scale of each block, for the beat that leaves the line."""
        lanes, within, token = self.chip.lanes, beats_a_block(self.chip.lanes), self.token
        counts = token.valid & (~self.wide | ~token.second)
        fields = [
            wire(m, only_if(self.inside[i] & counts, x[i][23:31]), f"field_{i}")
            for i in range(lanes)
        ]
        size = min(lanes, BLOCK)
        few = [
            [
                register(m, field, f"few_{g}_{i}")
                for i, field in enumerate(
                    largest(m, fields[g * size : (g + 1) * size], size // 8, f"few_{g}")
                )
            ]
            for g in range(self.blocks)
        ]
        done = Mux(self.wide, token.row_last & ~token.second, token.block_last)
        counts_1 = register(m, counts, "counts_1")
        done_1 = register(m, counts & done, "done_1")
        each = [largest(m, few[g], 1, f"one_{g}")[0] for g in range(self.blocks)]
        if lanes < BLOCK:
            scale = self._running(m, each[0], counts_1, done_1, "block")
            late = register(m, scale, "scale_wide", stages=within - 1)
            return [wire(m, Mux(self.wide, late, scale), "scale_0")]
        block = [register(m, one, f"block_{g}") for g, one in enumerate(each)]
        whole = largest(m, block, 1, "whole")[0]
        counts_2, done_2 = register(m, counts_1, "counts_2"), register(m, done_1, "done_2")
        row = self._running(m, whole, counts_2, done_2, "row")
        return [wire(m, Mux(self.wide, row, one), f"scale_{g}") for g, one in enumerate(block)]

    def _running(self, m: Module, one: Value, counts: Value, done: Value, name: str) -> Value:
        """The largest since the last `done`, held from there on."""
        running = Signal(8, name=f"{name}_running", init=0)
        scale = Signal(8, name=f"{name}_scale", reset_less=True)
        total = wire(m, Mux(one > running, one, running), f"{name}_total")
        with m.If(counts):
            m.d.sync += running.eq(Mux(done, 0, total))
        with m.If(done):
            m.d.sync += scale.eq(total)
        return scale
