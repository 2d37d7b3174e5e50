"""No AXI beat is lost or doubled: proofs about the memory port, each with seeded faults."""

import inspect

import pytest
from amaranth.hdl import Assert, Assume, Cat, Const, Cover, Fragment, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from tests.rtl.dma_streams import chip_of
from tests.rtl.proof_parts import FifoInside, Line, first_two, inputs_of, join_inputs, mutated

from mellivora.isa.latency import port_rows_in_flight
from mellivora.rtl import memory_master, memory_port
from mellivora.rtl.dma_walker import burst_bits
from mellivora.rtl.memory_link import STORE_DATA_CYCLES
from mellivora.rtl.proofs import part, prove, reached, registers
from mellivora.spec.dram_timing import LEAST_LATENCY_CYCLES

FAST = {"dram_latency_cycles": LEAST_LATENCY_CYCLES, "dram_gbps": 16}
"""A burst a cycle; bursts of 16 bytes, the smallest."""
ONE = chip_of(**FAST)
TWO = chip_of(cores=2, **FAST)


class PortProof(wiring.Component):
    """One read or write, any, is followed from its grant to its answer.

    If whichever it is goes to the bus after those before it, unchanged, and its answer to those
    who asked, all do: in order, none twice and none never.
    """

    def __init__(self, module, chip, inside=True):
        """inside: with the invariants that a step of the proof needs."""
        self.port, self.chip, self.inside = module.MemoryPort(chip), chip, inside
        self.write_buffer, self.most = module.WRITE_BUFFER, port_rows_in_flight(chip)
        self.module_name = f"{type(self).__name__.lower()}_{chip.cores}"
        super().__init__({**inputs_of(self.port), "follow": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.port = self.fragment = Fragment.get(self.port, platform)
        join_inputs(m, self, self.port)
        self._specify(m, self.port.axi[0])
        return m

    def _keeps(self, m, letters, *payload):
        """AXI: a `valid` that waits for `ready` stays, and so does what it says."""
        valid, ready = (getattr(self.port.axi[0], letters + name) for name in ("valid", "ready"))
        waits, said = Signal(name=f"{letters}_waits"), Signal.like(Cat(*payload), name=letters)
        m.d.sync += [waits.eq(valid & ~ready), said.eq(Cat(*payload))]
        m.d.comb += Assert(~waits | (valid & (said == Cat(*payload))))

    def _constant(self, m, letters):
        axi = self.port.axi[0]
        for name, value in (("len", 0), ("size", 4), ("burst", 1)):
            m.d.comb += Assert(getattr(axi, letters + name) == value)

    def _answered(self, m, following, answers, wanted, taken):
        """answers: bits to the cores in this cycle; wanted: those that are due; taken: from AXI."""
        m.d.comb += Assert(taken | ~answers.any())
        with m.If(taken):
            m.d.comb += Assert(following.count != 0)
        with m.If(following.leaving):
            m.d.comb += Assert(answers == wanted)


class Reads(PortProof):
    """A beat of R goes to the cores, one or all, that were granted what it answers."""

    def _specify(self, m, axi):
        loads, stores = self.port.loads, self.port.stores
        takers = Cat(load.grant for load in loads)
        joint = Cat(load.count & load.multicast for load in loads).all()
        granted, asked = takers.any(), axi.arvalid & axi.arready
        came = axi.rvalid & axi.rready
        follow, most = Signal(), self.most
        requests = Line(m, "requests", most, joins=granted, leaves=asked, follow=follow)
        answers = Line(m, "answers", most, joins=granted, leaves=came, follow=follow)
        burst, cores = Signal.like(loads[0].bursts[0]), Signal.like(takers)
        place = burst_bits(self.chip)
        m.d.comb += follow.eq(self.follow & granted & ~requests.due & ~answers.due)
        for load in loads:
            with m.If(follow & load.grant):
                m.d.sync += [burst.eq(load.bursts[0]), cores.eq(takers)]
            m.d.comb += [
                Assume(~joint | (load.bursts[0] == loads[0].bursts[0])),
                Assert(load.count | ~load.grant),
                Assert(~load.grant | ~load.multicast | takers.all()),
                Assert(~load.grant | ~Cat(store.grant for store in stores).any()),
                Assert(~(answers.leaving & load.beat) | (load.data[0] == axi.rdata)),
            ]
        m.d.comb += [
            # An answer is one to a request that was accepted in an earlier cycle.
            Assume(~axi.rvalid | (answers.count > requests.count)),
            Assert(joint | ((takers & (takers - 1)) == 0)),
            Assert(axi.arvalid == (requests.count != 0)),
            Assert(axi.rready | (answers.count == requests.count)),
            Cover((requests.before == 1) & requests.due & (answers.before == 3)),
        ]
        with m.If(requests.first):
            m.d.comb += Assert(axi.araddr == burst << place)
        with m.If(answers.leaving):
            m.d.comb += Assert(~requests.due)
        self._answered(m, answers, Cat(load.beat for load in loads), cores, came)
        self._keeps(m, "ar", axi.araddr)
        self._constant(m, "ar")
        if self.inside:
            self._invariants(m, requests, answers, burst, cores)

    def _invariants(self, m, requests, answers, burst, cores):
        asked = FifoInside(part(self.fragment, "master_0", "read_requests"), 2)
        routes = FifoInside(part(self.fragment, "read_routes"), self.most, buffered=True)
        m.d.comb += [
            *asked.holds(requests.count),
            *routes.holds(answers.count),
            Assert(routes.shown | (answers.count == requests.count)),
            Assert(routes.shown | (answers.count <= 1)),
            Assert(requests.count <= answers.count),
        ]
        with m.If(requests.due):
            m.d.comb += [
                Assert(requests.before < requests.count),
                Assert(requests.behind == answers.behind),
                Assert(answers.due),
                Assert(asked.word(requests.before) == burst),
            ]
        with m.If(answers.due):
            m.d.comb += [
                Assert(answers.before < answers.count),
                Assert(routes.word(answers.before) == Cat(cores, Const(1, 1))),
                Assert(requests.due | (answers.behind > requests.count)),
            ]


class Writes(PortProof):
    """AW and W have what STORE gave, data STORE_DATA_CYCLES after the grant; B tells whose."""

    def _specify(self, m, axi):
        stores, most = self.port.stores, self.most
        grants = Cat(store.grant for store in stores)
        granted = grants.any()
        asked, sent = axi.awvalid & axi.awready, axi.wvalid & axi.wready
        came = axi.bvalid & axi.bready
        follow, accepted = Signal(), Signal()
        addresses = Line(m, "addresses", most, joins=granted, leaves=asked, follow=follow)
        beats = Line(m, "beats", most, joins=granted, leaves=sent, follow=follow)
        answers = Line(m, "answers", most, joins=granted, leaves=came, follow=follow)
        m.d.comb += follow.eq(self.follow & granted & ~addresses.due & ~beats.due & ~answers.due)
        # Bit k of `awaited`: a write granted k + 1 cycles ago has no data yet; of `age`: this one.
        awaited, age = Signal(STORE_DATA_CYCLES), Signal(STORE_DATA_CYCLES)
        on_way = sum(awaited)
        m.d.sync += [awaited.eq(Cat(granted, awaited)), age.eq(Cat(follow, age))]
        core, last = Signal.like(grants), Signal()
        burst = Signal.like(stores[0].bursts[0])
        beat = Signal(9 * self.chip.dram_burst_bytes)
        for i, store in enumerate(stores):
            with m.If(follow & store.grant):
                m.d.sync += [core.eq(1 << i), last.eq(store.last), burst.eq(store.bursts[0])]
            with m.If(age[-1] & core[i]):
                m.d.sync += beat.eq(Cat(store.data[0], store.masks[0]))
            m.d.comb += Assert(store.count | ~store.grant)
        m.d.comb += [
            # An answer is one to a write whose address and data were accepted in earlier cycles.
            accepted.eq((answers.count > addresses.count) & (answers.count > beats.count)),
            Assume(~axi.bvalid | accepted),
            Assert((grants & (grants - 1)) == 0),
            Assert(axi.awvalid == (addresses.count != on_way)),
            Assert(axi.wvalid == (beats.count != on_way)),
            Assert(
                axi.bready | (answers.count == addresses.count) | (answers.count == beats.count)
            ),
            Assert(axi.wlast),
            Cover(addresses.due & (addresses.before == 1) & (beats.before == 3) & ~age.any()),
        ]
        with m.If(addresses.first & axi.awvalid):
            m.d.comb += [Assert(axi.awaddr == burst << burst_bits(self.chip)), Assert(~age.any())]
        with m.If(beats.first & axi.wvalid):
            m.d.comb += [Assert(Cat(axi.wdata, axi.wstrb) == beat), Assert(~age.any())]
        with m.If(answers.leaving):
            m.d.comb += Assert(~addresses.due & ~beats.due)
        self._answered(m, answers, Cat(store.done for store in stores), core, came)
        lasts = Cat(store.done_last for store in stores)
        self._answered(m, answers, lasts, Mux(last, core, 0), came)
        self._keeps(m, "aw", axi.awaddr)
        self._keeps(m, "w", axi.wdata, axi.wstrb)
        self._constant(m, "aw")
        if self.inside:
            self._invariants(m, (addresses, beats), answers, awaited, age)
            self._contents(m, addresses, beats, answers, age, core, last, burst, beat)

    def _invariants(self, m, lines, answers, awaited, age):
        state = registers(part(self.fragment, "master_0"))
        self.late = [state[f"writers_{k + 1}"] for k in range(STORE_DATA_CYCLES)]
        self.queues = [
            FifoInside(part(self.fragment, "master_0", name), self.write_buffer)
            for name in ("write_addresses", "write_beats")
        ]
        self.routes = FifoInside(part(self.fragment, "write_routes"), self.most, buffered=True)
        m.d.comb += self.routes.holds(answers.count)
        for channel, line, queue in zip(("aw", "w"), lines, self.queues, strict=True):
            m.d.comb += [
                *queue.holds(line.count - sum(awaited)),
                Assert(state[f"{channel}_granted"] == line.count),
                Assert(line.count <= self.write_buffer),
                Assert(line.count <= answers.count),
                Assert(self.routes.shown | (line.count == answers.count)),
            ]
            with m.If(line.due):
                m.d.comb += [
                    Assert(line.before < line.count),
                    Assert(line.behind == answers.behind),
                    Assert(answers.due),
                ]
            with m.If(answers.due & ~line.due):
                m.d.comb += Assert((answers.behind > line.count) & ~age.any())
        m.d.comb += [
            Assert(self.routes.shown | (answers.count <= 1)),
            Assert(self.routes.shown | (answers.count == 0) | awaited[0]),
            Assert((age & ~awaited) == 0),
            Assert((age & (age - 1)) == 0),
            Assert(answers.due | ~age.any()),
        ]
        rounds = [state[f"late_round{end}"] for end in ("", "_2", "_3")]
        for takers, round_, there in zip(self.late, rounds, awaited, strict=True):
            m.d.comb += [Assert(takers.any() == there), Assert((takers & (takers - 1)) == 0)]
            m.d.comb += Assert(round_ | ~there)

    def _contents(self, m, addresses, beats, answers, age, core, last, burst, beat):
        """What is followed stands in the stages until its data come, then in the queues."""
        state = registers(part(self.fragment, "master_0"))
        names = ["write_burst_late", "write_burst_late_2", "write_burst_late_3"]
        for k, (name, takers) in enumerate(zip(names, self.late, strict=True)):
            older = sum(taker.any() for taker in self.late[k + 1 :])
            with m.If(age[k]):
                m.d.comb += [Assert(state[name] == burst), Assert(takers == core)]
                for line, queue in zip((addresses, beats), self.queues, strict=True):
                    m.d.comb += Assert(line.due & (line.before == queue.level + older))
        for line, queue, word in zip((addresses, beats), self.queues, (burst, beat), strict=True):
            with m.If(line.due & ~age.any()):
                m.d.comb += [
                    Assert(line.before < queue.level),
                    Assert(queue.word(line.before) == word),
                ]
        with m.If(answers.due):
            m.d.comb += [
                Assert(answers.before < answers.count),
                Assert(
                    self.routes.word(answers.before) == Cat(Const(1, 1), core, Mux(last, core, 0))
                ),
            ]


def faulty(*changes):
    """The port, and its master, with pieces of their texts replaced."""
    places = [change for change in changes if change[0] in inspect.getsource(memory_master)]
    master = mutated(memory_master, *places)
    rest = [change for change in changes if change not in places]
    port = mutated(memory_port, *rest, MemoryMaster=master.MemoryMaster)
    port.WRITE_BUFFER = master.WRITE_BUFFER
    return port


READ_FAULTS = {
    "granted although full": (
        "Cat(routes.w_rdy, *ready).all()),\n            routes.w_en",
        "routes.w_rdy),\n            routes.w_en",
    ),
    "address of the wrong core": (
        "chosen(round_, list(one)) for one in",
        "chosen(round_, list(fragments[0])) for one in",
    ),
    "a request dropped": ("reads.r_en.eq(self.arready)", "reads.r_en.eq(1)"),
    "routes run ahead": ("routes.r_en.eq(here.all())", "routes.r_en.eq(1)"),
    "beats go to all": ("answered & back.mine.any()", "answered"),
    "an answer not taken": ("routes.r_rdy & used[s]", "routes.r_rdy & axi.arready"),
}
SHORT = ("WRITE_BUFFER = 8", "WRITE_BUFFER = 2")
"""So that a full buffer is near power-on, and a proof short."""
WRITE_FAULTS = {
    "takers not delayed": (
        "self._chosen(late, late_round, self.beats)",
        "self._chosen(self.writers, self.round, self.beats)",
    ),
    "address a cycle late": (
        '"write_burst_late", stages=STORE_DATA_CYCLES)',
        '"write_burst_late", stages=STORE_DATA_CYCLES + 1)',
    ),
    "granted although full": ("free[0] & free[1]", "1"),
    "writes on their way not counted": ("granted + self.writers.any()", "granted + queue.w_en"),
    "data dropped": ("beats.r_en.eq(self.wready)", "beats.r_en.eq(1)"),
    "done to the other core": ("answered, due.done[core]", "answered, due.done[~core]"),
    "last of another core": ("& (store.grant > k) for k", "for k"),
}


def test_reads():
    assert prove(Reads(faulty(), TWO), depth=1) is None
    assert reached(Reads(faulty(), TWO), depth=10)


def test_writes():
    assert prove(Writes(faulty(SHORT), ONE), depth=1) is None
    assert reached(Writes(faulty(), ONE), depth=10)


@pytest.mark.nightly
def test_reads_of_one_core():
    assert prove(Reads(faulty(), ONE), depth=1) is None


@pytest.mark.nightly
@pytest.mark.parametrize("chip", [ONE, TWO], ids=["one", "two"])
def test_writes_with_the_whole_buffer(chip):
    assert prove(Writes(faulty(), chip), depth=1) is None


@pytest.mark.parametrize("fault", first_two(READ_FAULTS))
def test_reads_with(fault):
    mutant = faulty(READ_FAULTS[fault])
    assert "Assert failed" in prove(Reads(mutant, TWO, inside=False), depth=6)


@pytest.mark.parametrize("fault", first_two(WRITE_FAULTS))
def test_writes_with(fault):
    mutant = faulty(SHORT, WRITE_FAULTS[fault])
    assert "Assert failed" in prove(Writes(mutant, TWO, inside=False), depth=10)
