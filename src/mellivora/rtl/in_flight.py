"""Where the operations stand that an engine has started and not ended."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl.interfaces import END, PC_BITS

PLACE = data.StructLayout({"pc": PC_BITS, "sequence": 32})
"""Where an operation stands in the program and in its run."""


class InFlight(wiring.Component):
    """A ring of the places of started operations; an engine ends them in order.

    most: operations that may be in flight, and end in one cycle. An operation may end in the cycle
    of its start. busy, oldest: as of before this cycle's start and ends.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.module_name = f"in_flight_{most}"
        self.has_reset = True
        super().__init__(
            {
                "clear": In(1),
                "start": In(1),
                "place": In(PLACE),
                "ends": In(data.ArrayLayout(END, most)),
                "ended": Out(range(most + 1)),
                "busy": Out(1),
                "oldest": Out(PLACE),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        places = max(self.most, 2)
        m.submodules.ring = ring = memory.Memory(shape=PLACE.size, depth=places, init=[])
        write, read = ring.write_port(), ring.read_port(domain="comb")
        tail, head = Signal(range(places)), Signal(range(places))
        level = Signal(range(self.most + 1))
        following = head + self.ended
        m.d.comb += [
            self.ended.eq(sum(self.ends[i].valid for i in range(self.most))),
            write.addr.eq(tail),
            write.data.eq(self.place),
            write.en.eq(self.start),
            read.addr.eq(head),
            self.oldest.eq(read.data),
            self.busy.eq(level != 0),
        ]
        m.d.sync += [
            level.eq(level + self.start - self.ended),
            head.eq(Mux(following >= places, following - places, following)),
        ]
        with m.If(self.start):
            m.d.sync += tail.eq(Mux(tail == places - 1, 0, tail + 1))
        with m.If(self.clear):
            m.d.sync += [level.eq(0), tail.eq(0), head.eq(0)]
        return m
