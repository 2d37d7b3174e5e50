"""EXCH and BARRIER in STORE of one core: checks, the core's own beats, and what it hears."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.table import BY_NAME
from mellivora.rtl.exchange_link import SIZE_BITS, exchange_link
from mellivora.rtl.interfaces import CAUSE_BITS, END, OPERATION, write_port
from mellivora.rtl.region_check import RegionCheck
from mellivora.rtl.sharing import share

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

SIZES_DIFFER = 5
SLOT = {name: i for i, name in enumerate(BY_NAME["exch"].slots)}


class ExchangeSide(wiring.Component):
    """`start` in cycle s: `op` is an EXCH or a BARRIER; `held` from s+1 to its last cycle, `end`.

    failed, cause: a fault, in one cycle; then it is held for ever.
    read: the address is wanted on the read port in the next cycle. write: what is heard.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.module_name = f"exchange_side_{chip.name}"
        super().__init__(
            {
                "op": In(OPERATION),
                "start": In(1),
                "held": Out(1),
                "end": Out(END),
                "failed": Out(1),
                "cause": Out(CAUSE_BITS),
                "link": Out(exchange_link(chip)),
                "read": Out(1),
                "read_address": Out(32),
                "read_data": In(8 * chip.exchange_bytes_per_cycle),
                "write": Out(write_port(chip.exchange_bytes_per_cycle)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width, link = self.chip.exchange_bytes_per_cycle, self.link
        slot = {name: self.op.slots[i] for name, i in SLOT.items()}

        def held(value: Value, name: str) -> Signal:
            signal = Signal(value.shape(), name=name, reset_less=True)
            with m.If(self.start):
                m.d.sync += signal.eq(value)
            return signal

        def size(name: str) -> Signal:
            """0 if it is negative."""
            return held(Mux(slot[name] < 0, 0, slot[name])[:SIZE_BITS], name)

        moves = held(self.op.opcode == BY_NAME["exch"].opcode, "moves")
        row_bytes, rows = size("bytes"), size("rows")
        src, dst = held(slot["src"], "src"), held(slot["dst"], "dst")
        src_row, dst_row = held(slot["src_row"], "src_row"), held(slot["dst_row"], "dst_row")
        stride = held(slot["dst_stride"], "stride")
        own = {name: held(self.op[name], name) for name in ("post0", "post1", "pc", "sequence")}

        # The source, the part of the first core and that of the last one: one a cycle from s+1 on.
        step = Signal(3)
        m.d.sync += step.eq(Cat(self.start, step[:-1]))
        m.submodules.check = share(check := RegionCheck(self.chip))
        m.d.comb += [
            check.valid.eq(step.any() & moves & row_bytes.any() & rows.any()),
            check.address.eq(
                Mux(step[0], src, dst + Mux(step[2], stride * (self.chip.cores - 1), 0))
            ),
            check.stride.eq(Mux(step[0], src_row, dst_row)),
            check.rows.eq(rows),
            check.row_bytes.eq(row_bytes),
        ]
        broken = Signal()
        fails = self.held & ~broken & (check.cause != 0)
        m.d.comb += [
            self.failed.eq(fails | link.differs),
            self.cause.eq(Mux(fails, check.cause, SIZES_DIFFER)),
            self.end.valid.eq(link.end & self.held),
            *(self.end[name].eq(value) for name, value in own.items()),
            link.waits.eq(self.held & ~broken),
            link.moves.eq(moves),
            link.bytes.eq(row_bytes),
            link.rows.eq(rows),
        ]
        with m.If(self.failed):
            m.d.sync += broken.eq(1)
        with m.If(self.start):
            m.d.sync += self.held.eq(1)
        with m.Elif(link.end):
            m.d.sync += self.held.eq(0)

        read, read_row = Signal(32, reset_less=True), Signal(32, reset_less=True)
        next_row = (read_row + src_row)[:32]
        m.d.comb += [
            self.read.eq(link.turn),
            self.read_address.eq(read),
            link.data.eq(self.read_data),
        ]
        with m.If(self.start):
            m.d.sync += [read.eq(slot["src"]), read_row.eq(slot["src"])]
        with m.Elif(link.turn):
            m.d.sync += read.eq(Mux(link.turn_row, next_row, read + width))
            with m.If(link.turn_row):
                m.d.sync += read_row.eq(next_row)

        place, row, part = (Signal(32, name=n, reset_less=True) for n in ("place", "row", "part"))
        following = Signal(32)
        m.d.comb += following.eq(
            Mux(link.heard_part, part + stride, row + dst_row)  # the next row, of whichever part
        )
        with m.If(self.start):
            m.d.sync += [one.eq(slot["dst"]) for one in (place, row, part)]
        with m.Elif(link.heard):
            m.d.sync += place.eq(Mux(link.heard_row, following, place + width))
            with m.If(link.heard_row):
                m.d.sync += row.eq(following)
            with m.If(link.heard_part):
                m.d.sync += part.eq(following)
        m.d.sync += self.write.enable.eq(link.heard)
        with m.If(link.heard):
            m.d.sync += [
                self.write.address.eq(place),
                self.write.data.eq(link.heard_data),
                self.write.mask.eq(C((1 << width) - 1, width) >> link.spare),
            ]
        return m
