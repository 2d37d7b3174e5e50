"""A chip that only moves data: DMA engines, scratchpads, memory port, a memory on AXI.

Operations lie in a memory for each engine and are dispatched at given cycles; semaphores count for
nothing. All memories are filled and read through the bench's own ports, as `Run` does it.
"""

from __future__ import annotations

import functools

import numpy as np
from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, fifo, memory, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import (
    LOAD,
    R_CONFIG,
    R_OPCODE,
    R_PC,
    R_SLOT,
    SLOTS,
    STORE,
)
from mellivora.rtl.axi import axi4
from mellivora.rtl.banked_memory import BankedMemory
from mellivora.rtl.exchange import Exchange
from mellivora.rtl.interfaces import ADDRESS_BITS, OPERATION, READ_CYCLES
from mellivora.rtl.load_engine import LoadEngine
from mellivora.rtl.memory_port import MemoryPort
from mellivora.rtl.sharing import share
from mellivora.rtl.simulate import build
from mellivora.rtl.store_engine import StoreEngine, store_reads
from mellivora.sim.timing import ENGINE_OF

DRAM_BURSTS = 512
OPERATIONS = 255
"""Of an engine."""
ENTRY = data.StructLayout({"cycle": 32, "op": OPERATION})
NEVER = 0xFFFF_FFFF
SELECTS = 8
FILL_DRAM, FILL_PAD, FILL_LOAD, FILL_STORE = 1, 2, 3, 4


class IdealMemory(wiring.Component):
    """A read is answered `latency - 2` cycles after AR, a write `latency - 5` after AW and W.

    stall: bit 0 no AR, 1 no AW, 2 no W, 3 no R, 4 no B in this cycle; of the next master the same
    turned by one bit, and so on.
    """

    has_reset = True

    def __init__(self, latency, burst_bytes, masters):
        self.latency, self.burst_bytes, self.masters = latency, burst_bytes, masters
        self.module_name = f"ideal_memory_{latency}"
        super().__init__(
            {
                "axi": In(axi4(ADDRESS_BITS, burst_bytes)).array(masters),
                "stall": In(5),
                "address": In(32),
                "fill": In(1),
                "fill_data": In(8 * burst_bytes),
                "data": Out(8 * burst_bytes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        size, shift = self.burst_bytes, self.burst_bytes.bit_length() - 1
        ports = {f"axi{i}": size for i in range(self.masters)}
        dram = BankedMemory(
            DRAM_BURSTS * size,
            banks=8,
            reads=ports | {"look": size},
            writes=ports | {"fill": size},
            ordered=tuple(ports),
        )
        m.submodules.dram = share(dram)
        now = Signal(32)
        m.d.sync += now.eq(now + 1)
        for i, axi in enumerate(self.axi):
            read, write = getattr(dram, f"read_axi{i}"), getattr(dram, f"write_axi{i}")
            stall = Signal(5, name=f"stall{i}")
            m.d.comb += stall.eq(self.stall.rotate_left(i))
            self._master(m, axi, read, write, now, stall, i)
        m.d.comb += [
            dram.write_fill.address.eq(self.address << shift),
            dram.write_fill.data.eq(self.fill_data),
            dram.write_fill.mask.eq(~0),
            dram.write_fill.enable.eq(self.fill),
            dram.read_look.address.eq(self.address << shift),
            dram.read_look.enable.eq(1),
            self.data.eq(dram.read_look.data),
        ]
        return m

    def _master(self, m, axi, read, write, now, stall, i):
        size, shift = self.burst_bytes, self.burst_bytes.bit_length() - 1
        due = now + self.latency - 2 - READ_CYCLES  # then the memory is asked

        def queue(name, width):
            one = fifo.SyncFIFO(width=width, depth=2 * self.latency + 16)
            m.submodules[f"{name}{i}"] = one
            return one

        reads, addresses, beats, answers = (
            queue("reads", 32 + 64),
            queue("addresses", 32),
            queue("beats", 9 * size),
            queue("answers", 32),
        )
        came = fifo.SyncFIFO(width=8 * size, depth=2 * self.latency + 16)
        m.submodules[f"came{i}"] = came
        both = addresses.r_rdy & beats.r_rdy & answers.w_rdy
        asked = reads.r_rdy & reads.r_en
        fresh, shown = register_valid(m, asked), Signal()
        m.d.sync += shown.eq(axi.bvalid & ~axi.bready)  # AXI: it stays
        m.d.comb += [
            axi.arready.eq(reads.w_rdy & ~stall[0]),
            reads.w_en.eq(axi.arvalid & ~stall[0]),
            reads.w_data.eq(Cat(axi.araddr[shift : shift + 32], due[:32])),
            reads.r_en.eq((now >= reads.r_data[32:]) & ~stall[3]),
            read.address.eq(reads.r_data[:32] << shift),
            read.enable.eq(asked),
            # What is not taken in its cycle waits.
            axi.rvalid.eq(came.r_rdy | fresh),
            axi.rdata.eq(Mux(came.r_rdy, came.r_data, read.data)),
            came.w_en.eq(fresh & (came.r_rdy | ~axi.rready)),
            came.w_data.eq(read.data),
            came.r_en.eq(axi.rready),
            axi.rlast.eq(1),
            axi.awready.eq(addresses.w_rdy & ~stall[1]),
            addresses.w_en.eq(axi.awvalid & ~stall[1]),
            addresses.w_data.eq(axi.awaddr[shift : shift + 32]),
            axi.wready.eq(beats.w_rdy & ~stall[2]),
            beats.w_en.eq(axi.wvalid & ~stall[2]),
            beats.w_data.eq(Cat(axi.wdata, axi.wstrb)),
            addresses.r_en.eq(both),
            beats.r_en.eq(both),
            answers.w_en.eq(both),
            answers.w_data.eq(now - 1 + self.latency - 5),  # both came in the cycle before
            axi.bvalid.eq(answers.r_rdy & (now >= answers.r_data) & (~stall[4] | shown)),
            answers.r_en.eq(axi.bvalid & axi.bready),
            write.address.eq(addresses.r_data << shift),
            write.data.eq(beats.r_data[: 8 * size]),
            write.mask.eq(beats.r_data[8 * size :]),
            write.enable.eq(both),
        ]


def register_valid(m, value):
    """READ_CYCLES later, false from reset on."""
    for _ in range(READ_CYCLES):
        later = Signal()
        m.d.sync += later.eq(value)
        value = later
    return value


class Source(wiring.Component):
    """The operations of one engine, each from its cycle on."""

    has_reset = True
    module_name = "dma_bench_source"

    def __init__(self):
        super().__init__(
            {
                "fill": In(1),
                "address": In(32),
                "entry": In(ENTRY),
                "now": In(32),
                "hold": In(1),
                "ready": In(1),
                "op": Out(OPERATION),
                "start": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.entries = entries = memory.Memory(
            shape=ENTRY.size, depth=OPERATIONS + 1, init=[]
        )
        write, read = entries.write_port(), entries.read_port(domain="comb")
        at = Signal(range(OPERATIONS + 1))
        head = data.View(ENTRY, read.data)
        m.d.comb += [
            write.addr.eq(self.address),
            write.data.eq(self.entry),
            write.en.eq(self.fill),
            read.addr.eq(at),
            self.op.eq(head.op),
            self.start.eq(self.ready & ~self.hold & (head.cycle <= self.now)),
        ]
        m.d.sync += at.eq(at + self.start)
        return m


class Bench(wiring.Component):
    """fill: what the fill port writes (FILL_*), of `core`, in units of a burst or an operation."""

    has_reset = True

    def __init__(self, chip, windows):
        self.chip, self.windows = chip, windows
        self.module_name = f"dma_bench_{chip.name}"
        outputs = {}
        ends = data.ArrayLayout(17, chip.outstanding_transfers)
        for core in range(chip.cores):
            outputs |= {f"pad{core}": Out(8 * chip.dram_burst_bytes)}
            for engine in ("load", "store"):
                outputs |= {
                    f"{engine}{core}_start": Out(1),
                    f"{engine}{core}_ends": Out(ends),
                    f"{engine}{core}_fault": Out(20),
                    f"{engine}{core}_active": Out(1),
                }
        super().__init__(
            {
                "hold": In(1),
                "stall": In(5),
                "fill": In(range(SELECTS)),
                "core": In(8),
                "address": In(32),
                "data": In(ENTRY.size),
                "dram": Out(8 * chip.dram_burst_bytes),
                "bus": Out(24),
                **outputs,
            }
        )

    def elaborate(self, platform):
        m = Module()
        size = self.chip.dram_burst_bytes
        m.submodules.port = port = MemoryPort(self.chip)
        ideal = IdealMemory(self.chip.dram_latency_cycles, size, port.slots)
        m.submodules.memory = ideal
        m.submodules.network = network = Exchange(self.chip)
        for master, place in zip(port.axi, ideal.axi):
            wiring.connect(m, master, place)
        now = Signal(32)
        with m.If(~self.hold):
            m.d.sync += now.eq(now + 1)
        m.d.comb += [
            port.hold.eq(self.hold),
            ideal.stall.eq(self.stall),
            ideal.address.eq(self.address),
            ideal.fill.eq(self.fill == FILL_DRAM),
            ideal.fill_data.eq(self.data),
            self.dram.eq(ideal.data),
            self.bus.eq(
                Cat(
                    (sum(getattr(axi, name) for axi in port.axi) + Const(0, 8))[:8]
                    for name in ("arvalid", "awvalid", "wvalid")
                )
            ),
        ]
        loads = [f"load{k}" for k in range(self.chip.core_port_bursts)]
        for core in range(self.chip.cores):
            pad = BankedMemory(
                self.chip.sram_bytes,
                banks=self.chip.sram_banks,
                reads={f"store{k}": width for k, width in enumerate(store_reads(self.chip))}
                | {"table": 4, "test": size},
                writes=dict.fromkeys(loads, size)
                | {"exchange": self.chip.exchange_bytes_per_cycle, "test": size},
                ordered=loads,
            )
            m.submodules[f"pad{core}"] = share(pad)
            mine = self.core == core
            m.d.comb += [
                pad.read_test.address.eq(self.address * size),
                pad.read_test.enable.eq(1),
                getattr(self, f"pad{core}").eq(pad.read_test.data),
                pad.write_test.address.eq(self.address * size),
                pad.write_test.enable.eq(mine & (self.fill == FILL_PAD)),
                pad.write_test.data.eq(self.data),
                pad.write_test.mask.eq(~0),
            ]
            load, store = LoadEngine(self.chip), StoreEngine(self.chip)
            m.submodules[f"load{core}"], m.submodules[f"store{core}"] = share(load), share(store)
            wiring.connect(m, load.table, pad.read_table)
            for k in range(self.chip.core_port_bursts):
                wiring.connect(m, load.write[k], getattr(pad, f"write_load{k}"))
                wiring.connect(m, getattr(store, f"read_{k}"), getattr(pad, f"read_store{k}"))
            wiring.connect(m, store.exchange, network.cores[core])
            wiring.connect(m, store.exchange_write, pad.write_exchange)
            for engine, name, fill, links in (
                (load, "load", FILL_LOAD, port.loads),
                (store, "store", FILL_STORE, port.stores),
            ):
                wiring.connect(m, engine.memory, links[core])
                source = Source()
                m.submodules[f"source_{name}{core}"] = share(source)
                m.d.comb += [
                    source.fill.eq(mine & (self.fill == fill)),
                    source.address.eq(self.address),
                    source.entry.eq(self.data),
                    source.now.eq(now),
                    source.hold.eq(self.hold),
                    source.ready.eq(engine.ready),
                    engine.op.eq(source.op),
                    engine.start.eq(source.start),
                ]
                base, limit = Signal(ADDRESS_BITS), Signal(ADDRESS_BITS)
                bases = Array(one for one, _ in self.windows)
                limits = Array(one for _, one in self.windows)
                m.d.sync += [base.eq(bases[engine.window]), limit.eq(limits[engine.window])]
                m.d.comb += [engine.base.eq(base), engine.limit.eq(limit)]
                fault = engine.fault
                shown = [Cat(end.valid, end.sequence[:16]) for end in engine.ends]
                m.d.comb += [
                    getattr(self, f"{name}{core}_start").eq(source.start),
                    getattr(self, f"{name}{core}_ends").eq(Cat(shown)),
                    getattr(self, f"{name}{core}_active").eq(engine.active),
                    getattr(self, f"{name}{core}_fault").eq(
                        Cat(fault.sequence[:16], Mux(fault.valid, fault.cause, 0))
                    ),
                ]
        return m


@functools.cache
def simulation(chip, windows):
    return build(Bench(chip, windows))


def _entry(row, sequence, cycle):
    """One operation as uint32 words."""
    fields = {"opcode": row[R_OPCODE], "pc": row[R_PC], "sequence": sequence}
    slots, config = row[R_SLOT:R_CONFIG], row[R_CONFIG : R_CONFIG + SLOTS]
    op = OPERATION.const(
        {k: int(v) for k, v in fields.items()}
        | {"slots": [int(v) for v in slots], "config": [int(v) for v in config]}
    )
    return ENTRY.const({"cycle": int(cycle), "op": op}).as_value().value


class Run:
    """One run of the bench; afterwards start, end [core][row], dram, pads and faults.

    rows, dispatch: of each core; dram uint8 [DRAM_BURSTS * burst]; pads: uint8 [cores, sram_bytes].
    fault[core][engine]: (cause, sequence) or None; cycle in which it shows in fault_at.
    """

    def __init__(self, chip, windows, rows, dispatch, dram, pads, *, cycles, stall=0):
        self.chip, size = chip, chip.dram_burst_bytes
        sim = simulation(chip, windows)
        width = -(-ENTRY.size // 32)
        table = []  # fill, core, address, words
        line = size // 4
        for i, burst in enumerate(dram.view("<u4").reshape(-1, line)):
            table.append((FILL_DRAM, 0, i, burst))
        for core, pad in enumerate(pads):
            for i, burst in enumerate(pad.view("<u4").reshape(-1, line)):
                table.append((FILL_PAD, core, i, burst))
        self.order = {}
        for core, mine in enumerate(rows):
            engine = ENGINE_OF[mine[:, R_OPCODE]]
            for which, fill in ((LOAD, FILL_LOAD), (STORE, FILL_STORE)):
                picked = self.order[core, which] = np.flatnonzero(engine == which)
                assert len(picked) <= OPERATIONS
                entries = [_entry(mine[i], i, dispatch[core][i]) for i in picked]
                entries.append(ENTRY.const({"cycle": NEVER}).as_value().value)
                for i, entry in enumerate(entries):
                    words = [entry >> 32 * k & 0xFFFF_FFFF for k in range(width)]
                    table.append((fill, core, i, words))
        fills, looks = len(table), max(DRAM_BURSTS, chip.sram_bytes // size)
        total = fills + cycles + looks + READ_CYCLES
        inputs = {name: np.zeros(total, np.uint32) for name in ("fill", "core", "address", "hold")}
        words = np.zeros((total, width), np.uint32)
        for t, (fill, core, address, some) in enumerate(table):
            inputs["fill"][t], inputs["core"][t], inputs["address"][t] = fill, core, address
            words[t, : len(some)] = some
        inputs["hold"][:fills] = 1
        inputs["address"][fills + cycles : -READ_CYCLES] = np.arange(looks)
        stalls = np.zeros(total, np.uint32)
        stalls[fills : fills + cycles] = stall
        shown = sim.run(**inputs, data=words, stall=stalls)
        self.shown = {name: column[fills : fills + cycles] for name, column in shown.items()}
        self.bus = self.shown["bus"]
        rest = fills + cycles
        self.dram = _bytes(shown["dram"][rest + READ_CYCLES :])[: DRAM_BURSTS * size]
        self.pads = np.stack(
            [
                _bytes(shown[f"pad{c}"][rest + READ_CYCLES :])[: chip.sram_bytes]
                for c in range(chip.cores)
            ]
        )
        self._times(rows)

    def _times(self, rows):
        self.start = [np.full(len(mine), -1) for mine in rows]
        self.end = [np.full(len(mine), -1) for mine in rows]
        self.fault, self.fault_at = {}, {}
        for (core, which), picked in self.order.items():
            name = f"{'load' if which == LOAD else 'store'}{core}"
            cycles = np.flatnonzero(self.shown[f"{name}_start"])
            self.start[core][picked[: len(cycles)]] = cycles
            ends = self.shown[f"{name}_ends"].reshape(len(self.bus), -1).astype(object)
            value = sum(ends[:, i] << 32 * i for i in range(ends.shape[1]))
            for i in range(self.chip.outstanding_transfers):
                one = ((value >> 17 * i) & 0x1FFFF).astype(np.int64)
                at = np.flatnonzero(one & 1)
                assert (self.end[core][one[at] >> 1] == -1).all(), "an operation ends twice"
                self.end[core][one[at] >> 1] = at + 1
            fault = self.shown[f"{name}_fault"]
            at = np.flatnonzero(fault >> 16)
            if at.size:
                assert (fault[at[0] :] == fault[at[0]]).all(), "a fault is held"
                self.fault[core, which] = (int(fault[-1] >> 16), int(fault[-1] & 0xFFFF))
                self.fault_at[core, which] = int(at[0])


def _bytes(words):
    return np.ascontiguousarray(words).view(np.uint8).reshape(-1)
