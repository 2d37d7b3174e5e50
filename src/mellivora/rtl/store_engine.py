"""STORE: scratchpad to DRAM, and collectives; STORE, SSYNC, EXCH, BARRIER."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from mellivora.isa.latency import port_rows_in_flight
from mellivora.isa.table import BY_NAME, COLLECTIVES
from mellivora.rtl.dma_issue import DmaIssue
from mellivora.rtl.dma_walker import DmaWalker
from mellivora.rtl.exchange_link import exchange_link
from mellivora.rtl.exchange_side import ExchangeSide
from mellivora.rtl.interfaces import READ_CYCLES, engine_signature, read_port, write_port
from mellivora.rtl.load_engine import byte_mask, dma_flight, join_issue, window_lookup
from mellivora.rtl.memory_link import store_link
from mellivora.rtl.pipeline import register

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec


def store_reads(chip: ChipSpec) -> list[int]:
    """Width of each read port, bytes: a burst; of the first one also a beat of EXCH."""
    first = max(chip.dram_burst_bytes, chip.exchange_bytes_per_cycle)
    return [first, *[chip.dram_burst_bytes] * (chip.core_port_bursts - 1)]


class StoreEngine(wiring.Component):
    """The STORE engine of a core: `memory` is its place at the memory port.

    Fragments granted in cycle g are read in g+1, each through a port of its own; their data are
    there in g + STORE_DATA_CYCLES. A byte of DRAM that two of them have goes with the later one.
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
                **{f"read_{k}": Out(read_port(n)) for k, n in enumerate(store_reads(chip))},
                "exchange": Out(exchange_link(chip)),
                "exchange_write": Out(write_port(chip.exchange_bytes_per_cycle)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.issue = issue = DmaIssue(self.chip)
        m.submodules.flight = flight = dma_flight(self.chip)
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

        arrived = Signal.like(flight.arrived)
        ways = self.chip.core_port_bursts
        unanswered = Signal(range(ways * port_rows_in_flight(self.chip) + 1))
        m.d.comb += [
            self.memory.count.eq(walker.count),
            walker.take.eq(self.memory.grant),
            flight.arrived.eq(arrived),
            self.active.eq(
                issue.busy
                | (walker.count != 0)
                | (unanswered != 0)
                | (arrived != 0)
                | self.exchange.running
            ),
        ]
        m.d.sync += [
            arrived.eq(self.memory.done_last),
            unanswered.eq(unanswered + self.memory.grant - self.memory.done),
        ]
        for k in range(ways):
            self._fragment(m, walker, side, k)
        return m

    def _fragment(self, m: Module, walker: DmaWalker, side: ExchangeSide, k: int) -> None:
        """Port k: the read of a fragment that is granted, and then its data."""
        read, fragment = getattr(self, f"read_{k}"), walker.fragments[k]
        burst_bytes, late = self.chip.dram_burst_bytes, 1 + READ_CYCLES
        granted, address = self.memory.grant > k, fragment.near
        others: Value = Const(0, burst_bytes)  # bytes of it that a later one has
        if k == 0:
            granted, address = granted | side.read, Mux(side.read, side.read_address, address)
        m.d.sync += [read.enable.eq(granted), read.address.eq(address)]
        first, final = (
            register(m, fragment[name], f"{name}{k}", stages=late) for name in ("first", "final")
        )
        for i in range(k + 1, self.chip.core_port_bursts):
            after = walker.fragments[i]
            same = (after.burst == fragment.burst) & (self.memory.grant > i)
            begin, end = (
                register(m, after[name], f"{name}{k}_{i}", stages=late)
                for name in ("first", "final")
            )
            there = register(m, same, f"same{k}_{i}", stages=late)
            others = others | Mux(there, byte_mask(begin, end, burst_bytes), 0)
        m.d.comb += [
            self.memory.bursts[k].eq(fragment.burst),
            self.memory.last[k].eq(fragment.last),
            self.memory.data[k].eq(read.data[: 8 * burst_bytes]),
            self.memory.masks[k].eq(byte_mask(first, final, burst_bytes) & ~others),
        ]

    def _join_side(self, m: Module, side: ExchangeSide, is_collective: Signal) -> None:
        """A collective starts when nothing is in flight: any place of `ends` is free for it."""
        wiring.connect(m, wiring.flipped(self.exchange), side.link)
        wiring.connect(m, wiring.flipped(self.exchange_write), side.write)
        m.d.comb += [
            side.op.eq(self.op),
            side.start.eq(self.start & is_collective),
            side.read_data.eq(self.read_0.data),
        ]
        with m.If(side.held):
            m.d.comb += self.ends[0].eq(side.end)
        with m.If(side.failed):
            m.d.sync += self.fault.eq(Cat(1, side.cause, side.end.pc, side.end.sequence))
