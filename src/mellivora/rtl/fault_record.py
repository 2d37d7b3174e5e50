"""The first fault of a core: of those in one cycle the one of the oldest operation."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import CONTROL, ENGINES, LOAD
from mellivora.rtl.control import CONTROL_FAULT
from mellivora.rtl.in_flight import PLACE
from mellivora.rtl.interfaces import CAUSE_BITS, FAULT
from mellivora.rtl.loop_stack import LOOP_PC_BITS
from mellivora.rtl.pipeline import wire

WORKERS = len(ENGINES) - LOAD
WATCHDOG_FAULT = 7
RECORD = data.StructLayout(
    {"valid": 1, "cause": CAUSE_BITS, "engine": range(len(ENGINES)), "pc": LOOP_PC_BITS}
)
"""As `isa.state.FAULTS` numbers causes and `isa.encoding.ENGINES` engines."""


class FaultRecord(wiring.Component):
    """Holds what stopped the core, from the cycle after on.

    engines, overflow: each engine's own fault, and of its ending operations the oldest that posted
    too much, which is older than the engine's own. control: recorded once all that was dispatched
    has ended (`drained`). watchdog: records the oldest operation that has not ended; pending,
    oldest: whether an engine has such a one, and where it stands.
    """

    clear: In(1)
    engines: In(data.ArrayLayout(FAULT, WORKERS))
    overflow: In(data.ArrayLayout(FAULT, WORKERS))
    control: In(CONTROL_FAULT)
    drained: In(1)
    watchdog: In(1)
    pending: In(WORKERS)
    oldest: In(data.ArrayLayout(PLACE, WORKERS))
    record: Out(RECORD)
    module_name = "fault_record"
    has_reset = True

    def elaborate(self, platform: object) -> Module:
        m = Module()
        faulty = wire(
            m,
            sum(self.engines[e].valid | self.overflow[e].valid for e in range(WORKERS)) != 0,
            "faulty",
        )
        entries = []
        for e in range(WORKERS):
            late, own = self.overflow[e], self.engines[e]
            entry = Signal(FAULT, name=f"entry{e}")
            m.d.comb += entry.eq(Mux(late.valid, late.as_value(), own.as_value()))
            with m.If(~faulty):
                m.d.comb += [
                    entry.valid.eq(self.pending[e]),
                    entry.cause.eq(WATCHDOG_FAULT),
                    entry.pc.eq(self.oldest[e].pc),
                    entry.sequence.eq(self.oldest[e].sequence),
                ]
            entries.append((entry, LOAD + e))
        while len(entries) > 1:
            pairs = zip(entries[::2], entries[1::2], strict=True)
            entries = [
                _older(m, *pair, f"older_{len(entries)}_{i}") for i, pair in enumerate(pairs)
            ]
        first, engine = entries[0]

        record = self.record
        with m.If(self.clear):
            m.d.sync += record.as_value().eq(0)
        with m.Elif(~record.valid & (faulty | (self.watchdog & first.valid))):
            m.d.sync += [
                record.valid.eq(1),
                record.cause.eq(first.cause),
                record.engine.eq(engine),
                record.pc.eq(first.pc),
            ]
        with m.Elif(~record.valid & self.control.valid & self.drained):
            m.d.sync += [
                record.valid.eq(1),
                record.cause.eq(self.control.cause),
                record.engine.eq(CONTROL),
                record.pc.eq(self.control.pc),
            ]
        return m


def _older(m: Module, a: tuple, b: tuple, name: str) -> tuple:
    second = b[0].valid & (~a[0].valid | (b[0].sequence < a[0].sequence))
    chosen = wire(m, second, name)
    entry = Signal(FAULT, name=f"{name}_entry")
    m.d.comb += entry.eq(Mux(chosen, b[0].as_value(), a[0].as_value()))
    return entry, wire(m, Mux(chosen, b[1], a[1]), f"{name}_engine")
