"""Ends a chip that cannot go on: all cores quiet, and not all of them done."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

WATCHDOG_CYCLES = 1024
"""Longer than anything that is under way without an active engine."""


class Watchdog(wiring.Component):
    """quiet, done: of each core. expired: one cycle, after WATCHDOG_CYCLES in which all were quiet
    and not all done."""

    def __init__(self, cores: int) -> None:
        self.module_name = f"watchdog_{cores}"
        self.has_reset = True
        super().__init__({"quiet": In(cores), "done": In(cores), "expired": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(range(WATCHDOG_CYCLES))
        with m.If(self.quiet.all() & ~self.done.all()):
            m.d.sync += count.eq(count + 1)
            m.d.comb += self.expired.eq(count == WATCHDOG_CYCLES - 1)
        with m.Else():
            m.d.sync += count.eq(0)
        return m
