"""Operations of a LOAD or STORE queue from start to end: they end in the order they started in."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl.interfaces import END, OPERATION


class DmaFlight(wiring.Component):
    """At most `outstanding` operations. `ends` shows those in their last cycle, in any order.

    start: `op` starts; only where `room`. sync: it has nothing to issue and can end in this cycle.
    issued: the youngest, unless it was a sync, has been issued; `empty`: it has no data.
    arrived: so many operations with data, the oldest ones, have their last data in this cycle.
    An operation that is never `issued` never ends. quiet: nothing is in flight.
    """

    has_reset = True

    def __init__(self, outstanding: int, most: int = 1) -> None:
        """most: that may arrive in one cycle."""
        self.outstanding = outstanding
        self.module_name = f"dma_flight_{outstanding}_{most}"
        super().__init__(
            {
                "op": In(OPERATION),
                "start": In(1),
                "sync": In(1),
                "room": Out(1),
                "issued": In(1),
                "empty": In(1),
                "arrived": In(range(most + 1)),
                "quiet": Out(1),
                "ends": Out(data.ArrayLayout(END, outstanding)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        n = self.outstanding
        tail = Signal(range(n))
        used, issuing, has_data = Signal(n), Signal(n), Signal(n)
        unfinished = Signal(range(n + 1))  # operations with data
        before = Signal(range(n + 1))  # of these, before one that starts now
        gains = self.issued & ~self.empty
        m.d.comb += [
            self.room.eq(~used.bit_select(tail, 1)),
            self.quiet.eq(~used.any()),
            before.eq(unfinished - self.arrived),
        ]
        m.d.sync += unfinished.eq(before + gains)
        at_once = Signal()  # a sync that nothing is before
        m.d.comb += at_once.eq(self.start & self.sync & (before == 0))
        with m.If(self.start & ~at_once):
            m.d.sync += tail.eq(Mux(tail == n - 1, 0, tail + 1))
        for i in range(n):
            entry = Signal(END, name=f"entry{i}", reset_less=True)
            ahead = Signal(range(n + 1), name=f"ahead{i}", reset_less=True)  # unfinished before it
            here, ends = Signal(), Signal(name=f"ends{i}")
            m.d.comb += [
                here.eq(tail == i),
                ends.eq(
                    used[i]
                    & Mux(
                        has_data[i],
                        ahead < self.arrived,
                        (ahead <= self.arrived) & (~issuing[i] | (self.issued & self.empty)),
                    )
                ),
                self.ends[i].valid.eq(ends | (at_once & here)),
            ]
            for name in ("post0", "post1", "pc", "sequence"):
                own = Mux(used[i], entry[name], self.op[name])
                m.d.comb += self.ends[i][name].eq(own)
            m.d.sync += ahead.eq(Mux(ahead < self.arrived, 0, ahead - self.arrived))
            with m.If(ends):
                m.d.sync += used[i].eq(0)
            with m.If(self.issued):
                m.d.sync += issuing[i].eq(0)
            with m.If(gains & issuing[i]):
                m.d.sync += has_data[i].eq(1)
            with m.If(self.start & here & ~at_once):
                m.d.sync += [used[i].eq(1), issuing[i].eq(~self.sync), has_data[i].eq(0)]
                m.d.sync += [ahead.eq(before)]
                for name in ("post0", "post1", "pc", "sequence"):
                    m.d.sync += entry[name].eq(self.op[name])
        return m
