"""The pages of a LOADX: each entry of its table is read, checked and made a place in DRAM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import GATHER_PAGES
from mellivora.isa.table import BY_NAME, DMA_SLOTS, LOAD_CONFIG
from mellivora.rtl.dma_walker import COUNT_BITS
from mellivora.rtl.interfaces import (
    ADDRESS_BITS,
    ALIGNMENT_FAULT,
    CAUSE_BITS,
    OPERATION,
    READ_CYCLES,
    SCRATCHPAD_FAULT,
    SHAPE_FAULT,
    WINDOW_FAULT,
    read_port,
)
from mellivora.rtl.pipeline import register

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

PAGES = range(GATHER_PAGES + 1)
_LOW_BITS = 16
"""Of d3: the product is made in two halves."""


def pages_of(op: data.View[data.StructLayout]) -> Value:
    """Entries of the table that an operation reads: none unless it is a LOADX of some bytes."""
    counts = [op.slots[DMA_SLOTS.index(f"n{k}")] for k in range(4)]
    reads = (op.opcode == BY_NAME["loadx"].opcode) & Cat(count > 0 for count in counts).all()
    return Mux(reads & (counts[3] <= GATHER_PAGES), counts[3][: len(Signal(PAGES))], 0)


class PageTable(wiring.Component):
    """Works on `op` from cycle s = `start` on; `busy` in s+1 .. s+5+n3, `done` in the last of them.

    Not busy where `pages_of` the operation is 0. first, then next with `push`: the DRAM address of
    each page, next in s+6 .. s+4+n3, one a cycle; first from s+6 on.
    stop, far: of page 0: past its last byte in the window, its first byte in DRAM; from s+5 on.
    pitch_cause: from s+1 on, what is to be found before window and scratchpad, or 0; done or not.
    cause: in the cycle of `done`, what is to be found after them.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.module_name = f"page_table_{chip.sram_bytes}_{chip.dram_burst_bytes}"
        super().__init__(
            {
                "op": In(OPERATION),
                "start": In(1),
                "stop": In(signed(ADDRESS_BITS + 3)),
                "far": In(ADDRESS_BITS),
                "limit": In(ADDRESS_BITS),
                "read": Out(read_port(4)),
                "busy": Out(1),
                "done": Out(1),
                "pitch_cause": Out(CAUSE_BITS),
                "cause": Out(CAUSE_BITS),
                "first": Out(ADDRESS_BITS),
                "push": Out(1),
                "next": Out(ADDRESS_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slot = {name: self.op.slots[i] for i, name in enumerate(DMA_SLOTS)}
        config = {name: self.op.config[i] for i, name in enumerate(LOAD_CONFIG)}
        pages = Signal(PAGES)
        m.d.comb += pages.eq(pages_of(self.op))

        d3, table = Signal(COUNT_BITS, reset_less=True), Signal(signed(32), reset_less=True)
        bytes_ = Signal(len(pages) + 2, reset_less=True)  # of the table
        left = Signal(PAGES)
        place = Signal(32, reset_less=True)
        offset = config["d3"][: (self.chip.dram_burst_bytes - 1).bit_length()]
        with m.If(self.start):
            m.d.sync += [
                d3.eq(config["d3"]),
                table.eq(config["table"]),
                bytes_.eq(pages << 2),
                left.eq(pages),
                place.eq(config["table"]),
                self.busy.eq(pages != 0),
                self.pitch_cause.eq(
                    Mux(
                        slot["n3"] > GATHER_PAGES,
                        SHAPE_FAULT,
                        Mux(
                            offset.any(),
                            ALIGNMENT_FAULT,
                            Mux(config["d3"] < 0, WINDOW_FAULT, 0),
                        ),
                    )
                ),
            ]
        with m.Elif(left != 0):
            m.d.sync += [left.eq(left - 1), place.eq(place + 4)]
        m.d.comb += [self.read.enable.eq(left != 0), self.read.address.eq(place)]

        # Entry i comes in s+3+i: halves of the product, their sum, then both ends of the page.
        page = self.read.data.as_signed()
        low = register(m, page[:COUNT_BITS] * d3[:_LOW_BITS], "low")
        high = register(m, page[:COUNT_BITS] * d3[_LOW_BITS:], "high")
        product = register(m, low + (high << _LOW_BITS), "product")
        below = register(m, page < 0, "below", stages=2)
        over = product[ADDRESS_BITS:].any()  # past every window
        near = product[:ADDRESS_BITS]
        wrong = below | over | (near + self.stop > self.limit)

        here, last = left != 0, left == 1
        for _ in range(READ_CYCLES + 2):
            here, last = _later(m, here), _later(m, last)
        outside, taken = Signal(), Signal()
        m.d.comb += [self.next.eq(near + self.far), self.push.eq(here & taken)]
        m.d.sync += self.done.eq(last)
        with m.If(self.start):
            m.d.sync += [outside.eq(0), taken.eq(0)]
        with m.If(here):
            m.d.sync += [outside.eq(outside | wrong), taken.eq(1)]
            with m.If(~taken):
                m.d.sync += self.first.eq(self.next)
        with m.If(self.done):
            m.d.sync += self.busy.eq(0)

        bad_table = (table < 0) | (table + bytes_ > self.chip.sram_bytes)
        m.d.comb += self.cause.eq(
            Mux(
                table[:2].any(),
                ALIGNMENT_FAULT,
                Mux(bad_table, SCRATCHPAD_FAULT, Mux(outside, WINDOW_FAULT, 0)),
            )
        )
        return m


def _later(m: Module, value: Value) -> Signal:
    """A flag one cycle later, false from reset on."""
    later = Signal()
    m.d.sync += later.eq(value)
    return later
