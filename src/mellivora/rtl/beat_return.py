"""Of the answers of one cycle's grants, those of one core, in the order of its fragments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl.memory_master import chosen
from mellivora.rtl.pipeline import wire

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec


class BeatReturn(wiring.Component):
    """mine: slots that the core takes; rounds: of each, one bit, which of its taker's fragments it
    is; words: what memory answers. data: by fragment. All in the same cycle."""

    def __init__(self, chip: ChipSpec) -> None:
        self.module_name = f"beat_return_{chip.name}"
        slots, ways = chip.dram_slots, chip.core_port_bursts
        word = 8 * chip.dram_burst_bytes
        super().__init__(
            {
                "mine": In(slots),
                "rounds": In(data.ArrayLayout(ways, slots)),
                "words": In(data.ArrayLayout(word, slots)),
                "data": Out(data.ArrayLayout(word, ways)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for k in range(len(self.data)):
            here = wire(m, self.mine & Cat(one[k] for one in self.rounds), f"here_{k}")
            m.d.comb += self.data[k].eq(chosen(here, list(self.words)))
        return m
