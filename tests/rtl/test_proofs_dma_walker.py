"""Fragments of a transfer lie in its window: proofs about the walker, with seeded faults."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Fragment, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In
from tests.rtl.proof_chips import SMALL, narrow_walker
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
        shown, place = walker.fragments[0], self.module.burst_bits(chip)
        follow, claim = Signal(), Signal(self.layout)
        line = Line(
            m,
            "jobs",
            chip.outstanding_transfers,
            joins=walker.push,
            leaves=walker.take & shown.last,
            follow=follow,
        )
        m.d.comb += [
            follow.eq(self.follow & walker.push & ~line.due),
            Assume(~walker.push | (line.count != chip.outstanding_transfers)),
            Assume(walker.count | ~walker.take),
            Assert(walker.count == (line.count != 0)),
            Cover(line.first & shown.last & claim.job.left[0].any() & claim.job.left[1].any()),
        ]
        with m.If(line.first & walker.next_pages):
            m.d.comb += Assume(walker.pages[0] >= claim.low)
            m.d.comb += Assume(walker.pages[0] <= claim.far.most[LEVELS - 1])
        with m.If(follow):
            m.d.comb += Assume(self.claim.job == walker.job)
            m.d.comb += [Assume(fact) for fact in self._facts(self.claim)]
            m.d.sync += claim.eq(self.claim)
        begin = (shown.burst << place) + shown.first
        end = (shown.burst << place) + shown.final
        pad, size = Signal(range(2 * chip.sram_bytes)), chip.sram_bytes
        m.d.comb += pad.eq(shown.near + shown.first)
        with m.If(line.first):
            m.d.comb += [
                Assert((claim.low <= begin) & (begin <= end) & (end < claim.high)),
                Assert(Mux(pad >= size, pad - size, pad) + shown.final - shown.first < size),
            ]
        if self.inside:
            self._invariants(m, fragment, line, follow, claim)
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

    def _invariants(self, m, fragment, line, follow, claim):
        state, job, most = registers(fragment), claim.job, self.chip.outstanding_transfers
        at = data.View(self.module.place_layout(self.chip), state["at"])
        mine = line.first  # the job that is followed is the walker's own
        m.d.comb += [Assert(state["held"] == line.count), Assert(line.count <= most)]
        with m.If(line.due):
            m.d.comb += [Assert(fact) for fact in self._facts(claim)]
            m.d.comb += Assert(line.before < line.count)
            for i in range(most):
                m.d.comb += Assert((line.before != i) | (state[f"job{i}"] == job.as_value()))
        with m.If(mine):
            m.d.comb += [Assert(at.rest != 0), Assert(at.rest <= job.run)]
        for side, stop in (("far", claim.high), ("near", self.chip.sram_bytes)):
            with m.If(mine):
                m.d.comb += Assert(at[side] >= (claim.low if side == "far" else job.near))
                m.d.comb += Assert(at[side] + at.rest <= stop)
            for k in range(LEVELS):
                self._level(m, at, state["piece_ends0"], side, k, line, follow, claim)

    def _level(self, m, at, piece_ends, side, k, line, follow, claim):
        """row, what is left to step at this level: with what is left of the extent, in bounds."""
        gap = Signal(self.bits[side], name=f"{side}_gap{k}")
        row, left = at[f"row_{side}"][k], list(at.left)
        step, extent = claim.job[f"{side}_step"][k], claim[side].extents[k]
        done = self.walker.take & piece_ends
        paged = claim.job.paged & (side == "far") & (k == LEVELS - 1)
        with m.If(line.first):
            m.d.comb += [
                Assume((left[k] != 0) | (gap == 0)),
                Assume((left[k] == 0) | (gap >= step) | paged),
                Assert(row >= (claim.low if side == "far" else claim.job.near)),
                Assert(row + gap <= claim[side].most[k]),
            ]
            with m.If(done & ~Cat(left[: k + 1]).any() & Cat(left[k + 1 :]).any()):
                m.d.sync += gap.eq(extent)
            with m.Elif(done & left[k].any() & ~Cat(left[:k]).any()):
                m.d.sync += gap.eq(Mux(paged, 0, gap - step))
        with m.Else():
            m.d.sync += gap.eq(Mux(follow, self.claim[side].extents[k], extent))
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
def test_fragments_lie_there_at_the_widths_of_a_chip():
    assert prove(Walker(dma_walker, load_chip("nano")), depth=1, solver="bitwuzla") is None


@pytest.mark.parametrize("fault", first_two(FAULTS))
def test_walker_with(fault):
    mutant = narrow_walker(FAULTS[fault])
    assert "Assert failed" in prove(Walker(mutant, SMALL, inside=False), depth=7)
