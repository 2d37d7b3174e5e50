"""Performance counters of a core: what a run took, and where each engine's time went.

Every cycle of an engine is in one of its counters, so they add up to `cycles`. The causes are those
of `sim.stalls`, as far as a core sees them by itself: waiting for a token is charged to the engine
that posted the one which came last, whatever that engine was doing meanwhile.
"""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import GATHER_PAGES, LOAD, STORE
from mellivora.isa.latency import DMA_ISSUE_CYCLES
from mellivora.rtl.banked_memory import EVENT_BITS
from mellivora.rtl.front import EVENTS, NAMES, WORKERS
from mellivora.rtl.pipeline import wire

COUNTER_BITS = 48
WAIT_BITS = 32
"""Of one wait; a longer one counts as its low bits."""
TRANSFER_NAMES = NAMES[: STORE - LOAD + 1]


def producers(name: str) -> list[str]:
    """Whose tokens a free engine may wait for: its own only if it is free before it has posted."""
    return [other for other in NAMES if other != name or name in TRANSFER_NAMES]


def _docs() -> dict[str, str]:
    docs = {
        "cycles": "from the first instruction until the core is done",
        "control_waits": "CONTROL waits for a place in a queue",
    }
    for name in NAMES:
        working = "issues a transfer or syncs" if name in TRANSFER_NAMES else "works"
        docs[f"{name}_busy"] = f"{name.upper()} {working}"
        docs[f"{name}_ended"] = f"operations of {name.upper()} that ended"
        docs[f"{name}_empty"] = "free, and its queue is empty"
        for other in producers(name):
            docs[f"{name}_waits_{other}"] = f"free, and waits for a token of {other.upper()}"
    for name in TRANSFER_NAMES:
        docs[f"{name}_full"] = (
            "free, and too many transfers are in flight, or BARRIER or LOADX waits for them"
        )
    return docs | {
        "store_together": "STORE is in EXCH or BARRIER, waiting or under way",
        "dram_reads": "bursts read",
        "dram_writes": "bursts written",
        "ecc_corrected": "bytes read from the scratchpad with one wrong bit",
        "ecc_uncorrectable": "bytes read from it with two: results are wrong",
    }


COUNTERS = _docs()
"""What each counter counts (cycles, where nothing else is said), in the order of their index."""


class Counters(wiring.Component):
    """clear: all to zero. They stand still while the core is not running.

    dram_read, dram_write: bursts granted to the core, `ways` at most. ecc_*: bytes found in this
    cycle. index, value: reading one of COUNTERS.
    """

    has_reset = True

    def __init__(self, ways: int = 1) -> None:
        self.module_name = f"counters_{ways}"
        super().__init__(
            {
                "clear": In(1),
                "events": In(EVENTS),
                "dram_read": In(range(ways + 1)),
                "dram_write": In(range(ways + 1)),
                "ecc_corrected": In(EVENT_BITS),
                "ecc_uncorrectable": In(EVENT_BITS),
                "index": In(range(len(COUNTERS))),
                "value": Out(COUNTER_BITS),
            }
        )
        self.registers = {name: Signal(COUNTER_BITS, name=name) for name in COUNTERS}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        steps: dict[str, Value] = {
            "cycles": Const(1),
            "control_waits": self.events.stall,
            "dram_reads": self.dram_read,
            "dram_writes": self.dram_write,
            "ecc_corrected": self.ecc_corrected,
            "ecc_uncorrectable": self.ecc_uncorrectable,
        }
        for e in range(WORKERS):
            steps |= self._engine(m, e)
        for index, (name, counter) in enumerate(self.registers.items()):
            with m.If(self.clear):
                m.d.sync += counter.eq(0)
            with m.Elif(self.events.running):
                m.d.sync += counter.eq(counter + steps[name])
            with m.If(self.index == index):
                m.d.comb += self.value.eq(counter)
        return m

    def _engine(self, m: Module, e: int) -> dict[str, Value]:
        """What one engine adds to its counters in this cycle."""
        name, events = NAMES[e], self.events
        start, busy = events.start[e], Signal(name=f"{name}_is_busy")
        steps: dict[str, Value] = {}
        held: Value = busy
        if name in TRANSFER_NAMES:
            longest = DMA_ISSUE_CYCLES + GATHER_PAGES
            issue = Signal(range(longest), name=f"{name}_issue")  # cycles left of it
            pages = events.pages if LOAD + e == LOAD else 0
            joins = start & events.together if LOAD + e == STORE else Const(0)
            m.d.comb += busy.eq((start & ~joins) | (issue != 0))
            with m.If(start & events.moves[e]):
                m.d.sync += issue.eq(DMA_ISSUE_CYCLES - 1 + pages)
            with m.Elif(issue != 0):
                m.d.sync += issue.eq(issue - 1)
            if LOAD + e == STORE:
                joined = Signal()
                together = wire(m, joins | joined, "together")
                m.d.sync += joined.eq(together & (events.ended[e] == 0) & events.running)
                steps[f"{name}_together"] = together
                held = busy | together
        else:
            m.d.comb += busy.eq(start | events.holds[e])

        head = wire(m, ~held & events.valid[e], f"{name}_head")
        waits = wire(m, head & events.lacks[e], f"{name}_waits")
        waited = Signal(WAIT_BITS, name=f"{name}_waited")
        producer = Signal(WORKERS, name=f"{name}_producer")
        with m.If(waits & events.running):
            m.d.sync += waited.eq(waited + 1)
            with m.If(events.posters[e].any()):
                m.d.sync += producer.eq(events.posters[e])
        with m.Else():
            m.d.sync += waited.eq(0)
        arrived = Mux(waits, 0, waited)
        for other in producers(name):
            steps[f"{name}_waits_{other}"] = Mux(producer[NAMES.index(other)], arrived, 0)
        steps |= {
            f"{name}_busy": busy,
            f"{name}_ended": events.ended[e],
            f"{name}_empty": ~held & ~events.valid[e],
            f"{name}_full": head & ~events.lacks[e],
        }
        return steps
