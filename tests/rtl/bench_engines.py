"""Engines that only take time, and a core's front with four of them."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect
from tests.rtl.bench_front import Memories

from mellivora.isa.encoding import SLOTS
from mellivora.isa.table import BY_NAME
from mellivora.rtl.fault_record import RECORD
from mellivora.rtl.front import EVENTS, NAMES, Front
from mellivora.rtl.interfaces import END, engine_signature
from mellivora.rtl.sharing import share
from mellivora.rtl.watchdog import Watchdog
from mellivora.sim.timing import Role

ROLE, COST, FAULT_AT = range(3)
"""Slots of an operation. FAULT_AT: a cause; the engine shows it as many cycles after the start as
it costs."""
LEFT_BITS = 16
ENTRY = data.StructLayout({"left": LEFT_BITS, "end": END})


class TimedEngine(wiring.Component):
    """An engine of 0002-timing: roles COMPUTE, COLLECTIVE (of one core), ORDER and TRANSFER.

    A transfer has one burst, which DRAM gives at once: it ends `latency` + 1 after its issue, and
    never before those before it. A LOADX starts when they have ended.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.module_name = f"timed_engine_{most}"
        self.has_reset = True
        super().__init__({"port": Out(engine_signature(most)), "latency": In(LEFT_BITS)})

    def elaborate(self, platform):
        m = Module()
        port = self.port
        op = port.op
        role, cost = op.slots[ROLE], op.slots[COST][:LEFT_BITS]
        flies = (role == Role.ORDER) | (role == Role.TRANSFER)
        flight = [Signal(ENTRY, name=f"flight{i}") for i in range(self.most)]
        held = Signal(LEFT_BITS)  # cycles after this one
        faulty, fault = Signal(), Signal(END)
        cause = Signal(4)

        fresh = Signal(ENTRY)
        m.d.comb += [
            fresh.end.valid.eq(port.start),
            *(fresh.end[name].eq(op[name]) for name in ("post0", "post1", "pc", "sequence")),
            fresh.left.eq(cost - 1 + Mux(role == Role.TRANSFER, self.latency + 1, 0)),
        ]
        after = (role == Role.COLLECTIVE) | (op.opcode == BY_NAME["loadx"].opcode)
        room = Mux(after, ~flight[0].end.valid, ~flight[-1].end.valid | ~flies)
        m.d.comb += port.ready.eq((held == 0) & room & ~faulty)
        with m.If(port.start):
            m.d.sync += held.eq(cost - 1)
        with m.Elif(held != 0):
            m.d.sync += held.eq(held - 1)
        with m.If(port.start & (op.slots[FAULT_AT] != 0)):
            m.d.sync += [faulty.eq(1), fault.eq(fresh.end), cause.eq(op.slots[FAULT_AT])]
        m.d.comb += [
            port.fault.valid.eq(faulty & (held == 0)),
            port.fault.cause.eq(cause),
            port.fault.pc.eq(fault.pc),
            port.fault.sequence.eq(fault.sequence),
        ]

        # What holds the engine to its end is not in the flight: it has a place of its own.
        alone = Signal(ENTRY)
        running = Signal(ENTRY)
        starts_alone = port.start & ~flies & (op.slots[FAULT_AT] == 0)
        m.d.comb += running.eq(Mux(starts_alone, fresh.as_value(), alone.as_value()))
        alone_ends = running.end.valid & (running.left == 0)
        m.d.sync += [
            alone.eq(running),
            alone.end.valid.eq(running.end.valid & ~alone_ends),
            alone.left.eq(running.left - 1),
        ]

        joins = port.start & flies & (op.slots[FAULT_AT] == 0)
        seen = []
        for i, entry in enumerate(flight):
            free = ~entry.end.valid & (flight[i - 1].end.valid if i else 1)
            one = Signal(ENTRY, name=f"seen{i}")
            m.d.comb += one.eq(Mux(free & joins, fresh.as_value(), entry.as_value()))
            seen.append(one)
        gone, before = [], 1
        for one in seen:
            before = before & one.end.valid & (one.left == 0)
            gone.append(before)
        for i, entry in enumerate(flight):
            m.d.sync += entry.eq(0)
            for n in range(self.most + 1 - i):
                with m.If(sum(gone) == n):
                    later = seen[i + n] if i + n < self.most else None
                    if later is not None:
                        m.d.sync += [
                            entry.eq(later),
                            entry.left.eq(Mux(later.left == 0, 0, later.left - 1)),
                        ]
        for i in range(self.most):
            m.d.comb += [port.ends[i].eq(seen[i].end), port.ends[i].valid.eq(gone[i])]
        with m.If(alone_ends):  # with a flight it is only a COMPUTE on a DMA engine: not tested
            m.d.comb += port.ends[0].eq(running.end)
        m.d.comb += port.active.eq(
            (held != 0) | alone.end.valid | Cat(one.end.valid for one in flight).any()
        )
        return m


SHOWN = data.StructLayout(
    {
        "sequence": 32,
        "start": 1,
        "ends": data.ArrayLayout(33, 4),  # valid, sequence
    }
)


class FrontBench(wiring.Component):
    """Front, its memories, four engines that take time, and the watchdog."""

    def __init__(self, chip):
        self.chip = chip
        self.has_reset = True
        self.module_name = f"front_bench_{chip.queue_depth}_{chip.outstanding_transfers}"
        super().__init__(
            {
                "fill_word": In(128),
                "fill_address": In(16),
                "fill_words": In(1),
                "fill_parameters": In(1),
                "run": In(1),
                "program_words": In(24),
                "latency": In(LEFT_BITS),
                "shown": Out(data.ArrayLayout(SHOWN, len(NAMES))),
                "record": Out(RECORD),
                "done": Out(1),
                "quiet": Out(1),
                "events": Out(EVENTS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        front, memories, watchdog = Front(self.chip), Memories(), Watchdog(1)
        m.submodules.front, m.submodules.memories = share(front), share(memories)
        m.submodules.watchdog = share(watchdog)
        for e, (name, most) in enumerate(zip(NAMES, front.ends_of, strict=True)):
            engine = TimedEngine(most)
            m.submodules[name] = share(engine)
            port = getattr(front, name)
            connect(m, port, engine.port)
            m.d.comb += [
                engine.latency.eq(self.latency),
                self.shown[e].sequence.eq(port.op.sequence),
                self.shown[e].start.eq(port.start),
            ]
            for i in range(most):
                m.d.comb += self.shown[e].ends[i].eq(Cat(port.ends[i].valid, port.ends[i].sequence))
        m.d.comb += [
            *(
                getattr(memories, name).eq(getattr(self, name))
                for name in ("fill_word", "fill_address", "fill_words", "fill_parameters")
            ),
            front.run.eq(self.run),
            front.program_words.eq(self.program_words),
            front.core_id.eq(0),
            front.cores.eq(1),
            memories.fetch_address.eq(front.fetch_address),
            front.fetch_word.eq(memories.fetch_word),
            front.parameter_count.eq(0),
            front.watchdog.eq(watchdog.expired),
            watchdog.quiet.eq(front.quiet),
            watchdog.done.eq(front.done | ~self.run),
            self.record.eq(front.record),
            self.done.eq(front.done),
            self.quiet.eq(front.quiet),
            self.events.eq(front.events),
        ]
        return m


assert SLOTS > FAULT_AT
