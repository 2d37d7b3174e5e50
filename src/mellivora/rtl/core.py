"""A core: the front, four engines, scratchpad, accumulators, control port, counters."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import ACCUMULATOR_BASE
from mellivora.rtl.banked_memory import BankedMemory
from mellivora.rtl.control import WORD_BITS
from mellivora.rtl.control_port import ControlPort, control_signature
from mellivora.rtl.exchange_link import exchange_link
from mellivora.rtl.front import NAMES, WORKERS, Front
from mellivora.rtl.interfaces import PC_BITS, READ_CYCLES
from mellivora.rtl.load_engine import LoadEngine
from mellivora.rtl.matrix_engine import MatrixEngine
from mellivora.rtl.memory_link import load_link, store_link
from mellivora.rtl.pipeline import register
from mellivora.rtl.sharing import share, share_if_numbered
from mellivora.rtl.store_engine import StoreEngine, store_reads
from mellivora.rtl.vector_engine import READS as VECTOR_READS
from mellivora.rtl.vector_engine import VectorEngine, d_bytes, write_widths
from mellivora.spec import ChipSpec

ACCUMULATOR_BIT = ACCUMULATOR_BASE.bit_length() - 1
MATRIX_READS = ("a", "a_scale", "b0", "b1")


def ends_of(chip: ChipSpec) -> int:
    """Operations that may end in one cycle, all engines together."""
    return 2 * chip.outstanding_transfers + 2


def scratchpad(chip: ChipSpec, *, ecc: bool = False) -> BankedMemory:
    """The scratchpad of a core with a port for every stream."""
    lanes, burst = chip.lanes, chip.dram_burst_bytes
    reads = {
        "matrix_a": 32,
        "matrix_a_scale": 1,
        "matrix_b0": 2 * chip.columns,
        "matrix_b1": 2 * chip.columns,
    }
    reads |= {f"vector_{name}": 4 * lanes for name in VECTOR_READS[:3]}
    reads |= {"vector_d": d_bytes(lanes), "load_table": 4}
    reads |= {f"store_{k}": width for k, width in enumerate(store_reads(chip))}
    writes = {f"vector_w{i}": width for i, width in enumerate(write_widths(lanes))}
    loads = {f"load_{k}": burst for k in range(chip.core_port_bursts)}
    writes |= loads | {"exchange": chip.exchange_bytes_per_cycle}
    bank_bytes = 32
    widest = max(*reads.values(), *writes.values())
    banks = chip.sram_banks
    while banks * bank_bytes < widest + bank_bytes - 1:  # a port meets a bank once
        banks *= 2
    return BankedMemory(
        chip.sram_bytes,
        bank_bytes,
        banks=banks,
        reads=reads,
        writes=writes,
        ecc=ecc,
        ordered=tuple(loads),
    )


def accumulators(chip: ChipSpec) -> BankedMemory:
    """The accumulators: two rows of all columns side by side, so that VECTOR may cross."""
    lanes = chip.lanes
    reads = {"matrix": 4 * chip.columns}
    reads |= {f"vector_{name}": 4 * lanes for name in VECTOR_READS[:3]}
    reads |= {"vector_d": d_bytes(lanes)}
    writes = {f"vector_w{i}": width for i, width in enumerate(write_widths(lanes))}
    writes |= {"matrix": 4 * chip.columns}
    banks = max(2, 2 * chip.columns * 4 // 32)
    return BankedMemory(chip.accumulator_bytes, 32, banks=banks, reads=reads, writes=writes)


class Core(wiring.Component):
    """Everything of a core. run: rises on all cores of a chip together; wants_run: the doorbell.

    start_*, end_*: what starts and ends in this cycle, for a test bench; sequence numbers are
    valid where the bit is set.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec, *, ecc: bool = False) -> None:
        self.chip, self.ecc = chip, ecc
        self.ends = ends_of(chip)
        self.module_name = f"core_{chip.fingerprint()[:8]}{'_ecc' if ecc else ''}"
        members = {
            "core_id": In(16),
            "control": In(control_signature()),
            "wants_run": Out(1),
            "run": In(1),
            "fetch_address": Out(PC_BITS),
            "fetch_word": In(WORD_BITS),
            "load": Out(load_link(chip)),
            "store": Out(store_link(chip)),
            "watchdog": In(1),
            "quiet": Out(1),
            "done": Out(1),
            "faulted": Out(1),
            "start_valid": Out(WORKERS),
            "start_sequence": Out(32 * WORKERS),
            "end_valid": Out(self.ends),
            "end_sequence": Out(32 * self.ends),
            "exchange": Out(exchange_link(chip)),
        }
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chip = self.chip
        m.submodules.front = share(front := Front(chip))
        m.submodules.port = share(port := ControlPort(chip))
        pad, sums = scratchpad(chip, ecc=self.ecc), accumulators(chip)
        m.submodules.scratchpad, m.submodules.accumulators = share(pad), share(sums)
        engines = {
            "load": LoadEngine(chip),
            "store": StoreEngine(chip),
            "matrix": MatrixEngine(chip),
            "vector": VectorEngine(chip),
        }
        for name, engine in engines.items():
            m.submodules[name] = share_if_numbered(engine)
            place = getattr(front, name)
            m.d.comb += [
                engine.op.eq(place.op),
                engine.start.eq(place.start),
                place.ready.eq(engine.ready),
                place.ends.eq(engine.ends),
                place.fault.eq(engine.fault),
                place.active.eq(engine.active),
            ]
        self._control(m, front, port, pad)
        for name in MATRIX_READS:
            _join_read(m, getattr(engines["matrix"], name), getattr(pad, f"read_matrix_{name}"))
        _join_read(m, engines["matrix"].acc_read, sums.read_matrix)
        _join_write(m, engines["matrix"].acc_write, sums.write_matrix)
        self._vector(m, engines["vector"], pad, sums)
        _join_read(m, engines["load"].table, pad.read_load_table)
        for k in range(chip.core_port_bursts):
            _join_write(m, engines["load"].write[k], getattr(pad, f"write_load_{k}"))
            _join_read(m, getattr(engines["store"], f"read_{k}"), getattr(pad, f"read_store_{k}"))
        for engine, link in ((engines["load"], self.load), (engines["store"], self.store)):
            wiring.connect(m, wiring.flipped(link), engine.memory)
        for name in ("load", "store"):
            self._windows(m, engines[name], port, name)
        wiring.connect(m, wiring.flipped(self.exchange), engines["store"].exchange)
        _join_write(m, engines["store"].exchange_write, pad.write_exchange)
        self._trace(m, front, engines)
        return m

    def _control(self, m: Module, front: Front, port: ControlPort, pad: BankedMemory) -> None:
        wiring.connect(m, wiring.flipped(self.control), port.axi)
        m.d.comb += [
            self.wants_run.eq(port.run),
            front.run.eq(self.run),
            front.core_id.eq(self.core_id),
            front.cores.eq(self.chip.cores),
            front.program_words.eq(port.program_words),
            front.parameter_count.eq(port.parameter_count),
            front.parameter_write.eq(port.parameter_write),
            front.parameter_address.eq(port.parameter_address),
            front.parameter_data.eq(port.parameter_data),
            front.watchdog.eq(self.watchdog),
            front.fetch_word.eq(self.fetch_word),
            self.fetch_address.eq(front.fetch_address),
            self.quiet.eq(front.quiet),
            self.done.eq(front.done),
            self.faulted.eq(front.record.valid),
            port.record.eq(front.record),
            port.done.eq(front.done),
            port.events.eq(front.events),
            port.dram_read.eq(self.load.grant),
            port.dram_write.eq(self.store.grant),
        ]
        if self.ecc:
            m.d.comb += [
                port.ecc_corrected.eq(pad.corrected),
                port.ecc_uncorrectable.eq(pad.uncorrectable),
            ]

    def _vector(
        self, m: Module, vector: VectorEngine, pad: BankedMemory, sums: BankedMemory
    ) -> None:
        """Bit 30 of an address says which memory; the data come from the one that was asked."""
        for name in VECTOR_READS:
            mine = getattr(vector, name)
            near, far = getattr(pad, f"read_vector_{name}"), getattr(sums, f"read_vector_{name}")
            there = mine.address[ACCUMULATOR_BIT]
            late = register(m, there, f"vector_{name}_there", stages=READ_CYCLES)
            m.d.comb += [
                near.address.eq(mine.address),
                near.enable.eq(mine.enable & ~there),
                far.address.eq(mine.address[:ACCUMULATOR_BIT]),
                far.enable.eq(mine.enable & there),
                mine.data.eq(Mux(late, far.data, near.data)),
            ]
        for i in range(len(write_widths(self.chip.lanes))):
            mine = getattr(vector, f"w{i}")
            near, far = getattr(pad, f"write_vector_w{i}"), getattr(sums, f"write_vector_w{i}")
            there = mine.address[ACCUMULATOR_BIT]
            m.d.comb += [
                near.address.eq(mine.address),
                far.address.eq(mine.address[:ACCUMULATOR_BIT]),
                near.enable.eq(mine.enable & ~there),
                far.enable.eq(mine.enable & there),
            ]
            for side in (near, far):
                m.d.comb += [side.data.eq(mine.data), side.mask.eq(mine.mask)]

    def _windows(
        self, m: Module, engine: LoadEngine | StoreEngine, port: ControlPort, name: str
    ) -> None:
        """The row of the window table that a DMA engine asks for, three cycles later."""
        asked = register(m, engine.window, f"{name}_window")
        for part in ("base", "limit"):
            row = Signal(len(getattr(engine, part)), name=f"{name}_{part}_row")
            with m.Switch(asked):
                for i in range(self.chip.windows):
                    with m.Case(i):
                        m.d.comb += row.eq(getattr(port.windows[i], part))
            m.d.comb += getattr(engine, part).eq(register(m, row, f"{name}_{part}", stages=2))

    def _trace(self, m: Module, front: Front, engines: dict[str, wiring.Component]) -> None:
        ends = [engines[name].ends[i] for name in NAMES for i in range(len(engines[name].ends))]
        m.d.comb += [
            self.start_valid.eq(front.events.start),
            self.start_sequence.eq(Cat(getattr(front, name).op.sequence for name in NAMES)),
            self.end_valid.eq(Cat(end.valid for end in ends)),
            self.end_sequence.eq(Cat(end.sequence for end in ends)),
        ]


def _join_read(m: Module, reader: wiring.PureInterface, place: wiring.PureInterface) -> None:
    m.d.comb += [
        place.address.eq(reader.address),
        place.enable.eq(reader.enable),
        reader.data.eq(place.data),
    ]


def _join_write(m: Module, writer: wiring.PureInterface, place: wiring.PureInterface) -> None:
    m.d.comb += [
        getattr(place, n).eq(getattr(writer, n)) for n in ("address", "enable", "data", "mask")
    ]
