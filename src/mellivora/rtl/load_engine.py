"""LOAD: DRAM to scratchpad; LOAD, LOADM, LOADX, LSYNC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import GATHER_PAGES
from mellivora.isa.table import BY_NAME, LOAD_CONFIG
from mellivora.rtl.dma_flight import DmaFlight
from mellivora.rtl.dma_issue import DmaIssue
from mellivora.rtl.dma_walker import DmaWalker, fragment_layout
from mellivora.rtl.interfaces import ADDRESS_BITS, engine_signature, read_port, write_port
from mellivora.rtl.memory_link import load_link, reads_in_flight
from mellivora.rtl.page_table import PageTable

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
    table: where a LOADX reads its pages.
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
                "table": Out(read_port(4)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.issue = issue = DmaIssue(self.chip)
        m.submodules.flight = flight = DmaFlight(self.chip.outstanding_transfers)
        m.submodules.walker = walker = DmaWalker(self.chip)
        m.submodules.page_table = pages = PageTable(self.chip)
        is_sync, is_gather = Signal(), Signal()
        m.d.comb += [
            is_sync.eq(self.op.opcode == BY_NAME["lsync"].opcode),
            is_gather.eq(self.op.opcode == BY_NAME["loadx"].opcode),
            self.ready.eq(
                ~issue.busy
                & ~pages.busy
                & flight.room
                & ~self.fault.valid
                & (~is_gather | flight.quiet)  # what is before may bring the table
            ),
        ]
        self._join_pages(m, issue, walker, pages, is_gather)
        gathers = Signal()
        with m.If(self.start):
            m.d.sync += gathers.eq(is_gather)
        done = (issue.done & ~pages.busy) | pages.done
        found = Mux(
            pages.pitch_cause != 0,
            pages.pitch_cause,
            Mux(issue.cause != 0, issue.cause, pages.cause),
        )
        cause = Mux(gathers & ~issue.empty, found, issue.cause)
        join_issue(m, self, issue, flight, walker, is_sync, C(0), done=done, cause=cause)
        with m.If(is_gather):
            m.d.comb += issue.op.config[LOAD_CONFIG.index("d3")].eq(0)  # all of page 0
        with m.If(gathers):
            m.d.comb += [walker.job.paged.eq(1), walker.job.far.eq(pages.first)]

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
        issuing = issue.busy | pages.busy
        m.d.comb += self.active.eq(issuing | own | (queue.level != 0) | arrived)
        return m

    def _join_pages(
        self, m: Module, issue: DmaIssue, walker: DmaWalker, pages: PageTable, is_gather: Signal
    ) -> None:
        """The table, and the places of all pages but the first, until the walker comes to them."""
        wiring.connect(m, wiring.flipped(self.table), pages.read)
        m.submodules.places = places = fifo.SyncFIFOBuffered(width=ADDRESS_BITS, depth=GATHER_PAGES)
        m.d.comb += [
            pages.op.eq(self.op),
            pages.start.eq(self.start),
            pages.stop.eq(issue.stop),
            pages.far.eq(issue.job.far),
            pages.limit.eq(self.limit),
            places.w_en.eq(pages.push),
            places.w_data.eq(pages.next),
            walker.page.eq(places.r_data),
            places.r_en.eq(walker.next_page),
        ]


def join_issue(
    m: Module,
    engine: LoadEngine,
    issue: DmaIssue,
    flight: DmaFlight,
    walker: DmaWalker,
    is_sync: Value,
    is_other: Value,
    *,
    done: Value,
    cause: Value,
) -> None:
    """Start, issue, verdict and end of a transfer or sync, alike in LOAD and STORE.

    is_other: `op` is neither, and no matter of theirs. done: with it comes the verdict, `cause`.
    """
    pc, sequence = Signal.like(engine.op.pc), Signal.like(engine.op.sequence)
    with m.If(engine.start):
        m.d.sync += [pc.eq(engine.op.pc), sequence.eq(engine.op.sequence)]
    faulty = done & (cause != 0)
    with m.If(faulty):
        m.d.sync += engine.fault.eq(Cat(1, cause, pc, sequence))
    m.d.comb += [
        issue.op.eq(engine.op),
        issue.start.eq(engine.start & ~is_sync & ~is_other),
        engine.window.eq(issue.window),
        issue.base.eq(engine.base),
        issue.limit.eq(engine.limit),
        flight.op.eq(engine.op),
        flight.start.eq(engine.start & ~is_other),
        flight.sync.eq(is_sync),
        flight.issued.eq(done & ~faulty),
        flight.empty.eq(issue.empty),
        engine.ends.eq(flight.ends),
        walker.push.eq(done & ~faulty & ~issue.empty),
        walker.job.eq(issue.job),
    ]


def byte_mask(first: Value, final: Value, count: int) -> Value:
    """Bit i: first <= i <= final."""
    ones = C((1 << count) - 1, count)
    return (ones << first)[:count] & (ones >> ~final)  # a burst is a power of two
