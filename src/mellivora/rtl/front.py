"""The front of a core: all of it but the engines and their memories.

CONTROL fills the queues; a head starts when its engine is ready and its tokens are there; what ends
posts.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import ENGINES, LOAD, PARAMETERS, STORE
from mellivora.isa.table import COLLECTIVES, TABLE
from mellivora.rtl.control import PARAMETER_BITS, WORD_BITS, Control
from mellivora.rtl.fault_record import RECORD, FaultRecord
from mellivora.rtl.in_flight import InFlight
from mellivora.rtl.interfaces import PC_BITS, engine_signature
from mellivora.rtl.op_queue import OpQueue
from mellivora.rtl.page_table import PAGES, pages_of
from mellivora.rtl.semaphores import OVERFLOW_CYCLES, Semaphores
from mellivora.rtl.sharing import share
from mellivora.spec import ChipSpec

TRANSFERS = tuple(row.opcode for row in TABLE if row.bursts)
NAMES = tuple(name.lower() for name in ENGINES[LOAD:])
WORKERS = len(NAMES)

EVENTS = data.StructLayout(
    {
        "running": 1,  # begun and not done
        "valid": WORKERS,  # the queue has a head
        "ready": WORKERS,  # its engine could take one
        "start": WORKERS,
        "holds": WORKERS,  # something has started and not ended
        "ended": data.ArrayLayout(8, WORKERS),  # operations that end in this cycle
        "stall": 1,  # CONTROL waits for a queue
        "lacks": WORKERS,  # the head misses a token
        "posters": data.ArrayLayout(WORKERS, WORKERS),  # who posts now what it lacks
        "moves": 2,  # the head of LOAD, STORE has an issue of its own
        "pages": PAGES,  # entries of its table that the head of LOAD reads in it
        "together": 1,  # the head of STORE needs all cores
    }
)
"""What performance counters count, in the cycle in which it happens."""


class Front(wiring.Component):
    """CONTROL, queues, semaphores, fault record.

    run: 0 for a cycle or more makes all as at the doorbell; the first cycle with 1 is cycle 0.
    load, store, matrix, vector: the engines. They are to be at rest when `run` rises.
    parameter_write, _address, _data: of the parameter memory.
    record: the first fault. done: all has ended, or a fault is recorded and no engine is active.
    quiet: nothing can happen in this core without another one. watchdog: see FaultRecord.
    """

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        transfers = chip.outstanding_transfers
        self.ends_of = (transfers, transfers, 1, 1)
        self.module_name = f"front_{chip.queue_depth}_{transfers}"
        self.has_reset = True
        super().__init__(
            {
                "run": In(1),
                "core_id": In(16),
                "cores": In(16),
                "program_words": In(PC_BITS),
                "fetch_address": Out(PC_BITS),
                "fetch_word": In(WORD_BITS),
                "parameter_count": In(PARAMETER_BITS + 1),
                "parameter_write": In(1),
                "parameter_address": In(PARAMETER_BITS),
                "parameter_data": In(32),
                "watchdog": In(1),
                "record": Out(RECORD),
                "done": Out(1),
                "quiet": Out(1),
                "events": Out(EVENTS),
                **{n: In(engine_signature(k)) for n, k in zip(NAMES, self.ends_of, strict=True)},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control, semaphores = Control(), Semaphores(self.chip.outstanding_transfers)
        record = FaultRecord()
        queues = [OpQueue(self.chip.queue_depth) for _ in NAMES]
        flights = [InFlight(count) for count in self.ends_of]
        m.submodules.control, m.submodules.semaphores = share(control), share(semaphores)
        m.submodules.record = share(record)
        self._control(m, control)

        engines = [getattr(self, name) for name in NAMES]
        # An engine's fault stops the starts a cycle later, and waits for the overflows of its own
        # cycle before it is recorded: of all of one cycle the oldest counts.
        faulty = [Cat(engine.fault.valid for engine in engines)]
        for age in range(1, OVERFLOW_CYCLES + 1):
            faulty.append(Signal(WORKERS, name=f"faulty_{age}"))
            m.d.sync += faulty[age].eq(faulty[age - 1])
        for e, (engine, queue, flight) in enumerate(zip(engines, queues, flights, strict=True)):
            m.submodules[f"queue_{NAMES[e]}"] = share(queue)
            m.submodules[f"flight_{NAMES[e]}"] = share(flight)
            start = semaphores.start[e]
            m.d.comb += [
                queue.clear.eq(~self.run),
                queue.push.eq(control.push & control.engine[e]),
                queue.op_in.eq(control.op),
                queue.pop.eq(start),
                engine.op.eq(queue.op),
                engine.start.eq(start),
                semaphores.valid[e].eq(queue.valid),
                semaphores.ready[e].eq(engine.ready),
                semaphores.waits[e].wait0.eq(queue.op.wait0),
                semaphores.waits[e].wait1.eq(queue.op.wait1),
                getattr(semaphores, f"ends{e}").eq(engine.ends),
                flight.clear.eq(~self.run),
                flight.start.eq(start),
                flight.place.pc.eq(queue.op.pc),
                flight.place.sequence.eq(queue.op.sequence),
                flight.ends.eq(engine.ends),
                record.engines[e].eq(engine.fault),
                record.engines[e].valid.eq(faulty[OVERFLOW_CYCLES][e]),
                record.pending[e].eq(flight.busy | queue.valid),
                record.oldest[e].pc.eq(flight.oldest.pc),
                record.oldest[e].sequence.eq(flight.oldest.sequence),
                self.events.ended[e].eq(flight.ended),
            ]
            with m.If(~flight.busy):
                m.d.comb += [
                    record.oldest[e].pc.eq(queue.op.pc),
                    record.oldest[e].sequence.eq(queue.op.sequence),
                ]

        drained = ~record.pending.any()
        active = Cat(engine.active for engine in engines).any()
        stopped = control.halted | control.fault.valid
        stall = Cat(queue.over for queue in queues).any()
        m.d.comb += [
            control.stall.eq(stall),
            semaphores.clear.eq(~self.run),
            semaphores.stop.eq(record.record.valid | faulty[1].any() | ~self.run),
            record.clear.eq(~self.run),
            record.overflow.eq(semaphores.overflow),
            record.control.eq(control.fault),
            record.drained.eq(drained & ~semaphores.past),
            record.watchdog.eq(self.watchdog & ~self.done),
            self.record.eq(record.record),
            self.done.eq(
                (control.halted & drained & ~record.record.valid & ~semaphores.past)
                | (record.record.valid & ~active)
            ),
            self.quiet.eq(
                (stall | stopped | record.record.valid) & ~active & ~semaphores.start.any()
            ),
            self.events.running.eq(self.run & ~self.done),
            self.events.valid.eq(semaphores.valid),
            self.events.ready.eq(semaphores.ready),
            self.events.start.eq(semaphores.start),
            self.events.holds.eq(Cat(flight.busy for flight in flights)),
            self.events.stall.eq(stall & ~stopped),
            self.events.lacks.eq(semaphores.lacks),
            self.events.posters.eq(semaphores.posters),
            self.events.pages.eq(pages_of(queues[0].op)),
        ]
        for e, queue in enumerate(queues[:2]):
            with m.Switch(queue.op.opcode):
                with m.Case(*TRANSFERS):
                    m.d.comb += self.events.moves[e].eq(1)
                if LOAD + e == STORE:
                    with m.Case(*COLLECTIVES):
                        m.d.comb += self.events.together.eq(1)
        return m

    def _control(self, m: Module, control: Control) -> None:
        """The ports of CONTROL that go outside, and the parameter memory."""
        m.submodules.parameters = parameters = memory.Memory(shape=32, depth=PARAMETERS, init=[])
        write, read = parameters.write_port(), parameters.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(self.parameter_address),
            write.data.eq(self.parameter_data),
            write.en.eq(self.parameter_write),
            read.addr.eq(control.parameter_address),
            control.parameter_value.eq(read.data),
            self.fetch_address.eq(control.fetch_address),
            control.fetch_word.eq(self.fetch_word),
        ]
        for name in ("run", "core_id", "cores", "program_words", "parameter_count"):
            m.d.comb += getattr(control, name).eq(getattr(self, name))
