"""Between the DMA engines of a core and the memory port: up to `ways` fragments a cycle.

An engine says how many it has (`count`, held), the port in the same cycle how many of these, the
first ones, it grants. ways: bursts a cycle of a core port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl.dma_walker import burst_bits
from mellivora.rtl.interfaces import ADDRESS_BITS, READ_CYCLES

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

STORE_DATA_CYCLES = 1 + READ_CYCLES
"""From a grant to its data: scratchpad address in the next cycle, then the read."""


def load_link(chip: ChipSpec) -> wiring.Signature:
    """LOAD's side. multicast: only with all cores' at once.

    beat: what was granted in one cycle has come, all of it, in the order of these cycles.
    """
    ways = chip.core_port_bursts
    return wiring.Signature(
        {
            "count": Out(range(ways + 1)),
            "multicast": Out(1),
            "bursts": Out(data.ArrayLayout(ADDRESS_BITS - burst_bits(chip), ways)),
            "grant": In(range(ways + 1)),
            "beat": In(1),
            "data": In(data.ArrayLayout(8 * chip.dram_burst_bytes, ways)),
        }
    )


def store_link(chip: ChipSpec) -> wiring.Signature:
    """STORE's side. data, masks: STORE_DATA_CYCLES after the grant.

    last: of its transfer, for each fragment. done: so many writes have their answers in this cycle;
    done_last: so many of these are the last ones of transfers.
    """
    ways = chip.core_port_bursts
    return wiring.Signature(
        {
            "count": Out(range(ways + 1)),
            "bursts": Out(data.ArrayLayout(ADDRESS_BITS - burst_bits(chip), ways)),
            "last": Out(ways),
            "grant": In(range(ways + 1)),
            "data": Out(data.ArrayLayout(8 * chip.dram_burst_bytes, ways)),
            "masks": Out(data.ArrayLayout(chip.dram_burst_bytes, ways)),
            "done": In(range(ways + 1)),
            "done_last": In(range(ways + 1)),
        }
    )
