"""The arbiter of docs/design/0002-timing.md: whose bursts, and how many, a cycle moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl.pipeline import wire

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec


class DramArbiter(wiring.Component):
    """`asks` is granted in the same cycle as far as the rate allows: one at a time, round robin.

    Order: core 0 LOAD, core 0 STORE, core 1 LOAD, ..., multicast. The first cycle without `hold` is
    cycle 0; cycle g has the bursts that the timing machine gives in cycle g + dram_latency_cycles.

    asks: fragments that each requester has, up to a core port's. grants: how many of them go.
    slots: for each burst of this cycle whose it is, a bit for each requester, or none; rounds:
    which of its requester's it is, one bit.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.module_name = f"dram_arbiter_{chip.name}"
        self.ways, self.requesters = chip.core_port_bursts, 2 * chip.cores + 1
        counts = data.ArrayLayout(range(self.ways + 1), self.requesters)
        super().__init__(
            {
                "hold": In(1),
                "asks": In(counts),
                "grants": Out(counts),
                "slots": Out(data.ArrayLayout(self.requesters, chip.dram_slots)),
                "rounds": Out(data.ArrayLayout(self.ways, chip.dram_slots)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        given = self._given(m)
        behind = Signal(self.requesters)  # those after the one that was served last
        # A round gives each requester that still has a fragment one, those behind first.
        hits: list[list[Value]] = [[] for _ in given]  # by slot: for each round those served
        served: list[list[Value]] = [[] for _ in range(self.requesters)]
        before: Value = Const(0)
        for k in range(self.ways):
            has = wire(m, Cat(ask > k for ask in self.asks), f"has_{k}")
            near = _prefix_sums(m, wire(m, has & behind, f"near_{k}"))
            far = _prefix_sums(m, wire(m, has & ~behind, f"far_{k}"))
            order = [
                wire(m, before + Mux(behind[i], near[i], near[-1] + far[i]), f"order_{k}_{i}")
                for i in range(self.requesters)
            ]
            before = wire(m, before + near[-1] + far[-1], f"asked_{k}")
            for slot, gives in enumerate(given):
                mine = Cat(has[i] & (order[i] == slot) for i in range(self.requesters))
                hits[slot].append(wire(m, Mux(gives, mine, 0), f"hits_{k}_{slot}"))
            for i in range(self.requesters):
                served[i].append(Cat(row[k][i] for row in hits).any())
        for i, rounds in enumerate(served):
            m.d.comb += self.grants[i].eq(_prefix_sums(m, wire(m, Cat(rounds), f"served_{i}"))[-1])
        for slot, rounds in enumerate(hits):
            whose = self.slots[slot]
            m.d.comb += [
                whose.eq(Cat(Cat(one[i] for one in rounds).any() for i in range(len(whose)))),
                self.rounds[slot].eq(Cat(one.any() for one in rounds)),
            ]
            with m.If(whose.any()):  # the last slot in use has the last word
                m.d.sync += behind.eq(Cat(whose[:i].any() for i in range(len(behind))))
        with m.If(self.hold):
            m.d.sync += behind.eq(0)
        return m

    def _given(self, m: Module) -> list[Value]:
        """Whether this cycle has a burst to give for each slot.

        Cycle T has floor(num * (T+1) / den) - floor(num * T / den).
        """
        whole, num = divmod(self.chip.dram_bursts_num, den := self.chip.dram_bursts_den)
        given: list[Value] = [Const(1)] * whole
        if num:
            begin = num * self.chip.dram_latency_cycles % den
            phase = Signal(range(den), init=(begin + num) % den)  # of the next cycle
            more = Signal(init=begin + num >= den)
            total = wire(m, phase + num, "total")
            m.d.sync += [more.eq(total >= den), phase.eq(Mux(total >= den, total - den, total))]
            with m.If(self.hold):
                m.d.sync += [more.eq(more.init), phase.eq(phase.init)]
            given.append(more)
        return given


def _prefix_sums(m: Module, bits: Value) -> list[Value]:
    """How many of the bits below each are set; last, how many are set. Of logarithmic depth."""
    if len(bits) == 1:
        return [Const(0), bits]
    half = len(bits) // 2
    low, high = _prefix_sums(m, bits[:half]), _prefix_sums(m, bits[half:])
    return [*low, *(wire(m, low[-1] + one, "sum") for one in high[1:])]
