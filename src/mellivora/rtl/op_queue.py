"""The queue of an engine: operations in program order, the head shown from registers."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl.interfaces import OPERATION


class OpQueue(wiring.Component):
    """What is pushed in cycle u is seen, if it is the head, in cycle u+1. depth: 2 or more.

    It has one place more than its depth. CONTROL may push while `over` is 0, and has to wait while
    it is 1, that is while the last place is taken: so an operation for a full queue waits there
    instead of in CONTROL, nothing passes it, it cannot be the head, and whoever waits goes on in
    the same cycle. `over` is a register's output; the start of an engine does not reach CONTROL
    within a cycle.

    clear: forgets all. push only without `over`; pop only with `valid`.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.module_name = f"op_queue_{depth}"
        self.has_reset = True
        super().__init__(
            {
                "clear": In(1),
                "push": In(1),
                "op_in": In(OPERATION),
                "pop": In(1),
                "op": Out(OPERATION),
                "valid": Out(1),
                "over": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        places = self.depth + 1
        m.submodules.places = store = memory.Memory(shape=OPERATION.size, depth=places, init=[])
        write, read = store.write_port(), store.read_port(domain="comb")
        tail = Signal(range(places))
        head = Signal(range(places))
        level = Signal(range(places + 1))
        m.d.comb += [
            write.addr.eq(tail),
            write.data.eq(self.op_in),
            write.en.eq(self.push),
            read.addr.eq(head),
            self.op.eq(read.data),
            self.valid.eq(level != 0),
            self.over.eq(level == places),
        ]
        for enable, pointer in ((self.push, tail), (self.pop, head)):
            with m.If(enable):
                m.d.sync += pointer.eq(Mux(pointer == places - 1, 0, pointer + 1))
        m.d.sync += level.eq(level + self.push - self.pop)
        with m.If(self.clear):
            m.d.sync += [level.eq(0), tail.eq(0), head.eq(0)]
        return m
