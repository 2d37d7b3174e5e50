"""STORE: scratchpad to DRAM, and collectives; STORE, SSYNC, EXCH, BARRIER."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from mellivora.isa.table import BY_NAME, COLLECTIVES
from mellivora.rtl.dma_flight import DmaFlight
from mellivora.rtl.dma_issue import DmaIssue
from mellivora.rtl.dma_walker import DmaWalker
from mellivora.rtl.exchange_link import exchange_link
from mellivora.rtl.exchange_side import ExchangeSide
from mellivora.rtl.interfaces import READ_CYCLES, engine_signature, read_port, write_port
from mellivora.rtl.load_engine import byte_mask, join_issue, window_lookup
from mellivora.rtl.memory_link import reads_in_flight, store_link
from mellivora.rtl.pipeline import register

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec


def store_read_bytes(chip: ChipSpec) -> int:
    """Width of the read port: a burst, or a beat of EXCH."""
    return max(chip.dram_burst_bytes, chip.exchange_bytes_per_cycle)


class StoreEngine(wiring.Component):
    """The STORE engine of a core: `memory` is its place at the memory port.

    A fragment granted in cycle g is read in g+1; its data are there in g + STORE_DATA_CYCLES.
    exchange: its place in the network; exchange_write: what EXCH brings.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.module_name = f"store_engine_{chip.name}"
        super().__init__(
            {
                **engine_signature(chip.outstanding_transfers).members,
                **window_lookup(chip),
                "memory": Out(store_link(chip)),
                "read": Out(read_port(store_read_bytes(chip))),
                "exchange": Out(exchange_link(chip)),
                "exchange_write": Out(write_port(chip.exchange_bytes_per_cycle)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.issue = issue = DmaIssue(self.chip)
        m.submodules.flight = flight = DmaFlight(self.chip.outstanding_transfers)
        m.submodules.walker = walker = DmaWalker(self.chip)
        m.submodules.side = side = ExchangeSide(self.chip)
        is_sync, is_collective = Signal(), Signal()
        m.d.comb += [
            is_sync.eq(self.op.opcode == BY_NAME["ssync"].opcode),
            is_collective.eq(Cat(self.op.opcode == code for code in COLLECTIVES).any()),
            self.ready.eq(
                ~issue.busy
                & ~side.held
                & flight.room
                & ~self.fault.valid
                & (~is_collective | flight.quiet)
            ),
        ]
        join_issue(
            m,
            self,
            issue,
            flight,
            walker,
            is_sync,
            is_collective,
            done=issue.done,
            cause=issue.cause,
        )
        self._join_side(m, side, is_collective)

        fragment = walker.fragment
        arrived = Signal()
        unanswered = Signal(range(reads_in_flight(self.chip) + 1))
        first, final = (
            register(m, fragment[name], name, stages=1 + READ_CYCLES) for name in ("first", "final")
        )
        m.d.comb += [
            self.memory.valid.eq(walker.valid),
            self.memory.burst.eq(fragment.burst),
            self.memory.last.eq(fragment.last),
            walker.take.eq(self.memory.grant),
            self.memory.data.eq(self.read.data[: 8 * self.chip.dram_burst_bytes]),
            self.memory.mask.eq(byte_mask(first, final, self.chip.dram_burst_bytes)),
            flight.arrived.eq(arrived),
            self.active.eq(
                issue.busy | walker.valid | (unanswered != 0) | arrived | self.exchange.running
            ),
        ]
        m.d.sync += [
            self.read.enable.eq(self.memory.grant | side.read),
            self.read.address.eq(Mux(side.read, side.read_address, fragment.near)),
            arrived.eq(self.memory.done & self.memory.done_last),
            unanswered.eq(unanswered + self.memory.grant - self.memory.done),
        ]
        return m

    def _join_side(self, m: Module, side: ExchangeSide, is_collective: Signal) -> None:
        """A collective starts when nothing is in flight: any place of `ends` is free for it."""
        wiring.connect(m, wiring.flipped(self.exchange), side.link)
        wiring.connect(m, wiring.flipped(self.exchange_write), side.write)
        m.d.comb += [
            side.op.eq(self.op),
            side.start.eq(self.start & is_collective),
            side.read_data.eq(self.read.data),
        ]
        with m.If(side.held):
            m.d.comb += self.ends[0].eq(side.end)
        with m.If(side.failed):
            m.d.sync += self.fault.eq(Cat(1, side.cause, side.end.pc, side.end.sequence))
