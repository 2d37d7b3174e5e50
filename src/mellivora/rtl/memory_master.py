"""One AXI4 master of the memory port: a read or a write a cycle, of any core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl.axi import INCR, axi4, size_code
from mellivora.rtl.dma_walker import burst_bits
from mellivora.rtl.interfaces import ADDRESS_BITS
from mellivora.rtl.memory_link import STORE_DATA_CYCLES
from mellivora.rtl.pipeline import register, wire

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

WRITE_BUFFER = 8
"""Writes between grant and AXI: the four cycles to their data, and what a full bus leaves."""


def requests(chip: ChipSpec) -> dict[str, wiring.Member]:
    """The channels of AXI by which a master asks: all but R and B."""
    members = axi4(ADDRESS_BITS, chip.dram_burst_bytes).members
    return {name: one for name, one in members.items() if name.startswith(("ar", "aw", "w"))}


class MemoryMaster(wiring.Component):
    """Asks what it was granted, as soon as the bus takes it.

    readers, writers: for which cores a read or a write is granted in this cycle, or none; round:
    which of their fragments, one bit. loads, stores: bursts of all fragments of all cores; beats:
    data and mask of those stored STORE_DATA_CYCLES ago.
    may_read, may_write: there is a place for one that is granted now.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.module_name = f"memory_master_{chip.name}"
        cores, ways = chip.cores, chip.core_port_bursts

        def each(bits: int) -> data.ArrayLayout:
            return data.ArrayLayout(data.ArrayLayout(bits, ways), cores)

        bursts = each(ADDRESS_BITS - burst_bits(chip))
        super().__init__(
            {
                "readers": In(cores),
                "writers": In(cores),
                "round": In(ways),
                "loads": In(bursts),
                "stores": In(bursts),
                "beats": In(each(9 * chip.dram_burst_bytes)),
                "may_read": Out(1),
                "may_write": Out(1),
                **requests(chip),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        place = burst_bits(self.chip)
        m.submodules.read_requests = reads = fifo.SyncFIFO(width=ADDRESS_BITS - place, depth=2)
        m.d.comb += [
            self.may_read.eq(reads.w_rdy),
            reads.w_en.eq(self.readers.any()),
            reads.w_data.eq(self._chosen(self.readers, self.round, self.loads)),
            self.arvalid.eq(reads.r_rdy),
            reads.r_en.eq(self.arready),
            self.araddr.eq(reads.r_data << place),
            *self._constants("ar"),
        ]
        late: Value = self.writers
        for stage in range(STORE_DATA_CYCLES):  # with reset: it says what is valid
            later = Signal.like(self.writers, name=f"writers_{stage + 1}")
            m.d.sync += later.eq(late)
            late = later
        late_round = register(m, self.round, "late_round", stages=STORE_DATA_CYCLES)
        burst = wire(m, self._chosen(self.writers, self.round, self.stores), "write_burst")
        m.submodules.write_addresses = addresses = fifo.SyncFIFO(
            width=ADDRESS_BITS - place, depth=WRITE_BUFFER
        )
        m.submodules.write_beats = beats = fifo.SyncFIFO(
            width=9 * self.chip.dram_burst_bytes, depth=WRITE_BUFFER
        )
        # A write is granted only if its place is free when its data come.
        free = []
        for channel, queue in (("aw", addresses), ("w", beats)):
            granted = Signal(range(WRITE_BUFFER + 1), name=f"{channel}_granted")
            leaves = queue.r_rdy & queue.r_en
            m.d.sync += granted.eq(granted + self.writers.any() - leaves)
            free.append(granted != WRITE_BUFFER)
        m.d.comb += [
            self.may_write.eq(free[0] & free[1]),
            addresses.w_en.eq(late.any()),
            addresses.w_data.eq(register(m, burst, "write_burst_late", stages=STORE_DATA_CYCLES)),
            beats.w_en.eq(late.any()),
            beats.w_data.eq(self._chosen(late, late_round, self.beats)),
            self.awvalid.eq(addresses.r_rdy),
            addresses.r_en.eq(self.awready),
            self.awaddr.eq(addresses.r_data << place),
            *self._constants("aw"),
            self.wvalid.eq(beats.r_rdy),
            beats.r_en.eq(self.wready),
            Cat(self.wdata, self.wstrb).eq(beats.r_data),
            self.wlast.eq(1),
        ]
        return m

    def _chosen(self, takers: Value, round_: Value, fragments: data.View) -> Value:
        """Of the fragments of all cores that of the taker of this round."""
        return chosen(takers, [chosen(round_, list(one)) for one in fragments])

    def _constants(self, letters: str) -> list[object]:
        size = size_code(self.chip.dram_burst_bytes)
        fields = {"len": 0, "size": size, "burst": INCR}
        return [getattr(self, letters + name).eq(value) for name, value in fields.items()]


def chosen(one_hot: Value, values: Sequence[Value]) -> Value:
    """The value of the lowest bit that is set; 0 if none is."""
    result = Value.cast(0)
    for i, value in reversed(list(enumerate(values))):
        result = Mux(one_hot[i], value, result)
    return result
