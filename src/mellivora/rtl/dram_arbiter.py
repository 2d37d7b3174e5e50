"""The arbiter of docs/design/0002-timing.md, for rates of one burst a cycle or less."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl.pipeline import wire

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec


class DramArbiter(wiring.Component):
    """One of `asks` is granted in the same cycle, where the rate allows: round robin.

    Order: core 0 LOAD, core 0 STORE, core 1 LOAD, ..., multicast. The first cycle without `hold` is
    cycle 0; cycle g has the burst that the timing machine gives in cycle g + dram_latency_cycles.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.module_name = f"dram_arbiter_{chip.name}"
        requesters = 2 * chip.cores + 1
        super().__init__({"hold": In(1), "asks": In(requesters), "grants": Out(requesters)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        num, den = self.chip.dram_bursts_num, self.chip.dram_bursts_den
        begin = num * self.chip.dram_latency_cycles % den
        # Cycle T has a burst to give if (num * T) mod den + num >= den.
        phase = Signal(range(den), init=(begin + num) % den)  # of the next cycle
        give = Signal(init=begin + num >= den)
        total = wire(m, phase + num, "total")
        m.d.sync += [give.eq(total >= den), phase.eq(Mux(total >= den, total - den, total))]
        behind = Signal(len(self.asks))  # those after the one that was served last
        later = wire(m, self.asks & behind, "later")
        candidates = wire(m, Mux(later.any(), later, self.asks), "candidates")
        m.d.comb += self.grants.eq(Mux(give, candidates & -candidates, 0))
        with m.If(self.grants.any()):
            m.d.sync += behind.eq(Cat(self.grants[:i].any() for i in range(len(behind))))
        with m.If(self.hold):
            m.d.sync += [give.eq(give.init), phase.eq(phase.init), behind.eq(0)]
        return m
