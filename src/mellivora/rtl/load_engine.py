"""LOAD: DRAM to scratchpad; LOAD, LOADM, LSYNC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import C, Cat, Module, Signal, Value
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.table import BY_NAME
from mellivora.rtl.dma_flight import DmaFlight
from mellivora.rtl.dma_issue import DmaIssue
from mellivora.rtl.dma_walker import DmaWalker, fragment_layout
from mellivora.rtl.interfaces import ADDRESS_BITS, engine_signature, write_port
from mellivora.rtl.memory_link import load_link, reads_in_flight

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec


def window_lookup(chip: ChipSpec) -> dict[str, wiring.Member]:
    """A DMA engine's side of the window table: base and limit are due three cycles later."""
    return {
        "window": Out(range(chip.windows)),
        "base": In(ADDRESS_BITS),
        "limit": In(ADDRESS_BITS),
    }


class LoadEngine(wiring.Component):
    """The LOAD engine of a core: `memory` is its place at the memory port.

    A fragment granted in cycle g has its beat in g + latency - 1 and is written one cycle later.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.module_name = f"load_engine_{chip.name}"
        super().__init__(
            {
                **engine_signature(chip.outstanding_transfers).members,
                **window_lookup(chip),
                "memory": Out(load_link(chip)),
                "write": Out(write_port(chip.dram_burst_bytes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.issue = issue = DmaIssue(self.chip)
        m.submodules.flight = flight = DmaFlight(self.chip.outstanding_transfers)
        m.submodules.walker = walker = DmaWalker(self.chip)
        is_sync = Signal()
        m.d.comb += [
            is_sync.eq(self.op.opcode == BY_NAME["lsync"].opcode),
            self.ready.eq(~issue.busy & flight.room & ~self.fault.valid),
        ]
        join_issue(m, self, issue, flight, walker, is_sync, C(0))

        # What a beat on its way will need, in order of the requests.
        fragment = walker.fragment
        layout = fragment_layout(self.chip)
        wanted = ("near", "first", "final", "last")
        notes = data.StructLayout({name: layout[name].shape for name in wanted})
        m.submodules.notes = queue = fifo.SyncFIFOBuffered(
            width=notes.size, depth=reads_in_flight(self.chip)
        )
        note = data.View(notes, queue.r_data)
        m.d.comb += [
            self.memory.valid.eq(walker.valid),
            self.memory.multicast.eq(fragment.multicast),
            self.memory.burst.eq(fragment.burst),
            walker.take.eq(self.memory.grant),
            queue.w_en.eq(self.memory.grant),
            queue.w_data.eq(Cat(fragment[name] for name, _ in notes)),
            queue.r_en.eq(self.memory.beat),
        ]
        arrived = Signal()
        m.d.comb += flight.arrived.eq(arrived)
        m.d.sync += [
            self.write.enable.eq(self.memory.beat),
            arrived.eq(self.memory.beat & note.last),
        ]
        with m.If(self.memory.beat):
            m.d.sync += [
                self.write.address.eq(note.near),
                self.write.mask.eq(byte_mask(note.first, note.final, self.chip.dram_burst_bytes)),
                self.write.data.eq(self.memory.data),
            ]
        own = walker.valid & ~fragment.multicast
        m.d.comb += self.active.eq(issue.busy | own | (queue.level != 0) | arrived)
        return m


def join_issue(
    m: Module,
    engine: LoadEngine,
    issue: DmaIssue,
    flight: DmaFlight,
    walker: DmaWalker,
    is_sync: Value,
    is_other: Value,
) -> None:
    """Start, issue, verdict and end of a transfer or sync, alike in LOAD and STORE.

    is_other: `op` is neither, and no matter of theirs.
    """
    pc, sequence = Signal.like(engine.op.pc), Signal.like(engine.op.sequence)
    with m.If(engine.start):
        m.d.sync += [pc.eq(engine.op.pc), sequence.eq(engine.op.sequence)]
    faulty = issue.done & (issue.cause != 0)
    with m.If(faulty):
        m.d.sync += engine.fault.eq(Cat(1, issue.cause, pc, sequence))
    m.d.comb += [
        issue.op.eq(engine.op),
        issue.start.eq(engine.start & ~is_sync & ~is_other),
        engine.window.eq(issue.window),
        issue.base.eq(engine.base),
        issue.limit.eq(engine.limit),
        flight.op.eq(engine.op),
        flight.start.eq(engine.start & ~is_other),
        flight.sync.eq(is_sync),
        flight.issued.eq(issue.done & ~faulty),
        flight.empty.eq(issue.empty),
        engine.ends.eq(flight.ends),
        walker.push.eq(issue.push),
        walker.job.eq(issue.job),
    ]


def byte_mask(first: Value, final: Value, count: int) -> Value:
    """Bit i: first <= i <= final."""
    ones = C((1 << count) - 1, count)
    return (ones << first)[:count] & (ones >> ~final)  # a burst is a power of two
