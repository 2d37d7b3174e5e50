"""What specifications of the memory port share: a port with any queues, one master followed."""

import inspect
from types import SimpleNamespace

from amaranth.hdl import Array, Assert, Assume, Cat, Fragment, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from tests.rtl.dma_streams import chip_of
from tests.rtl.proof_parts import Line, at_most_one, inputs_of, join_inputs, mutated

from mellivora.rtl import memory_master, memory_port
from mellivora.rtl.proofs import prove, registers
from mellivora.spec.dram_timing import LEAST_LATENCY_CYCLES

FAST = {"dram_latency_cycles": LEAST_LATENCY_CYCLES, "dram_gbps": 16}
"""A burst a cycle; bursts of 16 bytes, the smallest."""
ONE = chip_of(**FAST)
TWO = chip_of(cores=2, **FAST)
WIDE = chip_of(cores=2, **FAST | {"dram_gbps": 32, "core_port_bytes_per_cycle": 32})
"""Two masters; either core takes a burst or two a cycle."""
UNEVEN = chip_of(cores=2, **FAST | {"dram_gbps": 40, "core_port_bytes_per_cycle": 32})
"""Three masters, of which the last is used every other cycle at most."""


class Queue(wiring.Component):
    """Any queue of `depth` places: it may show a word, and take one, later than it could.

    Amaranth's is one of these (test_proofs_port_queue.py). Words stand in their order, which
    spares a proof about counts the pointers. words: the first leaves next; 0 is in empty places.
    shows, takes: free, whether it does now. w_en and r_en without w_rdy and r_rdy do nothing.
    """

    def __init__(self, *, width, depth):
        self.words = [Signal(width, name=f"word_{i}") for i in range(depth)]
        self.level, self.shown = Signal(range(depth + 1)), Signal()
        self.shows, self.takes = Signal(), Signal()
        word = {"w_data": In(width), "r_data": Out(width)}
        ends = {"w_en": In(1), "w_rdy": Out(1), "r_en": In(1), "r_rdy": Out(1)}
        super().__init__(word | ends)

    def elaborate(self, platform):
        m = Module()
        writes, reads = self.w_en & self.w_rdy, self.r_en & self.r_rdy
        m.d.comb += [
            self.w_rdy.eq(self.takes & (self.level != len(self.words))),
            self.r_rdy.eq(self.shown | (self.shows & self.level.any())),
            self.r_data.eq(self.words[0]),
        ]
        m.d.sync += [
            self.level.eq(self.level + writes - reads),
            self.shown.eq(self.r_rdy & ~reads),
        ]
        for i, word in enumerate(self.words):
            behind = self.words[i + 1] if i + 1 < len(self.words) else 0
            joins = writes & (self.level == Mux(reads, i + 1, i))
            m.d.sync += word.eq(Mux(joins, self.w_data, Mux(reads, behind, word)))
        return m

    def holds(self, count):
        """Invariant: it agrees with the number of words in it."""
        return [
            Assert(self.level == count),
            Assert(self.level <= len(self.words)),
            Assert(self.level.any() | ~self.shown),
            *(Assert(~word.any() | (i < self.level)) for i, word in enumerate(self.words)),
        ]

    def word(self, before):
        """The word that has `before` others before it."""
        return Array(self.words)[before]


class PortProof(wiring.Component):
    """One read or write, any, of one master is followed from its grant to its answer.

    If whichever it is goes to the bus after those before it, unchanged, and its answer to those
    who asked, all do: in order, none twice and none never. queue: 0 for that of reads, 1.
    """

    queue: int

    def __init__(self, module, chip, master=0, inside=True):
        """inside: with the invariants that a step of the proof needs."""
        self.port, self.chip, self.mine, self.inside = module.MemoryPort(chip), chip, master, inside
        self.write_buffer, self.most = module.WRITE_BUFFER, module.port_rows_in_flight(chip)
        self.module_name = f"{type(self).__name__.lower()}_{chip.cores}_{chip.dram_slots}"
        self.module = module
        super().__init__({**inputs_of(self.port), "follow": In(1), "shows": In(2), "takes": In(2)})

    def elaborate(self, platform):
        m = Module()
        self.module.made.clear()
        m.submodules.port = self.fragment = Fragment.get(self.port, platform)
        self.inner = registers(self.fragment)
        join_inputs(m, self, self.port)
        *masters, reads, writes = self.module.made
        for i, queue in enumerate((reads, writes)):
            m.d.comb += [queue.shows.eq(self.shows[i]), queue.takes.eq(self.takes[i])]
        self.routes = (reads, writes)[self.queue]
        self.slots = range(len(masters))
        self.rounds = [one.round for one in masters]
        self.readers = [one.readers for one in masters]
        self.writers = [one.writers for one in masters]
        self._specify(m, self.port.axi[self.mine])
        return m

    def _lines(self, m, name, letters, joins, follow):
        """One for each master, left as its channel takes; the followed stands in this one's."""
        return [
            Line(
                m,
                f"{name}_{s}",
                self.most,
                joins=joins[s],
                leaves=getattr(axi, f"{letters}valid") & getattr(axi, f"{letters}ready"),
                follow=follow if s == self.mine else 0,
            )
            for s, axi in enumerate(self.port.axi)
        ]

    def _keeps(self, m, letters, *payload):
        """AXI: a `valid` that waits for `ready` stays, and so does what it says."""
        axi = self.port.axi[self.mine]
        valid, ready = (getattr(axi, letters + name) for name in ("valid", "ready"))
        waits, said = Signal(name=f"{letters}_waits"), Signal.like(Cat(*payload), name=letters)
        m.d.sync += [waits.eq(valid & ~ready), said.eq(Cat(*payload))]
        m.d.comb += Assert(~waits | (valid & (said == Cat(*payload))))

    def _constant(self, m, letters):
        axi = self.port.axi[self.mine]
        for name, value in (("len", 0), ("size", 4), ("burst", 1)):
            m.d.comb += Assert(getattr(axi, letters + name) == value)

    def _shared_out(self, m, takers, links):
        """Each fragment that is granted goes to one master, and no other goes to any."""
        for core, link in enumerate(links):
            most = self.chip.core_port_bursts
            m.d.comb += [Assume(link.count <= most), Assert(link.grant <= link.count)]
            for k in range(most):
                places = [takers[s][core] & self.rounds[s][k] for s in self.slots]
                m.d.comb += Assert(sum(places) == (link.grant > k))
        for s in self.slots:
            round_ = self.rounds[s]
            m.d.comb += Assert(~takers[s].any() | (round_.any() & at_most_one(round_)))

    def _answered_together(self, m, rows, mates, letter):
        """What was granted in one cycle waits for the last of its answers, and for nothing else."""
        came = Cat(getattr(axi, f"{letter}valid") for axi in self.port.axi)
        taken = self.inner[f"{letter}_answered"]
        with m.If(rows.first):
            m.d.comb += Assert(taken == (self.routes.r_rdy & (~mates | came).all()))


def sum_of(bits, most):
    """Of the first `most`."""
    return sum(Mux(i < most, bit, 0) for i, bit in enumerate(bits))


def any_master_finds(kind, mutant, depth):
    """Whether following one master or the other of WIDE breaks an assertion from power-on."""
    ports = (kind(mutant, WIDE, s, inside=False) for s in range(WIDE.dram_slots))
    found = [prove(port, depth=depth, solver="bitwuzla") for port in ports]
    return any(report and "Assert failed" in report for report in found)


def faulty(*changes):
    """The port, and its master, with pieces of their texts replaced; not shared, with any queue."""
    whole = ("share(component) if self.slots > 1 else component", "component")
    places = [change for change in changes if change[0] in inspect.getsource(memory_master)]
    master = mutated(memory_master, *places)
    rest = [change for change in changes if change not in places]
    made = []

    def noted(kind):
        def make(*words, **names):
            made.append(kind(*words, **names))
            return made[-1]

        return make

    names = SimpleNamespace(SyncFIFOBuffered=noted(Queue))
    port = mutated(memory_port, whole, *rest, MemoryMaster=noted(master.MemoryMaster), fifo=names)
    port.made, port.WRITE_BUFFER = made, master.WRITE_BUFFER
    return port
