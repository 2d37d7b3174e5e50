"""STORE: scratchpad to DRAM; STORE, SSYNC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from mellivora.isa.table import BY_NAME
from mellivora.rtl.dma_flight import DmaFlight
from mellivora.rtl.dma_issue import DmaIssue
from mellivora.rtl.dma_walker import DmaWalker
from mellivora.rtl.interfaces import READ_CYCLES, engine_signature, read_port
from mellivora.rtl.load_engine import byte_mask, join_issue, window_lookup
from mellivora.rtl.memory_link import reads_in_flight, store_link
from mellivora.rtl.pipeline import register

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec


class StoreEngine(wiring.Component):
    """The STORE engine of a core: `memory` is its place at the memory port.

    A fragment granted in cycle g is read in g+1; its data are there in g + STORE_DATA_CYCLES.
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
                "read": Out(read_port(chip.dram_burst_bytes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.issue = issue = DmaIssue(self.chip)
        m.submodules.flight = flight = DmaFlight(self.chip.outstanding_transfers)
        m.submodules.walker = walker = DmaWalker(self.chip)
        is_sync = Signal()
        m.d.comb += [
            is_sync.eq(self.op.opcode == BY_NAME["ssync"].opcode),
            self.ready.eq(~issue.busy & flight.room & ~self.fault.valid),
        ]
        join_issue(m, self, issue, flight, walker, is_sync)

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
            self.memory.data.eq(self.read.data),
            self.memory.mask.eq(byte_mask(first, final, self.chip.dram_burst_bytes)),
            flight.arrived.eq(arrived),
            self.active.eq(issue.busy | walker.valid | (unanswered != 0) | arrived),
        ]
        m.d.sync += [
            self.read.enable.eq(self.memory.grant),
            self.read.address.eq(fragment.near),
            arrived.eq(self.memory.done & self.memory.done_last),
            unanswered.eq(unanswered + self.memory.grant - self.memory.done),
        ]
        return m
