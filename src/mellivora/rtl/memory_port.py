"""The memory port of a chip: the arbiter of docs/design/0002-timing.md, and AXI4 masters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from mellivora.errors import SpecError
from mellivora.rtl.axi import INCR, axi4, size_code
from mellivora.rtl.dma_walker import burst_bits
from mellivora.rtl.dram_arbiter import DramArbiter, dram_slots
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
    """Grants fragments round robin, at the rate of DRAM: the s-th of a cycle goes to master s.

    axi: as many masters as DRAM moves bursts in a cycle at most. Grants of one cycle are answered
    together, when the last of their answers has come.
    hold: before cycle 0 of a run; the first cycle without it is cycle 0 of the rate and of the
    round. A grant in cycle g is what the timing machine grants in g + dram_latency_cycles, if the
    memory is always ready and answers a read `latency - 2` and a write `latency - 5` cycles after
    it has seen it. Raises SpecError MV0120 for a chip that it cannot serve.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        check_memory_port(chip)
        self.chip = chip
        self.slots = dram_slots(chip)
        self.module_name = f"memory_port_{chip.name}"
        super().__init__(
            {
                "hold": In(1),
                "loads": In(load_link(chip)).array(chip.cores),
                "stores": In(store_link(chip)).array(chip.cores),
                "axi": Out(axi4(ADDRESS_BITS, chip.dram_burst_bytes)).array(self.slots),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ways = range(self.chip.core_port_bursts)
        may_read, may_write = Signal(), Signal()
        m.submodules.arbiter = arbiter = DramArbiter(self.chip)
        m.d.comb += arbiter.hold.eq(self.hold)
        for core, (load, store) in enumerate(zip(self.loads, self.stores)):
            own = Mux(may_read & ~load.multicast, load.count, 0)
            m.d.comb += [
                arbiter.asks[2 * core].eq(own),
                arbiter.asks[2 * core + 1].eq(Mux(may_write, store.count, 0)),
                load.grant.eq(arbiter.grants[2 * core] | arbiter.grants[-1]),
                store.grant.eq(arbiter.grants[2 * core + 1]),
            ]
        common = [Cat(load.multicast & (load.count > k) for load in self.loads).all() for k in ways]
        m.d.comb += arbiter.asks[-1].eq(Mux(may_read, sum(common[1:], common[0]), 0))
        readers, writers = [], []
        for s, slot in enumerate(arbiter.slots):
            own = Cat(slot[0:-1:2])
            together = slot[-1].replicate(self.chip.cores)
            readers.append(wire(m, own | together, f"readers_{s}"))
            writers.append(wire(m, Cat(slot[1:-1:2]), f"writers_{s}"))
        rounds = list(arbiter.rounds)
        self._reads(m, readers, rounds, may_read)
        self._writes(m, writers, rounds, may_write)
        return m

    def _reads(
        self, m: Module, takers: list[Signal], rounds: list[Value], may_read: Signal
    ) -> None:
        """takers: by slot the cores that a read granted in this cycle is for, or none; rounds:
        which of their fragments."""
        layout = data.StructLayout({"takers": self.chip.cores, "round": self.chip.core_port_bursts})
        rows = data.ArrayLayout(layout, self.slots)
        m.submodules.read_routes = routes = fifo.SyncFIFOBuffered(
            width=rows.size, depth=reads_in_flight(self.chip)
        )
        due = data.View(rows, routes.r_data)
        any_ = Cat(one.any() for one in takers).any()
        ready, answered = (
            [routes.w_rdy],
            self._row(
                m, routes, [row.takers.any() for row in due], [axi.rvalid for axi in self.axi], "r"
            ),
        )
        for s, axi in enumerate(self.axi):
            requests = fifo.SyncFIFO(width=ADDRESS_BITS - burst_bits(self.chip), depth=2)
            m.submodules[f"read_requests_{s}"] = requests
            ready.append(requests.w_rdy)
            bursts = [_chosen(rounds[s], list(load.bursts)) for load in self.loads]
            m.d.comb += [
                requests.w_en.eq(takers[s].any()),
                requests.w_data.eq(_chosen(takers[s], bursts)),
                axi.arvalid.eq(requests.r_rdy),
                requests.r_en.eq(axi.arready),
                axi.araddr.eq(requests.r_data << burst_bits(self.chip)),
                *self._constants(axi, "ar"),
            ]
        m.d.comb += [
            may_read.eq(Cat(ready).all()),
            routes.w_en.eq(any_),
            routes.w_data.eq(Cat(Cat(*pair) for pair in zip(takers, rounds))),
        ]
        for core, load in enumerate(self.loads):
            m.d.comb += load.beat.eq(answered & Cat(row.takers[core] for row in due).any())
            for k in range(self.chip.core_port_bursts):
                mine = Cat(row.takers[core] & row.round[k] for row in due)
                mine = wire(m, mine, f"beat_{core}_{k}")
                m.d.comb += load.data[k].eq(_chosen(mine, [axi.rdata for axi in self.axi]))

    def _writes(
        self, m: Module, takers: list[Signal], rounds: list[Value], may_write: Signal
    ) -> None:
        """takers: by slot the core whose write is granted in this cycle, or none; rounds: which of
        its fragments."""
        cores, place = self.chip.cores, burst_bits(self.chip)
        ready = []
        for s, axi in enumerate(self.axi):
            bursts = [_chosen(rounds[s], list(store.bursts)) for store in self.stores]
            burst = wire(m, _chosen(takers[s], bursts), f"write_burst_{s}")
            late: Value = takers[s]
            for stage in range(STORE_DATA_CYCLES):  # with reset: it says what is valid
                later = Signal(cores, name=f"takers_{stage + 1}_{s}")
                m.d.sync += later.eq(late)
                late = later
            late_round = register(m, rounds[s], f"round_{s}", stages=STORE_DATA_CYCLES)
            beats = [
                _chosen(late_round, [Cat(*pair) for pair in zip(store.data, store.masks)])
                for store in self.stores
            ]
            addresses = fifo.SyncFIFO(width=ADDRESS_BITS - place, depth=WRITE_BUFFER)
            queue = fifo.SyncFIFO(width=9 * self.chip.dram_burst_bytes, depth=WRITE_BUFFER)
            m.submodules[f"write_addresses_{s}"] = addresses
            m.submodules[f"write_beats_{s}"] = queue
            # A write is granted only if its place is free when its data come.
            for channel, waiting in (("aw", addresses), ("w", queue)):
                granted = Signal(range(WRITE_BUFFER + 1), name=f"{channel}_granted_{s}")
                leaves = waiting.r_rdy & waiting.r_en
                m.d.sync += granted.eq(granted + takers[s].any() - leaves)
                ready.append(granted != WRITE_BUFFER)
            m.d.comb += [
                addresses.w_en.eq(late.any()),
                addresses.w_data.eq(register(m, burst, f"burst_{s}", stages=STORE_DATA_CYCLES)),
                queue.w_en.eq(late.any()),
                queue.w_data.eq(_chosen(late, beats)),
                axi.awvalid.eq(addresses.r_rdy),
                addresses.r_en.eq(axi.awready),
                axi.awaddr.eq(addresses.r_data << place),
                *self._constants(axi, "aw"),
                axi.wvalid.eq(queue.r_rdy),
                queue.r_en.eq(axi.wready),
                Cat(axi.wdata, axi.wstrb).eq(queue.r_data),
                axi.wlast.eq(1),
            ]
        self._answer_writes(m, takers, ready, may_write)

    def _answer_writes(
        self, m: Module, takers: list[Signal], ready: list[Value], may_write: Signal
    ) -> None:
        """ready: of all masters, whether each has places for one more."""
        ways = self.chip.core_port_bursts
        counts = data.ArrayLayout(range(ways + 1), self.chip.cores)
        row = data.StructLayout({"slots": self.slots, "done": counts, "last": counts})
        m.submodules.write_routes = routes = fifo.SyncFIFOBuffered(
            width=row.size, depth=reads_in_flight(self.chip)
        )
        going, due = Signal(row, name="write_row"), data.View(row, routes.r_data)
        answered = self._row(m, routes, list(due.slots), [axi.bvalid for axi in self.axi], "b")
        m.d.comb += [
            may_write.eq(Cat(routes.w_rdy, *ready).all()),
            going.slots.eq(Cat(one.any() for one in takers)),
            routes.w_en.eq(going.slots.any()),
            routes.w_data.eq(going),
        ]
        for core, store in enumerate(self.stores):
            lasts = [store.last[k] & (store.grant > k) for k in range(ways)]
            m.d.comb += [
                going.done[core].eq(store.grant),
                going.last[core].eq(sum(lasts[1:], lasts[0])),
                store.done.eq(Mux(answered, due.done[core], 0)),
                store.done_last.eq(Mux(answered, due.last[core], 0)),
            ]

    def _row(
        self, m: Module, routes: fifo.SyncFIFOBuffered, used: list, valid: list, letter: str
    ) -> Value:
        """Takes the answers of the grants of one cycle, all at once; whether it does."""
        if self.slots == 1:
            used = [Const(1)]  # or there were no grants
        here = wire(m, Cat(~a | b for a, b in zip(used, valid)), f"{letter}_here")
        for s, axi in enumerate(self.axi):
            others = Cat(here[i] for i in range(self.slots) if i != s).all()
            m.d.comb += getattr(axi, f"{letter}ready").eq(routes.r_rdy & used[s] & others)
        m.d.comb += routes.r_en.eq(here.all())
        return wire(m, routes.r_rdy & here.all(), f"{letter}_answered")

    def _constants(self, axi: wiring.PureInterface, letters: str) -> list[object]:
        size = size_code(self.chip.dram_burst_bytes)
        fields = {"len": 0, "size": size, "burst": INCR}
        return [getattr(axi, letters + name).eq(value) for name, value in fields.items()]


def _chosen(one_hot: Value, values: Sequence[Value]) -> Value:
    """The value of the lowest bit that is set; 0 if none is."""
    result = Value.cast(0)
    for i, value in reversed(list(enumerate(values))):
        result = Mux(one_hot[i], value, result)
    return result


def check_memory_port(chip: ChipSpec) -> None:
    """Raises SpecError MV0120 for a chip that has a memory which `MemoryPort` cannot serve."""
    for given, allowed, fits in (
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
        if not fits and chip.dram_bursts_num:
            raise SpecError(
                "MV0120",
                "the RTL has no memory port for this chip",
                where=f"chip {chip.name}",
                given=given,
                allowed=allowed,
                hint="Change the chip.",
            )
