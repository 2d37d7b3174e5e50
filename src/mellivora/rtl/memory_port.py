"""The memory port of a chip: the arbiter of docs/design/0002-timing.md, and AXI4 masters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from mellivora.errors import SpecError
from mellivora.isa.latency import port_rows_in_flight
from mellivora.rtl.axi import axi4
from mellivora.rtl.beat_return import BeatReturn
from mellivora.rtl.dram_arbiter import DramArbiter
from mellivora.rtl.interfaces import ADDRESS_BITS
from mellivora.rtl.memory_link import load_link, store_link
from mellivora.rtl.memory_master import MemoryMaster, requests
from mellivora.rtl.pipeline import wire
from mellivora.rtl.sharing import share
from mellivora.spec.dram_timing import LEAST_LATENCY_CYCLES

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec


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
        self.slots = chip.dram_slots
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
        m.submodules.arbiter = self._place(arbiter := DramArbiter(self.chip))
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
        masters = self._masters(m, readers, writers, rounds)
        self._answer_reads(m, readers, rounds, [one.may_read for one in masters], may_read)
        self._answer_writes(m, writers, [one.may_write for one in masters], may_write)
        return m

    def _place(self, component: Any) -> Any:
        """Of many one module; the only one is part of the port, where proofs look into it."""
        return share(component) if self.slots > 1 else component

    def _masters(
        self, m: Module, readers: list[Signal], writers: list[Signal], rounds: list[Value]
    ) -> list[MemoryMaster]:
        """By slot: cores that a read, or a write, of this cycle is for, and which fragment."""
        masters = []
        for s, axi in enumerate(self.axi):
            m.submodules[f"master_{s}"] = self._place(master := MemoryMaster(self.chip))
            masters.append(master)
            m.d.comb += [
                master.readers.eq(readers[s]),
                master.writers.eq(writers[s]),
                master.round.eq(rounds[s]),
            ]
            for core, (load, store) in enumerate(zip(self.loads, self.stores)):
                beats = [Cat(*pair) for pair in zip(store.data, store.masks)]
                m.d.comb += [
                    master.loads[core].eq(load.bursts),
                    master.stores[core].eq(store.bursts),
                    master.beats[core].eq(Cat(beats)),
                ]
            for name, member in requests(self.chip).items():
                mine, outer = getattr(master, name), getattr(axi, name)
                m.d.comb += outer.eq(mine) if member.flow == Out else mine.eq(outer)
        return masters

    def _answer_reads(
        self,
        m: Module,
        takers: list[Signal],
        rounds: list[Value],
        ready: list[Value],
        may_read: Signal,
    ) -> None:
        """ready: of all masters, whether each has a place for one more."""
        layout = data.StructLayout({"takers": self.chip.cores, "round": self.chip.core_port_bursts})
        rows = data.ArrayLayout(layout, self.slots)
        m.submodules.read_routes = routes = fifo.SyncFIFOBuffered(
            width=rows.size, depth=port_rows_in_flight(self.chip)
        )
        due = data.View(rows, routes.r_data)
        used = [row.takers.any() for row in due]
        answered = self._row(m, routes, used, [axi.rvalid for axi in self.axi], "r")
        m.d.comb += [
            may_read.eq(Cat(routes.w_rdy, *ready).all()),
            routes.w_en.eq(Cat(one.any() for one in takers).any()),
            routes.w_data.eq(Cat(Cat(*pair) for pair in zip(takers, rounds))),
        ]
        for core, load in enumerate(self.loads):
            m.submodules[f"return_{core}"] = self._place(back := BeatReturn(self.chip))
            m.d.comb += [
                back.mine.eq(Cat(row.takers[core] for row in due)),
                back.rounds.eq(Cat(row.round for row in due)),
                back.words.eq(Cat(axi.rdata for axi in self.axi)),
                load.beat.eq(answered & back.mine.any()),
                load.data.eq(back.data),
            ]

    def _answer_writes(
        self, m: Module, takers: list[Signal], ready: list[Value], may_write: Signal
    ) -> None:
        """ready: of all masters, whether each has places for one more."""
        ways = self.chip.core_port_bursts
        counts = data.ArrayLayout(range(ways + 1), self.chip.cores)
        row = data.StructLayout({"slots": self.slots, "done": counts, "last": counts})
        m.submodules.write_routes = routes = fifo.SyncFIFOBuffered(
            width=row.size, depth=port_rows_in_flight(self.chip)
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


def check_memory_port(chip: ChipSpec) -> None:
    """Raises SpecError MV0120 for a chip that has a memory which `MemoryPort` cannot serve."""
    for given, allowed, fits in (
        (
            f"dram_latency_cycles {chip.dram_latency_cycles}",
            f"{LEAST_LATENCY_CYCLES} or more",
            chip.dram_latency_cycles >= LEAST_LATENCY_CYCLES,
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
