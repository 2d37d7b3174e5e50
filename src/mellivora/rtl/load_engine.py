"""LOAD: DRAM to scratchpad; LOAD, LOADM, LOADX, LSYNC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, memory, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import GATHER_PAGES
from mellivora.isa.latency import port_rows_in_flight
from mellivora.isa.table import BY_NAME, LOAD_CONFIG
from mellivora.rtl.dma_flight import DmaFlight
from mellivora.rtl.dma_issue import DmaIssue
from mellivora.rtl.dma_walker import DmaWalker, fragment_layout
from mellivora.rtl.interfaces import ADDRESS_BITS, engine_signature, read_port, write_port
from mellivora.rtl.memory_link import load_link
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

    Fragments granted in cycle g have their beat in g + latency - 1 and are written one cycle later,
    each through a port of its own: of a byte that two of them write, the later port's stays.
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
                "write": Out(write_port(chip.dram_burst_bytes)).array(chip.core_port_bursts),
                "table": Out(read_port(4)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.issue = issue = DmaIssue(self.chip)
        m.submodules.flight = flight = dma_flight(self.chip)
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

        # What the beats on their way will need: an entry for each cycle with grants.
        layout = fragment_layout(self.chip)
        wanted = ("near", "first", "final", "last")
        note_layout = data.StructLayout({name: layout[name].shape for name in wanted})
        ways = self.chip.core_port_bursts
        notes = data.StructLayout(
            {"count": range(ways + 1), "each": data.ArrayLayout(note_layout, ways)}
        )
        m.submodules.notes = queue = fifo.SyncFIFOBuffered(
            width=notes.size, depth=port_rows_in_flight(self.chip)
        )
        going, come = Signal(notes), data.View(notes, queue.r_data)
        m.d.comb += [
            self.memory.count.eq(walker.count),
            self.memory.multicast.eq(walker.fragments[0].multicast),
            walker.take.eq(self.memory.grant),
            going.count.eq(self.memory.grant),
            queue.w_en.eq(self.memory.grant != 0),
            queue.w_data.eq(going),
            queue.r_en.eq(self.memory.beat),
        ]
        lasts: list[Value] = []
        for k, write in enumerate(self.write):
            fragment, note = walker.fragments[k], come.each[k]
            m.d.comb += self.memory.bursts[k].eq(fragment.burst)
            m.d.comb += [going.each[k][name].eq(fragment[name]) for name in wanted]
            here = Signal(name=f"here{k}")
            m.d.comb += here.eq(self.memory.beat & (come.count > k))
            lasts.append(here & note.last)
            m.d.sync += write.enable.eq(here)
            with m.If(here):
                m.d.sync += [
                    write.address.eq(note.near),
                    write.mask.eq(byte_mask(note.first, note.final, self.chip.dram_burst_bytes)),
                    write.data.eq(self.memory.data[k]),
                ]
        arrived = Signal.like(flight.arrived)
        m.d.comb += flight.arrived.eq(arrived)
        m.d.sync += arrived.eq(sum(lasts[1:], lasts[0]))
        own = (walker.count != 0) & ~walker.fragments[0].multicast
        issuing = issue.busy | pages.busy
        m.d.comb += self.active.eq(issuing | own | (queue.level != 0) | (arrived != 0))
        return m

    def _join_pages(
        self, m: Module, issue: DmaIssue, walker: DmaWalker, pages: PageTable, is_gather: Signal
    ) -> None:
        """The table, and the places of all pages but the first, until the walker comes to them."""
        wiring.connect(m, wiring.flipped(self.table), pages.read)
        # Only a LOADX that nothing is before has pages: none is left of another one.
        place, turned = Signal(range(GATHER_PAGES)), Signal(range(GATHER_PAGES))
        m.submodules.places = places = memory.Memory(
            shape=ADDRESS_BITS, depth=GATHER_PAGES, init=[]
        )
        write = places.write_port()
        m.d.comb += [
            pages.op.eq(self.op),
            pages.start.eq(self.start),
            pages.stop.eq(issue.stop),
            pages.far.eq(issue.job.far),
            pages.limit.eq(self.limit),
            write.en.eq(pages.push),
            write.addr.eq(place),
            write.data.eq(pages.next),
        ]
        m.d.sync += [place.eq(place + pages.push), turned.eq(turned + walker.next_pages)]
        for k in range(self.chip.core_port_bursts):
            read = places.read_port(domain="comb")
            m.d.comb += [read.addr.eq(turned + k), walker.pages[k].eq(read.data)]


def dma_flight(chip: ChipSpec) -> DmaFlight:
    """What is in flight of one engine: as many may arrive at once as fragments come."""
    return DmaFlight(
        chip.outstanding_transfers, min(chip.outstanding_transfers, chip.core_port_bursts)
    )


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
