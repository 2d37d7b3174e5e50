"""Between the DMA engines of a core and the memory port: one fragment a cycle at most.

A fragment is asked for (`valid`, held) and granted in the same cycle, at the earliest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl.dma_walker import burst_bits
from mellivora.rtl.interfaces import ADDRESS_BITS, READ_CYCLES

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

STORE_DATA_CYCLES = 1 + READ_CYCLES
"""From a grant to its data: scratchpad address in the next cycle, then the read."""


def load_link(chip: ChipSpec) -> wiring.Signature:
    """LOAD's side. Beats come in the order of grants; multicast: only with all cores' at once."""
    return wiring.Signature(
        {
            "valid": Out(1),
            "multicast": Out(1),
            "burst": Out(ADDRESS_BITS - burst_bits(chip)),
            "grant": In(1),
            "beat": In(1),
            "data": In(8 * chip.dram_burst_bytes),
        }
    )


def store_link(chip: ChipSpec) -> wiring.Signature:
    """STORE's side. data, mask: STORE_DATA_CYCLES after the grant; done: a write has its answer."""
    return wiring.Signature(
        {
            "valid": Out(1),
            "burst": Out(ADDRESS_BITS - burst_bits(chip)),
            "last": Out(1),  # of its transfer
            "grant": In(1),
            "data": Out(8 * chip.dram_burst_bytes),
            "mask": Out(chip.dram_burst_bytes),
            "done": In(1),
            "done_last": In(1),
        }
    )


def reads_in_flight(chip: ChipSpec) -> int:
    """Reads, and as many writes, between grant and answer: enough for a grant in every cycle."""
    return 1 << (chip.dram_latency_cycles + 1).bit_length()
