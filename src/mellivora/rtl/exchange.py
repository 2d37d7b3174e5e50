"""The network for EXCH and BARRIER: when the last core has come, all hear each core in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from mellivora.rtl.exchange_link import (
    SIZE_BITS,
    TURN_TO_HEAR,
    TURN_TO_WRITE,
    check_exchange,
    exchange_link,
)
from mellivora.rtl.pipeline import register, wire

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec


class Exchange(wiring.Component):
    """The last core starts in s: all end in s + latency - 1 + beats, the cost of `isa.latency`.

    Cores at collectives of different kinds wait. Raises SpecError MV0121 for too short a latency.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        check_exchange(chip)
        self.chip = chip
        self.module_name = f"exchange_{chip.name}"
        super().__init__({"cores": In(exchange_link(chip)).array(chip.cores)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        links, first = self.cores, self.cores[0]
        width = self.chip.exchange_bytes_per_cycle
        together = Cat(link.waits & (link.moves == first.moves) for link in links).all()
        differs = Cat(
            first.moves & ((link.bytes != first.bytes) | (link.rows != first.rows))
            for link in links
        )
        # Turns are from cycle s + begin on; `waits` shows in s + 1.
        begin = self.chip.exchange_latency_cycles - TURN_TO_WRITE
        count = Signal(range(begin))
        turn = Signal(self.chip.cores)  # whose, or nobody's
        rest, rows_left = Signal(SIZE_BITS), Signal(SIZE_BITS)
        begins, done = Signal(), Signal()
        end = Value.cast(done)
        for stage in range(TURN_TO_WRITE):
            later = Signal(name=f"done_{stage + 1}")
            m.d.sync += later.eq(end)
            end = later
        decides = together & (count == begin - 2)
        nothing = ~first.moves | (first.bytes == 0) | (first.rows == 0)
        with m.If(~together | end):
            m.d.sync += count.eq(0)
        with m.Elif(count != begin - 1):
            m.d.sync += count.eq(count + 1)
        m.d.comb += begins.eq(decides & ~differs.any() & ~nothing)

        row_ends = wire(m, rest <= width, "row_ends")
        part_ends = wire(m, row_ends & (rows_left == 1), "part_ends")
        m.d.comb += done.eq((decides & ~differs.any() & nothing) | (turn[-1] & part_ends))
        with m.If(begins):
            m.d.sync += [turn.eq(1), rest.eq(first.bytes), rows_left.eq(first.rows)]
        with m.Elif(turn.any()):
            m.d.sync += rest.eq(Mux(row_ends, first.bytes, rest - width))
            with m.If(row_ends):
                m.d.sync += rows_left.eq(Mux(part_ends, first.rows, rows_left - 1))
            with m.If(part_ends):
                m.d.sync += turn.eq(turn << 1)

        heard = turn
        for stage in range(TURN_TO_HEAR):
            whose, heard = heard, Signal(self.chip.cores, name=f"heard_{stage + 1}")
            m.d.sync += heard.eq(whose)
        data = Value.cast(0)
        for core, link in enumerate(links):
            data = data | Mux(whose[core], link.data, 0)
        late = {
            name: register(m, value, f"{name}_late", stages=TURN_TO_HEAR)
            for name, value in (
                ("heard_row", row_ends),
                ("heard_part", part_ends),
                ("spare", Mux(row_ends, (width - rest)[: first.spare.shape().width], 0)),
            )
        }
        heard_data = Signal(8 * width, reset_less=True)
        with m.If(whose.any()):
            m.d.sync += heard_data.eq(data)
        for core, link in enumerate(links):
            m.d.comb += [
                link.running.eq(turn.any() | heard.any()),
                link.turn.eq(turn[core]),
                link.turn_row.eq(row_ends),
                link.heard.eq(heard.any()),
                link.heard_data.eq(heard_data),
                *(getattr(link, name).eq(value) for name, value in late.items()),
                link.differs.eq(decides & differs[core]),
                link.end.eq(end),
            ]
        return m
