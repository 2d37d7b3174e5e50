"""Fragments of a transfer lie in its window: proofs about the walker, with seeded faults."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Fragment, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In
from tests.rtl.proof_chips import SMALL, WIDE, narrow_walker
from tests.rtl.proof_parts import Line, first_two, inputs_of, join_inputs

from mellivora.rtl import dma_walker
from mellivora.rtl.dma_walker import LEVELS
from mellivora.rtl.proofs import prove, reached, registers
from mellivora.spec import load_chip


class Walker(wiring.Component):
    """Fragments of a job, any, that lies in window and scratchpad whole, lie in them too.

    claim: of the job that is pushed: its window `low` .. `high`; of either side `extents`, the
    (n_k - 1) * stride_k, and `most`, the last start of a piece, of a row, of a plane. What is left
    of an extent is a product, left_k * stride_k: of it is assumed what is true of products.
    """

    def __init__(self, module, chip, inside=True):
        """inside: with the invariants that a step of the proof needs; else products are made."""
        self.walker, self.chip, self.module = module.DmaWalker(chip), chip, module
        self.inside = inside
        self.module_name = f"walker_proof_{chip.name}"
        self.bits = {"far": module.ADDRESS_BITS, "near": module.near_bits(chip)}
        claim = {"job": module.job_layout(chip), "low": self.bits["far"], "high": self.bits["far"]}
        for side, bits in self.bits.items():
            three = data.ArrayLayout(bits, LEVELS)
            claim[side] = data.StructLayout({"extents": three, "most": three})
        self.layout = data.StructLayout(claim)
        inputs = inputs_of(self.walker)
        super().__init__({**inputs, "follow": In(1), "claim": In(self.layout)})

    def elaborate(self, platform):
        m = Module()
        walker, chip = self.walker, self.chip
        m.submodules.walker = fragment = Fragment.get(walker, platform)
        join_inputs(m, self, walker)
        follow, claim, ways = Signal(), Signal(self.layout), chip.core_port_bursts
        lasts = [shown.last & (walker.count > k) for k, shown in enumerate(walker.fragments)]
        line = Line(
            m,
            "jobs",
            chip.outstanding_transfers,
            joins=walker.push,
            leaves=sum((last & (walker.take > k) for k, last in enumerate(lasts)), 0),
            follow=follow,
        )
        # Whether fragment k is one of the job that is followed.
        mine = [
            line.due & (walker.count > k) & (line.before == sum(lasts[:k], 0)) for k in range(ways)
        ]
        shown = walker.fragments[-1]
        m.d.comb += [
            follow.eq(self.follow & walker.push & ~line.due),
            Assume(~walker.push | (line.count != chip.outstanding_transfers)),
            Assume(walker.take <= walker.count),
            Assert((walker.count != 0) == (line.count != 0)),
            Cover(mine[-1] & shown.last & claim.job.left[0].any() & claim.job.left[1].any()),
        ]
        if ways > 1:
            m.d.comb += Cover(mine[-1] & (line.before != 0) & (walker.take == ways))
        state = registers(fragment)
        for k in range(ways):
            turns = sum((state[f"turn{i}"] for i in range(k)), 0)
            with m.If(mine[k] & state[f"turn{k}"]):
                for i, page in enumerate(walker.pages):
                    there = (page >= claim.low) & (page <= claim.far.most[LEVELS - 1])
                    m.d.comb += Assume(there | (turns != i))
        with m.If(follow):
            m.d.comb += Assume(self.claim.job == walker.job)
            m.d.comb += [Assume(fact) for fact in self._facts(self.claim)]
            m.d.sync += claim.eq(self.claim)
        size, place = chip.sram_bytes, self.module.burst_bits(chip)
        for k, shown in enumerate(walker.fragments):
            begin = (shown.burst << place) + shown.first
            end = (shown.burst << place) + shown.final
            pad = Signal(range(2 * size), name=f"pad{k}")
            m.d.comb += pad.eq(shown.near + shown.first)
            with m.If(mine[k]):
                m.d.comb += [
                    Assert((claim.low <= begin) & (begin <= end) & (end < claim.high)),
                    Assert(Mux(pad >= size, pad - size, pad) + shown.final - shown.first < size),
                ]
        if self.inside:
            self._invariants(m, state, line, mine, follow, claim)
            return m
        with m.If(follow):
            for side in self.bits:
                for k in range(LEVELS):
                    product = walker.job.left[k] * walker.job[f"{side}_step"][k]
                    paged = walker.job.paged & (side == "far") & (k == LEVELS - 1)
                    m.d.comb += Assume(paged | (self.claim[side].extents[k] == product))
        return m

    def _facts(self, claim):
        """Of a job whose verdict was good."""
        job = claim.job
        facts = [job.run != 0, job.far >= claim.low, claim.high <= 1 << (self.bits["far"] - 1)]
        facts += [~job.paged | (claim.far.extents[LEVELS - 1] == 0)]
        for side, stop in (("far", claim.high), ("near", self.chip.sram_bytes)):
            most, extents = claim[side].most, claim[side].extents
            starts = [most[0], most[1], most[2], job[side]]
            ends = [starts[k + 1] + extents[k] for k in range(LEVELS)]
            facts += [start == end for start, end in zip(starts[:2], ends[:2], strict=True)]
            # Of pages, the last place at which one still fits: they are there or before it.
            paged = job.paged & (side == "far")
            facts += [Mux(paged, ends[2] <= starts[2], ends[2] == starts[2])]
            facts += [most[0] + job.run <= stop]
        return facts

    def _invariants(self, m, state, line, mine, follow, claim):
        job, most = claim.job, self.chip.outstanding_transfers
        layout = self.module.place_layout(self.chip)
        names = ["at", *(f"place{k}" for k in range(1, len(mine)))]
        places = [data.View(layout, state[name]) for name in names]
        at = places[0]
        m.d.comb += [Assert(state["held"] == line.count), Assert(line.count <= most)]
        with m.If(line.due):
            m.d.comb += [Assert(fact) for fact in self._facts(claim)]
            m.d.comb += Assert(line.before < line.count)
            for i in range(most):
                m.d.comb += Assert((line.before != i) | (state[f"job{i}"] == job.as_value()))
        with m.If(line.first):
            m.d.comb += [Assert(at.rest != 0), Assert(at.rest <= job.run)]
        ends = [state[f"piece_ends{k}"] for k in range(len(mine))]
        steps = list(zip(mine, places, ends, strict=True))
        for side, stop in (("far", claim.high), ("near", self.chip.sram_bytes)):
            with m.If(line.first):
                m.d.comb += Assert(at[side] >= (claim.low if side == "far" else job.near))
                m.d.comb += Assert(at[side] + at.rest <= stop)
            for level in range(LEVELS):
                self._level(m, steps, side, level, line, follow, claim)

    def _level(self, m, steps, side, level, line, follow, claim):
        """row, what is left to step at this level: with what is left of the extent, in bounds.

        steps: for each fragment shown, whether it is of the job, where the walk is, and whether a
        piece ends with it.
        """
        name = f"{side}_gap{level}"
        gap, start = Signal(self.bits[side], name=name), steps[0][1]
        step, extent = claim.job[f"{side}_step"][level], claim[side].extents[level]
        paged = claim.job.paged & (side == "far") & (level == LEVELS - 1)
        gaps = [gap]
        for k, (mine, place, ends) in enumerate(steps):
            left, now = list(place.left), gaps[-1]
            with m.If(mine):
                m.d.comb += [
                    Assume((left[level] != 0) | (now == 0)),
                    Assume((left[level] == 0) | (now >= step) | paged),
                ]
            begins = ~Cat(left[: level + 1]).any() & Cat(left[level + 1 :]).any()
            moves = left[level].any() & ~Cat(left[:level]).any()
            after = Signal(self.bits[side], name=f"{name}_{k}")
            m.d.comb += after.eq(now)
            with m.If(mine & ends & begins):
                m.d.comb += after.eq(extent)
            with m.Elif(mine & ends & moves):
                m.d.comb += after.eq(Mux(paged, 0, now - step))
            gaps.append(after)
        for k, one in enumerate(gaps):
            with m.If(self.walker.take == k):
                m.d.sync += gap.eq(one)
        with m.If(follow):
            m.d.sync += gap.eq(self.claim[side].extents[level])
        row = start[f"row_{side}"][level]
        with m.If(line.first):
            m.d.comb += [
                Assert(row >= (claim.low if side == "far" else claim.job.near)),
                Assert(row + gap <= claim[side].most[level]),
            ]
        with m.Else():
            m.d.comb += Assert(~line.due | (gap == extent))


FAULTS = {
    "a piece too many": ("place.left[k].eq(job.left[k])", "place.left[k].eq(job.left[k] + 1)"),
    "a step from the last fragment": (
        "at.row_far[level] + job.far_step[level]",
        "at.far + job.far_step[level]",
    ),
    "a piece one byte too long": (
        "piece_ends.eq(at.rest <= room)",
        "piece_ends.eq(at.rest < room)",
    ),
    "a fragment as long as its burst": (
        "fragment.final.eq(Mux(piece_ends,",
        "fragment.final.eq(Mux(0,",
    ),
    "steps of the job before": ("job.eq(jobs[i + k])", "job.far.eq(jobs[i + k].far)"),
    "a page and a stride": ("Mux(job.paged, page,", "Mux(job.paged, page + next_far,"),
    "rows do not begin again": (
        "to.left[below].eq(job.left[below])",
        "to.left[below].eq(job.left[level])",
    ),
}


def test_fragments_lie_in_window_and_scratchpad():
    assert prove(Walker(narrow_walker(), SMALL), depth=1) is None
    assert reached(Walker(narrow_walker(), SMALL), depth=8)


@pytest.mark.nightly
def test_two_fragments_a_cycle_do():
    assert prove(Walker(narrow_walker(), WIDE), depth=1, solver="bitwuzla") is None
    assert reached(Walker(narrow_walker(), WIDE), depth=8)


@pytest.mark.nightly
def test_fragments_lie_there_at_the_widths_of_a_chip():
    assert prove(Walker(dma_walker, load_chip("nano")), depth=1, solver="bitwuzla") is None


@pytest.mark.parametrize("fault", first_two(FAULTS))
def test_walker_with(fault):
    mutant = narrow_walker(FAULTS[fault])
    assert "Assert failed" in prove(Walker(mutant, SMALL, inside=False), depth=7)
