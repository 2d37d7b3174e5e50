"""The control port of a core: an AXI4-Lite slave before its registers (`registers.REGISTERS`)."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import PARAMETERS
from mellivora.rtl.axi import OKAY, axi4_lite
from mellivora.rtl.banked_memory import EVENT_BITS
from mellivora.rtl.control import PARAMETER_BITS
from mellivora.rtl.counters import COUNTER_BITS, COUNTERS, Counters
from mellivora.rtl.fault_record import RECORD
from mellivora.rtl.front import EVENTS
from mellivora.rtl.interfaces import ADDRESS_BITS, PC_BITS
from mellivora.rtl.registers import (
    ADDRESS,
    CORE_ADDRESS_BITS,
    CORE_STRIDE_BYTES,
    DOORBELL,
    IDENTITY_VALUE,
    WINDOW_WORDS,
    WORD_BYTES,
    setup_writes,
    status_registers,
)
from mellivora.spec import ChipSpec

__all__ = [
    "CORE_ADDRESS_BITS",
    "CORE_STRIDE_BYTES",
    "DOORBELL",
    "ControlPort",
    "control_signature",
    "setup_writes",
    "status_registers",
]

SLAVE_ERROR = 2
WINDOW = wiring.Signature({"base": Out(ADDRESS_BITS), "limit": Out(ADDRESS_BITS)})


def control_signature() -> wiring.Signature:
    """The host's side of a core's control port."""
    return axi4_lite(CORE_ADDRESS_BITS)


class ControlPort(wiring.Component):
    """Registers, windows and counters of a core.

    run: the doorbell's bit. program_words .. windows: what the host wrote; they stand still while
    run is 1. record, done, events, dram_*, ecc_*: from the core.

    A write with both channels there is done in the next cycle and answered after it; a read is
    answered two cycles after its address. Answers with SLVERR, and does nothing: an address without
    such a register or not of a whole word, a write of some bytes of a word, a write to anything but
    the doorbell while run is 1.
    """

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.module_name = f"control_port_{chip.windows}"
        self.has_reset = True
        self.counters = Counters(ways := chip.core_port_bursts)
        super().__init__(
            {
                "axi": In(control_signature()),
                "run": Out(1),
                "program_words": Out(PC_BITS),
                "parameter_count": Out(PARAMETER_BITS + 1),
                "parameter_write": Out(1),
                "parameter_address": Out(PARAMETER_BITS),
                "parameter_data": Out(32),
                "windows": Out(WINDOW).array(chip.windows),
                "record": In(RECORD),
                "done": In(1),
                "events": In(EVENTS),
                "dram_read": In(range(ways + 1)),
                "dram_write": In(range(ways + 1)),
                "ecc_corrected": In(EVENT_BITS),
                "ecc_uncorrectable": In(EVENT_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.counters = counters = self.counters
        for name in ("events", "dram_read", "dram_write", "ecc_corrected", "ecc_uncorrectable"):
            m.d.comb += getattr(counters, name).eq(getattr(self, name))
        self._write(m, counters)
        self._read(m, counters)
        return m

    def _write(self, m: Module, counters: Counters) -> None:
        axi = self.axi
        address, value, strobes = Signal(CORE_ADDRESS_BITS), Signal(32), Signal(WORD_BYTES)
        has_address, has_value, acts = Signal(), Signal(), Signal()
        good = Signal()
        m.d.comb += [
            axi.awready.eq(~has_address),
            axi.wready.eq(~has_value),
            acts.eq(has_address & has_value & ~axi.bvalid),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [has_address.eq(1), address.eq(axi.awaddr)]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [has_value.eq(1), value.eq(axi.wdata), strobes.eq(axi.wstrb)]
        with m.If(axi.bvalid & axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        with m.If(acts):
            m.d.sync += [
                has_address.eq(0),
                has_value.eq(0),
                axi.bvalid.eq(1),
                axi.bresp.eq(Mux(good | (strobes == 0), OKAY, SLAVE_ERROR)),
            ]

        write = Signal()
        m.d.comb += write.eq(acts & good)
        known = self._decode_write(m, address, value, write)
        allowed = (address == DOORBELL) | ~self.run
        m.d.comb += [
            good.eq(strobes.all() & ~address[:2].any() & known & allowed),
            counters.clear.eq(write & (address == DOORBELL) & value[0] & ~self.run),
        ]

    def _decode_write(self, m: Module, address: Value, value: Value, write: Value) -> Value:
        """Writes `value` where it belongs; whether there is such a place."""
        known = Signal()
        for name, target in (
            ("run", self.run),
            ("program_words", self.program_words),
            ("parameter_count", self.parameter_count),
        ):
            with m.If(address == ADDRESS[name]):
                m.d.comb += known.eq(1)
                with m.If(write):
                    m.d.sync += target.eq(value)

        in_parameters = address[PARAMETER_BITS + 2 :] == ADDRESS["parameters"] >> PARAMETER_BITS + 2
        assert not ADDRESS["parameters"] % (PARAMETERS * WORD_BYTES)
        m.d.comb += [
            self.parameter_write.eq(write & in_parameters),
            self.parameter_address.eq(address[2:]),
            self.parameter_data.eq(value),
        ]
        with m.If(in_parameters):
            m.d.comb += known.eq(1)

        first = ADDRESS[f"window_{WINDOW_WORDS[0]}"]
        low = ADDRESS_BITS - 32
        for i in range(self.chip.windows):
            at = first + i * WORD_BYTES * len(WINDOW_WORDS)
            words = [
                Signal(low if j & 1 else 32, name=f"window{i}_{part}")
                for j, part in enumerate(WINDOW_WORDS)
            ]
            with m.If(address[4:] == at >> 4):
                m.d.comb += known.eq(1)
                for j, word in enumerate(words):
                    with m.If(write & (address[2:4] == j)):
                        m.d.sync += word.eq(value)
            m.d.comb += [
                self.windows[i].base.eq(Cat(*words[:2])),
                self.windows[i].limit.eq(Cat(*words[2:])),
            ]
        return known

    def _read(self, m: Module, counters: Counters) -> None:
        axi = self.axi
        address = Signal(CORE_ADDRESS_BITS)
        asked = Signal()
        high = Signal(COUNTER_BITS - 32)  # of the counter whose low word was read last
        first = ADDRESS[next(iter(COUNTERS))]
        place = (address - first)[: CORE_ADDRESS_BITS - 1]
        is_counter = (address >= first) & (address < first + 2 * WORD_BYTES * len(COUNTERS))
        values = {
            "identity": IDENTITY_VALUE,
            "run": self.run,
            "status": Cat(self.run, self.run & self.done, self.record.valid),
            "fault_cause": Mux(self.record.valid, self.record.cause, 0),
            "fault_engine": self.record.engine,
            "fault_pc": self.record.pc[:32],
            "fault_pc_high": self.record.pc[32:],
            "program_words": self.program_words,
            "parameter_count": self.parameter_count,
        }
        value, known = Signal(32), Signal()
        with m.Switch(address):
            for name, shown in values.items():
                with m.Case(ADDRESS[name]):
                    m.d.comb += [value.eq(shown), known.eq(1)]
        with m.If(is_counter & ~address[:2].any()):
            m.d.comb += [value.eq(Mux(address[2], high, counters.value[:32])), known.eq(1)]
        m.d.comb += [
            counters.index.eq(place[3:]),
            axi.arready.eq(~asked & ~axi.rvalid),
        ]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [asked.eq(1), address.eq(axi.araddr)]
        with m.If(axi.rvalid & axi.rready):
            m.d.sync += axi.rvalid.eq(0)
        with m.If(asked):
            m.d.sync += [
                asked.eq(0),
                axi.rvalid.eq(1),
                axi.rdata.eq(value),
                axi.rresp.eq(Mux(known, OKAY, SLAVE_ERROR)),
            ]
            with m.If(is_counter & ~address[2]):
                m.d.sync += high.eq(counters.value[32:])
