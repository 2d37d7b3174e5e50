"""What a LOAD or STORE pushes lies in its window whole: proofs about its issue, with faults."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Fragment, Module, Mux, Signal, signed
from amaranth.lib import wiring
from tests.rtl.proof_chips import SMALL, narrow_issue
from tests.rtl.proof_parts import at_most_one, first_two, inputs_of, join_inputs, mutated

from mellivora.isa.table import DMA_CONFIG, DMA_SLOTS
from mellivora.rtl import dma_issue
from mellivora.rtl.dma_walker import LEVELS
from mellivora.rtl.proofs import prove, reached, registers
from mellivora.spec import load_chip

ANY_PRODUCT = (
    (
        '"empty": Out(1),',
        """"empty": Out(1),
        "far_any": In(2 * COUNT_BITS), "far_count": Out(COUNT_BITS), "far_stride": Out(COUNT_BITS),
        "near_any": In(2 * COUNT_BITS), "near_count": Out(COUNT_BITS),
        "near_stride": Out(COUNT_BITS),""",
    ),
    (
        'whole = wire(m, count * pick(steps, 0), f"{name}_whole")',
        """whole = getattr(self, f"{name}_any")
            m.d.comb += getattr(self, f"{name}_count").eq(count)
            m.d.comb += getattr(self, f"{name}_stride").eq(pick(steps, 0))""",
    ),
)
"""The multipliers stand outside: factors are outputs, what comes out is an input."""


class Issue(wiring.Component):
    """What is pushed lies in window and scratchpad whole; the rest is refused, and only the rest.

    Of a product is assumed what is true of all: it is 0 with a factor that is, and else no less
    than either; same factors, same product.
    """

    def __init__(self, module, chip, inside=True):
        """inside: with the invariants that a step of the proof needs."""
        self.issue, self.chip, self.module = module.DmaIssue(chip), chip, module
        self.inside = inside
        self.bits = {"far": module.ADDRESS_BITS, "near": module.near_bits(chip)}
        self.module_name = f"issue_proof_{chip.name}"
        super().__init__(inputs_of(self.issue))

    def elaborate(self, platform):
        m = Module()
        issue, job = self.issue, self.issue.job
        m.submodules.issue = fragment = Fragment.get(issue, platform)
        join_inputs(m, self, issue)
        state = registers(fragment)
        step = state["step"]
        op, base_before = Signal(self.module.OPERATION), Signal.like(issue.base)
        with m.If(issue.start):
            m.d.sync += op.eq(issue.op)
        m.d.sync += base_before.eq(issue.base)
        slot = {name: op.slots[i] for i, name in enumerate(DMA_SLOTS)}
        config = {name: op.config[i] for i, name in enumerate(DMA_CONFIG)}
        first = slot["offset"] * self.module.DRAM_UNIT_BYTES + slot["fine"]
        empty = Cat(slot[f"n{k}"] <= 0 for k in range(LEVELS + 1)).any()
        negative = Cat(stride < 0 for stride in config.values()).any()
        bits = self.module.COUNT_BITS
        n0, pad = slot["n0"][:bits], slot["pad"]
        counts = [(slot[f"n{k + 1}"] - 1)[:bits] for k in range(LEVELS)]
        strides = {side: [config[f"{letter}{k + 1}"][:bits] for k in range(LEVELS)]
                   for side, letter in (("far", "d"), ("near", "p"))}  # fmt: skip
        m.d.comb += [
            Assume(~(issue.start & issue.busy)),
            Assume(~issue.done | (issue.base == base_before)),
            Assume(issue.base + issue.limit <= 1 << (self.bits["far"] - 1)),
            Cover(issue.push & ~job.left[0].any() & (slot["n1"] != 1) & job.left[1].any()),
        ]
        extents = self._products(m, step, counts, strides)
        reach, apart, joined = self._sums(m, state, step, extents, {"far": first, "near": pad}, n0)
        legal = (
            (slot["window"] >= 0)
            & (slot["window"] < self.chip.windows)
            & ~negative
            & (first >= 0)
            & (reach["far"] <= issue.limit)
            & (pad >= 0)
            & (reach["near"] <= self.chip.sram_bytes)
        )
        m.d.comb += Assert(issue.done | ~issue.push)
        with m.If(issue.done):
            m.d.comb += [
                Assert(issue.window == slot["window"][: len(issue.window)]),
                Assert(issue.empty == empty),
                Assert(issue.push == (legal & ~empty)),
                Assert((issue.cause == 0) == (legal | empty)),
            ]
        with m.If(issue.push):
            m.d.comb += [
                Assert(job.run != 0),
                Assert((job.far == issue.base + first) & (job.near == pad)),
                # With pieces as long as `run` the steps that are left end where all of them do.
                Assert(first + job.run + apart["far"] == reach["far"]),
                Assert(pad + job.run + apart["near"] == reach["near"]),
            ]
            for k in range(LEVELS):
                with m.If(job.left[k] != 0):
                    m.d.comb += [
                        Assert(~joined[k] & (job.left[k] == counts[k])),
                        Assert(job.far_step[k] == strides["far"][k]),
                        Assert(job.near_step[k] == strides["near"][k]),
                    ]
        if not self.inside:
            return m
        held = {"first": first, "pad": pad, "window_number": slot["window"], "n0": n0}
        held |= {"empty": empty, "negative": negative}
        held |= {f"d{k + 1}": stride for k, stride in enumerate(strides["far"])}
        held |= {f"p{k + 1}": stride for k, stride in enumerate(strides["near"])}
        m.d.comb += [Assert(at_most_one(step)), Assert(issue.busy == step.any())]
        with m.If(issue.busy):
            m.d.comb += [Assert(state[name] == value) for name, value in held.items()]
        for k, count in enumerate(counts):
            left = state[f"left_n{k + 1}"]
            with m.If(step[: k + 2].any()):
                m.d.comb += Assert(left == count)
            with m.Elif(issue.busy):
                m.d.comb += Assert(left == Mux(joined[k], 0, count))
        with m.If(step[1:].any() & (reach["near"] <= self.chip.sram_bytes) & (pad >= 0)):
            m.d.comb += [
                Assert(state["run"] >= n0),
                Assert(first + state["run"] + apart["far"] == reach["far"]),
                Assert(pad + state["run"] + apart["near"] == reach["near"]),
            ]
        return m

    def _products(self, m, step, counts, strides):
        """{side: [what came out for each level]}: factors are those of the operation."""
        issue = self.issue
        came = {"far": issue.far_any, "near": issue.near_any}
        extents = {
            side: [Signal.like(value, name=f"{side}_extent{k}") for k in range(LEVELS)]
            for side, value in came.items()
        }

        def facts(count, stride, product):
            yield (stride["far"] != stride["near"]) | (product["far"] == product["near"])
            for side in product:
                none = (count == 0) | (stride[side] == 0)
                yield Mux(none, product[side] == 0, product[side] >= stride[side])

        shown = {"far": issue.far_stride, "near": issue.near_stride}
        m.d.comb += [Assume(fact) for fact in facts(issue.far_count, shown, came)]
        m.d.comb += Assert(issue.near_count == issue.far_count)
        for k in range(LEVELS):
            kept = {side: extents[side][k] for side in came}
            stride = {side: strides[side][k] for side in came}
            with m.If(step[k]):
                m.d.sync += [kept[side].eq(came[side]) for side in came]
                m.d.comb += Assert(issue.far_count == counts[k])
                m.d.comb += [Assert(shown[side] == stride[side]) for side in came]
            if self.inside:
                with m.If(step[k + 1 :].any()):
                    m.d.comb += [Assert(fact) for fact in facts(counts[k], stride, kept)]
        return extents

    def _sums(self, m, state, step, extents, begin, n0):
        """Of either side, complete in s+5: where the transfer ends; extents that have not joined.

        And which levels have joined.
        """
        joined = [Signal(name=f"joined{k}") for k in range(LEVELS)]
        reach, apart = {}, {}
        for side, parts in extents.items():
            wide = signed(len(parts[0]) + 10)
            reach[side] = Signal(wide, name=f"{side}_reach")
            apart[side] = Signal(wide, name=f"{side}_apart")
            with m.If(step[0]):
                m.d.sync += [reach[side].eq(begin[side] + n0), apart[side].eq(0)]
            for k, extent in enumerate(parts):
                with m.If(step[k + 1]):
                    m.d.sync += joined[k].eq(state["joins"])
                    m.d.sync += reach[side].eq(reach[side] + extent)
                    with m.If(~state["joins"]):
                        m.d.sync += apart[side].eq(apart[side] + extent)
            if self.inside:
                self._bounds(m, state, step, side, parts, begin[side], n0, reach[side], apart[side])
        return reach, apart, joined

    def _bounds(self, m, state, step, side, parts, begin, n0, reach, apart):
        """The narrow sums of the issue are these, or it knows that they are not and too large."""
        bits, most = self.bits[side], (1 << (len(begin) - 1)) + (1 << len(n0))
        product, total, over = (state[f"{side}_{name}"] for name in ("product", "sum", "over"))
        for k in range(LEVELS + 1):  # in the cycle s+2+k: k extents are in the sum
            pending = parts[k] if k < LEVELS else 0
            with m.If(step[k + 1]):
                m.d.comb += [
                    Assert(over == Cat(part[bits:] for part in parts[: k + 1]).any()),
                    Assert(~over | (begin < 0) | (reach + pending >= 1 << bits)),
                    Assert(over | ((total == reach) & (reach < most + (k << bits)))),
                    Assert((begin <= reach) & (reach < most + (k << len(parts[0])))),
                    Assert((apart >= 0) & (apart <= k << len(parts[0]))),
                ]
                if k < LEVELS:
                    m.d.comb += Assert(product == pending[:bits])


FAULTS = {
    "a limit too late": ("(stop > self.limit)", "(stop > self.limit + 1)"),
    "a limit too early": ("(stop > self.limit)", "(stop >= self.limit)"),
    "negative strides let through": (">= self.chip.windows) | negative", ">= self.chip.windows)"),
    "upper bits of products not seen": ("| far_over | (stop", "| (stop"),
    "upper bits forgotten": ("~step[0] & over | whole[bits:].any()", "whole[bits:].any()"),
    "a start below the window": ("outside | (first < 0) | ", "outside | "),
    "a start below the scratchpad": ("(pad < 0) | near_over", "near_over"),
    "the scratchpad's end": (
        "near_stop > self.chip.sram_bytes",
        "near_stop > self.chip.sram_bytes + 1",
    ),
    "no such window": ("(window >= self.chip.windows)", "(window > self.chip.windows)"),
    "a refused one pushed": ("~empty & (self.cause == 0)", "~empty & (self.cause != 2)"),
    "joins on one side": ("(d == run) & (p == run)", "(d == run)"),
    "a run one piece short": ("run.eq(far_product + d)", "run.eq(far_product)"),
}


def issue(*changes):
    return narrow_issue(*ANY_PRODUCT, *changes)


def test_what_is_pushed_lies_in_window_and_scratchpad():
    assert prove(Issue(issue(), SMALL), depth=1) is None
    assert reached(Issue(issue(), SMALL), depth=7)


@pytest.mark.nightly
def test_the_same_at_the_widths_of_a_chip():
    """And a limit that is off by one is found there."""
    whole, nano = mutated(dma_issue, *ANY_PRODUCT), load_chip("nano")
    assert prove(Issue(whole, nano), depth=1, solver="bitwuzla") is None
    wrong = mutated(dma_issue, *ANY_PRODUCT, FAULTS["a limit too late"])
    found = prove(Issue(wrong, nano, inside=False), depth=7, solver="bitwuzla")
    assert "Assert failed" in found


@pytest.mark.parametrize("fault", first_two(FAULTS))
def test_issue_with(fault):
    assert "Assert failed" in prove(Issue(issue(FAULTS[fault]), SMALL, inside=False), depth=7)
