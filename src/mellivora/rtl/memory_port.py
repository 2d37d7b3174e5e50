"""The memory port of a chip: the arbiter of docs/design/0002-timing.md and one AXI4 master."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out

from mellivora.errors import SpecError
from mellivora.rtl.axi import INCR, axi4, size_code
from mellivora.rtl.dma_walker import burst_bits
from mellivora.rtl.dram_arbiter import DramArbiter
from mellivora.rtl.interfaces import ADDRESS_BITS
from mellivora.rtl.memory_link import (
    STORE_DATA_CYCLES,
    load_link,
    reads_in_flight,
    store_link,
)
from mellivora.rtl.pipeline import register, wire

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

LEAST_LATENCY = 8
WRITE_BUFFER = 8
"""Writes between grant and AXI: the four cycles to their data, and what a full bus leaves."""


class MemoryPort(wiring.Component):
    """Grants one fragment a cycle at most, round robin, at the rate of DRAM.

    hold: before cycle 0 of a run; the first cycle without it is cycle 0 of the rate and of the
    round. A grant in cycle g is what the timing machine grants in g + dram_latency_cycles, if the
    memory is always ready and answers a read `latency - 2` and a write `latency - 5` cycles after
    it has seen it. Raises SpecError MV0120 for a chip whose port is not of this kind.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        check_memory_port(chip)
        self.chip = chip
        self.module_name = f"memory_port_{chip.name}"
        super().__init__(
            {
                "hold": In(1),
                "loads": In(load_link(chip)).array(chip.cores),
                "stores": In(store_link(chip)).array(chip.cores),
                "axi": Out(axi4(ADDRESS_BITS, chip.dram_burst_bytes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cores = range(self.chip.cores)
        may_read, may_write = Signal(), Signal()
        own = [load.valid & ~load.multicast for load in self.loads]
        all_multicast = Cat(load.valid & load.multicast for load in self.loads).all()
        asks = [
            ask
            for core in cores
            for ask in (own[core] & may_read, self.stores[core].valid & may_write)
        ]
        m.submodules.arbiter = arbiter = DramArbiter(self.chip)
        grants = arbiter.grants
        m.d.comb += [
            arbiter.hold.eq(self.hold),
            arbiter.asks.eq(Cat(*asks, all_multicast & may_read)),
        ]
        load_grants = wire(m, Cat(grants[2 * core] for core in cores), "load_grants")
        store_grants = wire(m, Cat(grants[2 * core + 1] for core in cores), "store_grants")
        multicast = grants[-1]
        for core in cores:
            m.d.comb += self.loads[core].grant.eq(load_grants[core] | multicast)
            m.d.comb += self.stores[core].grant.eq(store_grants[core])
        self._reads(m, load_grants | multicast.replicate(self.chip.cores), may_read)
        self._writes(m, store_grants, may_write)
        return m

    def _reads(self, m: Module, takers: Value, may_read: Signal) -> None:
        """takers: the cores that a read granted in this cycle is for, or none."""
        takers = wire(m, takers, "takers")
        m.submodules.read_requests = requests = fifo.SyncFIFO(
            width=ADDRESS_BITS - burst_bits(self.chip), depth=2
        )
        m.submodules.read_routes = routes = fifo.SyncFIFOBuffered(
            width=self.chip.cores, depth=reads_in_flight(self.chip)
        )
        beat = wire(m, self.axi.rvalid & self.axi.rready, "beat")
        m.d.comb += [
            may_read.eq(requests.w_rdy & routes.w_rdy),
            requests.w_en.eq(takers.any()),
            requests.w_data.eq(_chosen(takers, [load.burst for load in self.loads])),
            routes.w_en.eq(takers.any()),
            routes.w_data.eq(takers),
            self.axi.arvalid.eq(requests.r_rdy),
            requests.r_en.eq(self.axi.arready),
            self.axi.araddr.eq(requests.r_data << burst_bits(self.chip)),
            *self._constants("ar"),
            self.axi.rready.eq(routes.r_rdy),
            routes.r_en.eq(self.axi.rvalid),
        ]
        for core, load in enumerate(self.loads):
            m.d.comb += [load.beat.eq(beat & routes.r_data[core]), load.data.eq(self.axi.rdata)]

    def _writes(self, m: Module, takers: Value, may_write: Signal) -> None:
        """takers: the core whose write is granted in this cycle, or none."""
        cores, place = self.chip.cores, burst_bits(self.chip)
        bursts = wire(m, _chosen(takers, [store.burst for store in self.stores]), "write_burst")
        lasts = Cat(store.last for store in self.stores)
        m.submodules.write_addresses = addresses = fifo.SyncFIFO(
            width=ADDRESS_BITS - place, depth=WRITE_BUFFER
        )
        beat_bits = 9 * self.chip.dram_burst_bytes
        m.submodules.write_beats = beats = fifo.SyncFIFO(width=beat_bits, depth=WRITE_BUFFER)
        m.submodules.write_routes = routes = fifo.SyncFIFOBuffered(
            width=2 * cores, depth=reads_in_flight(self.chip)
        )
        # A write is granted only if its place is free when its data come.
        free = []
        for channel, queue in (("aw", addresses), ("w", beats)):
            granted = Signal(range(WRITE_BUFFER + 1), name=f"{channel}_granted")
            leaves = queue.r_rdy & queue.r_en
            m.d.sync += granted.eq(granted + takers.any() - leaves)
            free.append(granted != WRITE_BUFFER)
        late = Value.cast(takers)
        for stage in range(STORE_DATA_CYCLES):  # with reset: it says what is valid
            stage_takers = Signal(cores, name=f"takers_{stage + 1}")
            m.d.sync += stage_takers.eq(late)
            late = stage_takers
        data = _chosen(late, [Cat(store.data, store.mask) for store in self.stores])
        answered = wire(m, self.axi.bvalid & self.axi.bready, "answered")
        m.d.comb += [
            may_write.eq(free[0] & free[1] & routes.w_rdy),
            routes.w_en.eq(takers.any()),
            routes.w_data.eq(Cat(takers, takers & lasts)),
            addresses.w_en.eq(late.any()),
            addresses.w_data.eq(register(m, bursts, "write_burst_late", stages=STORE_DATA_CYCLES)),
            beats.w_en.eq(late.any()),
            beats.w_data.eq(data),
            self.axi.awvalid.eq(addresses.r_rdy),
            addresses.r_en.eq(self.axi.awready),
            self.axi.awaddr.eq(addresses.r_data << place),
            *self._constants("aw"),
            self.axi.wvalid.eq(beats.r_rdy),
            beats.r_en.eq(self.axi.wready),
            Cat(self.axi.wdata, self.axi.wstrb).eq(beats.r_data),
            self.axi.wlast.eq(1),
            self.axi.bready.eq(routes.r_rdy),
            routes.r_en.eq(self.axi.bvalid),
        ]
        for core, store in enumerate(self.stores):
            m.d.comb += store.done.eq(answered & routes.r_data[core])
            m.d.comb += store.done_last.eq(answered & routes.r_data[cores + core])

    def _constants(self, letters: str) -> list[object]:
        size = size_code(self.chip.dram_burst_bytes)
        fields = {"len": 0, "size": size, "burst": INCR}
        return [getattr(self.axi, letters + name).eq(value) for name, value in fields.items()]


def _chosen(one_hot: Value, values: list[Value]) -> Value:
    """The value of the lowest bit that is set; 0 if none is."""
    result = Value.cast(0)
    for i, value in reversed(list(enumerate(values))):
        result = Mux(one_hot[i], value, result)
    return result


def check_memory_port(chip: ChipSpec) -> None:
    """Raises SpecError MV0120 for a chip that `MemoryPort` cannot serve."""
    for given, allowed, fits in (
        (
            f"{chip.dram_bursts_num}/{chip.dram_bursts_den} bursts a cycle",
            "1 or less",
            chip.dram_bursts_num <= chip.dram_bursts_den,
        ),
        (
            f"core_port_bytes_per_cycle {chip.core_port_bytes_per_cycle}",
            f"one burst, {chip.dram_burst_bytes}",
            chip.core_port_bytes_per_cycle == chip.dram_burst_bytes,
        ),
        (
            f"dram_latency_cycles {chip.dram_latency_cycles}",
            f"{LEAST_LATENCY} or more",
            chip.dram_latency_cycles >= LEAST_LATENCY,
        ),
        (
            f"dram_bytes {chip.dram_bytes}",
            f"below {1 << (ADDRESS_BITS - 1)}",
            chip.dram_bytes < 1 << (ADDRESS_BITS - 1),
        ),
    ):
        if not fits:
            raise SpecError(
                "MV0120",
                "the RTL has no memory port for this chip",
                where=f"chip {chip.name}",
                given=given,
                allowed=allowed,
                hint="Take nano or micro, or change the chip.",
            )
