"""No write is lost or doubled: proofs about the memory port, each with seeded faults."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Signal
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
from mellivora.rtl.memory_link import STORE_DATA_CYCLES
from mellivora.rtl.proofs import part, prove, reached, registers


class Writes(PortProof):
    """AW and W have what STORE gave, data STORE_DATA_CYCLES after the grant; B tells whose."""

    queue = 1

    def _specify(self, m, axi):
        stores = self.port.stores
        takers = self.writers
        granted = [one.any() for one in takers]
        follow = Signal()
        channels = {"addresses": "aw", "beats": "w", "answers": "b"}
        lines = [self._lines(m, *channel, granted, follow) for channel in channels.items()]
        addresses, beats, answers = (line[self.mine] for line in lines)
        came = self.inner["b_answered"]
        rows = Line(m, "rows", self.most, joins=Cat(granted).any(), leaves=came, follow=follow)
        mine, round_ = takers[self.mine], self.rounds[self.mine]
        m.d.comb += follow.eq(
            self.follow & mine.any() & ~addresses.due & ~beats.due & ~answers.due & ~rows.due
        )
        # Bit k: those granted k + 1 cycles ago, which have no data yet; of `age`: this one.
        awaited = [Signal(STORE_DATA_CYCLES, name=f"awaited_{s}") for s in self.slots]
        age = Signal(STORE_DATA_CYCLES)
        m.d.sync += [one.eq(Cat(new, one)) for one, new in zip(awaited, granted, strict=True)]
        m.d.sync += age.eq(Cat(follow, age))
        core, place, last = Signal.like(mine), Signal.like(round_), Signal()
        burst, mates = Signal.like(stores[0].bursts[0]), Signal(len(self.slots))
        beat = Signal(9 * self.chip.dram_burst_bytes)
        with m.If(follow):
            m.d.sync += [core.eq(mine), place.eq(round_), mates.eq(Cat(granted))]
        dones, lasts = [], []
        ways = range(self.chip.core_port_bursts)
        for i, store in enumerate(stores):
            ends = [store.last[k] & (store.grant > k) for k in ways]
            for k in ways:
                with m.If(follow & mine[i] & round_[k]):
                    m.d.sync += [last.eq(store.last[k]), burst.eq(store.bursts[k])]
                with m.If(age[-1] & core[i] & place[k]):
                    m.d.sync += beat.eq(Cat(store.data[k], store.masks[k]))
            mine_last = Cat(round_ & store.last).any()
            for found, name, joins, leaves, followed, ahead in (
                (dones, "dones", store.grant, store.done, 1, [1 for _ in ways]),
                (lasts, "lasts", sum(ends), store.done_last, mine_last, ends),
            ):
                line = Line(
                    m,
                    f"{name}_{i}",
                    self.most * len(ways),
                    joins=joins,
                    leaves=leaves,
                    follow=follow & mine[i] & followed,
                    index=sum(round_[k] * sum(ahead[:k]) for k in ways),
                )
                found.append(line)
                m.d.comb += Assert(leaves <= line.count)
            m.d.comb += [
                Assert(~core[i] | (answers.leaving == dones[i].leaving)),
                Assert(~(core[i] & last) | (answers.leaving == lasts[i].leaving)),
            ]
        self._shared_out(m, takers, stores)
        for s in self.slots:
            accepted = (lines[2][s].count > lines[0][s].count) & (
                lines[2][s].count > lines[1][s].count
            )
            m.d.comb += [
                # An answer is to a write whose address and data were accepted in earlier cycles.
                Assume(~self.port.axi[s].bvalid | accepted),
                Assert(at_most_one(takers[s])),
            ]
        on_way = sum(awaited[self.mine])
        m.d.comb += [
            Assert(axi.awvalid == (addresses.count != on_way)),
            Assert(axi.wvalid == (beats.count != on_way)),
            Assert(answers.count.any() | ~axi.bready),
            Assert(axi.wlast),
            Cover(addresses.due & (addresses.before == 1) & (beats.before == 3) & ~age.any()),
        ]
        with m.If(addresses.first & axi.awvalid):
            m.d.comb += [Assert(axi.awaddr == burst << burst_bits(self.chip)), Assert(~age.any())]
        with m.If(beats.first & axi.wvalid):
            m.d.comb += [Assert(Cat(axi.wdata, axi.wstrb) == beat), Assert(~age.any())]
        with m.If(answers.leaving):
            m.d.comb += Assert(~addresses.due & ~beats.due)
        self._answered_together(m, rows, mates, "b")
        self._keeps(m, "aw", axi.awaddr)
        self._keeps(m, "w", axi.wdata, axi.wstrb)
        self._constant(m, "aw")
        if self.inside:
            for s in self.slots:
                self._master(m, s, [line[s] for line in lines], awaited[s])
            self._routes(m, lines[2], rows, dones, lasts)
            followed = addresses, beats, answers, awaited[self.mine], age
            self._stages(m, *followed, core, place, burst, beat)
            self._row(m, answers, rows, dones, lasts, core, place, last, mates)

    def _master(self, m, s, lines, awaited):
        state = registers(part(self.fragment, f"master_{s}"))
        queues = [
            FifoInside(part(self.fragment, f"master_{s}", name), self.write_buffer)
            for name in ("write_addresses", "write_beats")
        ]
        *lines, answers = lines
        for channel, line, queue in zip(("aw", "w"), lines, queues, strict=True):
            m.d.comb += [
                *queue.holds(line.count - sum(awaited)),
                Assert(state[f"{channel}_granted"] == line.count),
                Assert(line.count <= self.write_buffer),
                Assert(line.count <= answers.count),
            ]
        late = [state[f"writers_{k + 1}"] for k in range(STORE_DATA_CYCLES)]
        rounds = _stages_of(state, "late_round")
        for takers, round_, there in zip(late, rounds, awaited, strict=True):
            m.d.comb += [
                Assert(takers.any() == there),
                Assert(at_most_one(takers)),
                Assert(at_most_one(round_)),
                Assert(round_.any() | ~there),
            ]
        if s == self.mine:
            self.state, self.queues, self.late, self.late_rounds = state, queues, late, rounds

    def _routes(self, m, answers, rows, dones, lasts):
        m.d.comb += self.routes.holds(rows.count)
        counts = data.ArrayLayout(range(self.chip.core_port_bursts + 1), self.chip.cores)
        self.layout = data.StructLayout({"slots": len(self.slots), "done": counts, "last": counts})
        words = [data.View(self.layout, word) for word in self.routes.words]
        for i, word in enumerate(words):
            m.d.comb += Assert(word.slots.any() == (i < rows.count))
        self.sums = [word.slots[self.mine] for word in words]
        self.done_sums, self.last_sums = [], []
        for s in self.slots:
            m.d.comb += Assert(answers[s].count == sum(word.slots[s] for word in words))
        for name, lines, sums in (("done", dones, self.done_sums), ("last", lasts, self.last_sums)):
            for core, line in enumerate(lines):
                values = [word[name][core] for word in words]
                m.d.comb += Assert(line.count == sum(values))
                m.d.comb += [Assert(value <= self.chip.core_port_bursts) for value in values]
                sums.append(values)

    def _stages(self, m, addresses, beats, answers, awaited, age, core, place, burst, beat):
        """What is followed stands in the stages until its data come, then in the queues."""
        for line in (addresses, beats):
            with m.If(line.due):
                m.d.comb += [
                    Assert(line.before < line.count),
                    Assert(line.behind == answers.behind),
                    Assert(answers.due),
                ]
            with m.If(answers.due & ~line.due):
                m.d.comb += Assert((answers.behind > line.count) & ~age.any())
        m.d.comb += [
            Assert((age & ~awaited) == 0),
            Assert(at_most_one(age)),
            Assert(answers.due | ~age.any()),
        ]
        for k, late_burst in enumerate(_stages_of(self.state, "write_burst_late")):
            older = sum(taker.any() for taker in self.late[k + 1 :])
            with m.If(age[k]):
                m.d.comb += [
                    Assert(late_burst == burst),
                    Assert(self.late[k] == core),
                    Assert(self.late_rounds[k] == place),
                ]
                for line, queue in zip((addresses, beats), self.queues, strict=True):
                    m.d.comb += Assert(line.due & (line.before == queue.level + older))
        for line, queue, word in zip((addresses, beats), self.queues, (burst, beat), strict=True):
            with m.If(line.due & ~age.any()):
                m.d.comb += [
                    Assert(line.before < queue.level),
                    Assert(queue.word(line.before) == word),
                ]

    def _row(self, m, answers, rows, dones, lasts, core, place, last, mates):
        word = data.View(self.layout, self.routes.word(rows.before))
        m.d.comb += Assert(answers.due == rows.due)
        with m.If(rows.due):
            m.d.comb += [
                Assert(rows.before < rows.count),
                Assert(core.any() & at_most_one(core)),
                Assert(place.any() & at_most_one(place)),
                Assert(word.slots == mates),
                Assert(mates[self.mine]),
                Assert(answers.before == sum_of(self.sums, rows.before)),
            ]
        for c, (done, final) in enumerate(zip(dones, lasts, strict=True)):
            m.d.comb += [
                Assert(done.due == (rows.due & core[c])),
                Assert(final.due == (rows.due & core[c] & last)),
            ]
            with m.If(done.due):
                ahead = sum_of(self.done_sums[c], rows.before)
                for k in range(self.chip.core_port_bursts):
                    here = (done.before == ahead + k) & (word.done[c] > k)
                    m.d.comb += Assert(~place[k] | here)
            with m.If(final.due):
                ahead = sum_of(self.last_sums[c], rows.before)
                m.d.comb += Assert(final.before >= ahead)
                m.d.comb += Assert(final.before < ahead + word.last[c])


def _stages_of(state, name):
    """Registers of `pipeline.register` from the first on, as `proofs.registers` names them."""
    return [state[f"{name}_{k + 1}" if k else name] for k in range(STORE_DATA_CYCLES)]


SHORT = ("WRITE_BUFFER = 8", "WRITE_BUFFER = 2")
"""So that a full buffer is near power-on, and a proof short."""
FAULTS = {
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
WIDE_FAULTS = {
    "two are done as one": ("done[core].eq(store.grant)", "done[core].eq(store.grant.any())"),
    "answers not awaited": ("routes.r_rdy & used[s] & others", "routes.r_rdy & used[s]"),
    "data of the first fragment": (
        "self._chosen(late, late_round, self.beats)",
        "self._chosen(late, late_round | 1, self.beats)",
    ),
    "one last for two": ("sum(lasts[1:], lasts[0])", "Cat(lasts).any()"),
}


def test_writes():
    assert prove(Writes(faulty(SHORT), TWO), depth=1, solver="bitwuzla") is None
    assert reached(Writes(faulty(), ONE), depth=10)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("chip", "master"),
    [(ONE, 0), (TWO, 0), (WIDE, 0), (WIDE, 1), (UNEVEN, 0), (UNEVEN, 1), (UNEVEN, 2)],
    ids=["one", "two", "wide-0", "wide-1", "uneven-0", "uneven-1", "uneven-2"],
)
def test_writes_with_the_whole_buffer(chip, master):
    assert prove(Writes(faulty(), chip, master), depth=1, solver="bitwuzla") is None


@pytest.mark.parametrize("fault", first_two(FAULTS))
def test_writes_with(fault):
    mutant = faulty(SHORT, FAULTS[fault])
    assert "Assert failed" in prove(Writes(mutant, TWO, inside=False), depth=10)


@pytest.mark.parametrize("fault", first_two(WIDE_FAULTS))
def test_writes_of_two_masters_with(fault):
    assert any_master_finds(Writes, faulty(SHORT, WIDE_FAULTS[fault]), depth=10)
