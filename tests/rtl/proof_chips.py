"""A chip for proofs about LOAD and STORE, so narrow that z3 is quick, and their modules for it."""

from types import SimpleNamespace

from amaranth.hdl import signed
from amaranth.lib import data
from tests.rtl.proof_parts import mutated

from mellivora.rtl import dma_issue, dma_walker
from mellivora.rtl.interfaces import OPERATION

SMALL = SimpleNamespace(
    name="small",
    windows=2,
    sram_bytes=12,
    dram_burst_bytes=4,
    core_port_bursts=1,
    outstanding_transfers=3,
)
"""Smaller than any ChipSpec may be."""
WIDE = SimpleNamespace(**vars(SMALL) | {"name": "wide", "core_port_bursts": 2})
COUNT_BITS, ADDRESS_BITS = 3, 5
"""Of the narrow modules: products, and sums of them, have more bits than an address."""


def narrow_walker(*changes):
    return mutated(dma_walker, *changes, COUNT_BITS=COUNT_BITS, ADDRESS_BITS=ADDRESS_BITS)


def narrow_issue(*changes):
    slots = data.ArrayLayout(signed(COUNT_BITS + 1), 8)
    fields = {name: field.shape for name, field in OPERATION} | {"slots": slots, "config": slots}
    walker = narrow_walker()
    return mutated(
        dma_issue,
        *changes,
        OPERATION=data.StructLayout(fields),
        DRAM_UNIT_BYTES=2,
        ADDRESS_BITS=ADDRESS_BITS,
        COUNT_BITS=COUNT_BITS,
        job_layout=walker.job_layout,
        near_bits=walker.near_bits,
    )
