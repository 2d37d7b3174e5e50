"""No read is lost or doubled: proofs about the memory port, each with seeded faults."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Mux, Signal
from amaranth.lib import data
from tests.rtl.port_proofs import (
    ONE,
    TWO,
    UNEVEN,
    WIDE,
    PortProof,
    any_master_finds,
    faulty,
    sum_of,
)
from tests.rtl.proof_parts import FifoInside, Line, at_most_one, first_two

from mellivora.rtl.dma_walker import burst_bits
from mellivora.rtl.proofs import part, prove, reached


class Reads(PortProof):
    """A beat of R goes to the cores, one or all, that were granted what it answers."""

    queue = 0

    def _specify(self, m, axi):
        loads = self.port.loads
        takers = self.readers
        granted = [one.any() for one in takers]
        joint = Cat(load.count.any() & load.multicast for load in loads).all()
        follow = Signal()
        requests = self._lines(m, "requests", "ar", granted, follow)
        answers = self._lines(m, "answers", "r", granted, follow)
        came = self.inner["r_answered"]
        rows = Line(m, "rows", self.most, joins=Cat(granted).any(), leaves=came, follow=follow)
        mine = takers[self.mine]
        beats = [
            Line(
                m,
                f"beats_{core}",
                self.most,
                joins=load.grant.any(),
                leaves=load.beat,
                follow=follow & mine[core],
            )
            for core, load in enumerate(loads)
        ]
        burst, cores = Signal.like(loads[0].bursts[0]), Signal.like(mine)
        round_, mates = Signal.like(self.rounds[0]), Signal(len(self.slots))
        here, there = requests[self.mine], answers[self.mine]
        m.d.comb += follow.eq(self.follow & mine.any() & ~here.due & ~rows.due)
        with m.If(follow):
            m.d.sync += [cores.eq(mine), round_.eq(self.rounds[self.mine]), mates.eq(Cat(granted))]
        for core, load in enumerate(loads):
            for k, fragment in enumerate(load.bursts):
                with m.If(follow & mine[core] & self.rounds[self.mine][k]):
                    m.d.sync += burst.eq(fragment)
                m.d.comb += [
                    Assume(~joint | (fragment == loads[0].bursts[k])),
                    Assert(
                        ~(there.leaving & cores[core] & round_[k]) | (load.data[k] == axi.rdata)
                    ),
                ]
            m.d.comb += [
                Assert(~load.grant.any() | ~load.multicast | joint),
                Assert(~load.beat | beats[core].count.any()),
                Assert(~cores[core] | (there.leaving == beats[core].leaving)),
            ]
        self._shared_out(m, takers, loads)
        for s in self.slots:
            m.d.comb += [
                # An answer is one to a request that was accepted in an earlier cycle.
                Assume(~self.port.axi[s].rvalid | (answers[s].count > requests[s].count)),
                Assert(Mux(joint, takers[s].all() | ~granted[s], at_most_one(takers[s]))),
                Assert(~granted[s] | ~self.writers[s].any()),
            ]
        m.d.comb += [
            Assert(axi.arvalid == here.count.any()),
            Assert(there.count.any() | ~axi.rready),
            Cover((here.before == 1) & here.due & (there.before == 3)),
        ]
        with m.If(here.first):
            m.d.comb += Assert(axi.araddr == burst << burst_bits(self.chip))
        with m.If(there.leaving):
            m.d.comb += Assert(~here.due)
        self._answered_together(m, rows, mates, "r")
        self._keeps(m, "ar", axi.araddr)
        self._constant(m, "ar")
        if self.inside:
            self._invariants(m, requests, answers, rows, beats)
            self._contents(m, here, there, rows, beats, burst, cores, round_, mates)

    def _invariants(self, m, requests, answers, rows, beats):
        m.d.comb += self.routes.holds(rows.count)
        layout = data.StructLayout({"takers": self.chip.cores, "round": self.chip.core_port_bursts})
        layout = data.ArrayLayout(layout, len(self.slots))
        self.words = [data.View(layout, word) for word in self.routes.words]
        for s in self.slots:
            asked = FifoInside(part(self.fragment, f"master_{s}", "read_requests"), 2)
            used = [word[s].takers.any() for word in self.words]
            m.d.comb += [
                *asked.holds(requests[s].count),
                Assert(requests[s].count <= answers[s].count),
                Assert(answers[s].count == sum(used)),
            ]
            if s == self.mine:
                self.asked, self.used = asked, used
        for i, word in enumerate(self.words):
            m.d.comb += Assert((i >= rows.count) | Cat(one.takers for one in word).any())
        self.wanted = [
            [Cat(one.takers[core] for one in word).any() for word in self.words]
            for core in range(self.chip.cores)
        ]
        for line, wanted in zip(beats, self.wanted, strict=True):
            m.d.comb += Assert(line.count == sum(wanted))

    def _contents(self, m, here, there, rows, beats, burst, cores, round_, mates):
        word = data.View(self.words[0].shape(), self.routes.word(rows.before))
        with m.If(here.due):
            m.d.comb += [
                Assert(here.before < here.count),
                Assert(here.behind == there.behind),
                Assert(rows.due),
                Assert(self.asked.word(here.before) == burst),
            ]
        m.d.comb += Assert(there.due == rows.due)
        for core, line in enumerate(beats):
            m.d.comb += Assert(line.due == (rows.due & cores[core]))
            with m.If(line.due):
                m.d.comb += Assert(line.before == sum_of(self.wanted[core], rows.before))
        with m.If(rows.due):
            m.d.comb += [
                Assert(rows.before < rows.count),
                Assert(cores.any()),
                Assert(word[self.mine].takers == cores),
                Assert(word[self.mine].round == round_),
                Assert(Cat(one.takers.any() for one in word) == mates),
                Assert(there.before == sum_of(self.used, rows.before)),
                Assert(here.due | (there.behind > self.asked.level)),
                *(
                    Assert(~(word[s].takers & cores).any() | ~(word[s].round & round_).any())
                    for s in self.slots
                    if s != self.mine
                ),
            ]


FAULTS = {
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
    "a LOADM goes alone": ("may_read & ~load.multicast", "may_read"),
    "an answer not taken": ("routes.r_rdy & used[s]", "routes.r_rdy & axi.arready"),
}
WIDE_FAULTS = {
    "answers not awaited": ("routes.r_rdy & used[s] & others", "routes.r_rdy & used[s]"),
    "all masters asked for the first": ("round.eq(rounds[s])", "round.eq(rounds[0])"),
    "the first answer is all": (
        "wire(m, routes.r_rdy & here.all()",
        "wire(m, routes.r_rdy & Cat(valid).any()",
    ),
    "answers in the order of masters": (
        "Cat(row.round for row in due)",
        "Cat(row.round for row in reversed(list(due)))",
    ),
    "a master too many": ("routes.r_rdy & used[s] & others", "routes.r_rdy & others"),
}


def test_reads():
    assert prove(Reads(faulty(), WIDE), depth=1, solver="bitwuzla") is None
    assert reached(Reads(faulty(), TWO), depth=10)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("chip", "master"),
    [(ONE, 0), (TWO, 0), (WIDE, 1), (UNEVEN, 0), (UNEVEN, 1), (UNEVEN, 2)],
    ids=["one", "two", "wide-1", "uneven-0", "uneven-1", "uneven-2"],
)
def test_reads_of(chip, master):
    assert prove(Reads(faulty(), chip, master), depth=1, solver="bitwuzla") is None


@pytest.mark.parametrize("fault", first_two(FAULTS))
def test_reads_with(fault):
    mutant = faulty(FAULTS[fault])
    assert "Assert failed" in prove(Reads(mutant, TWO, inside=False), depth=6)


@pytest.mark.parametrize("fault", first_two(WIDE_FAULTS))
def test_reads_of_two_masters_with(fault):
    assert any_master_finds(Reads, faulty(WIDE_FAULTS[fault]), depth=6)
