"""The hardware loops of CONTROL: up to four open bodies, ends tested innermost first, at no cost.

A level holds the body's first pc, its last pc and the rounds that are left, this one included. Open
levels are a thermometer from level 0, the outermost. The LOOP that opens a level tests no ends, as
the new, innermost body cannot end at its own LOOP.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import LOOP_LEVELS

LOOP_PC_BITS = 33
"""A 24-bit pc plus a length of 31 bits: ends far past every program compare as they are."""


class LoopStack(wiring.Component):
    """Says where to go after the instruction that was last, and keeps the count.

    Within one cycle: `step` with `open_body` opens the body first .. last for `count` rounds;
    `step` without it tests the ends of open bodies at `at` and counts, as `jump` and `target` show.
    `full`: no level is free. `clear` closes all.
    """

    clear: In(1)
    step: In(1)
    open_body: In(1)
    at: In(LOOP_PC_BITS)
    first: In(LOOP_PC_BITS)
    last: In(LOOP_PC_BITS)
    count: In(32)
    full: Out(1)
    jump: Out(1)
    target: Out(LOOP_PC_BITS)
    module_name = "loop_stack"
    has_reset = True

    def elaborate(self, platform: object) -> Module:
        m = Module()
        is_open = Signal(LOOP_LEVELS)
        starts, ends, counts = (
            [Signal(bits, name=f"{name}{k}", reset_less=True) for k in range(LOOP_LEVELS)]
            for name, bits in (("start", LOOP_PC_BITS), ("end", LOOP_PC_BITS), ("count", 32))
        )
        m.d.comb += self.full.eq(is_open[-1])
        reached = ~self.open_body  # every level within this one is closed, or ends here for good
        jumps, pops = [], []
        for k in reversed(range(LOOP_LEVELS)):
            ends_here = Signal(name=f"ends_here{k}")
            over = Signal(name=f"over{k}")
            m.d.comb += [
                ends_here.eq(is_open[k] & (ends[k] == self.at)),
                over.eq(counts[k] == 1),
            ]
            jumps.insert(0, reached & ends_here & ~over)
            pops.insert(0, reached & ends_here & over)
            with m.If(self.step & jumps[0]):
                m.d.sync += counts[k].eq(counts[k] - 1)
            reached = reached & (~is_open[k] | (ends_here & over))

        target = starts[0]
        for k in range(1, LOOP_LEVELS):
            target = Mux(jumps[k], starts[k], target)
        m.d.comb += [self.jump.eq(Cat(*jumps).any()), self.target.eq(target)]

        with m.If(self.clear):
            m.d.sync += is_open.eq(0)
        with m.Elif(self.step & self.open_body):
            m.d.sync += is_open.eq(Cat(1, is_open[:-1]))
            for k in range(LOOP_LEVELS):
                below = is_open[k - 1] if k else 1
                with m.If(below & ~is_open[k]):
                    m.d.sync += [
                        starts[k].eq(self.first),
                        ends[k].eq(self.last),
                        counts[k].eq(self.count),
                    ]
        with m.Elif(self.step):
            m.d.sync += is_open.eq(is_open & ~Cat(*pops))
        return m
