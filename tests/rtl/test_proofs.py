"""Proofs of what must never happen, each with a seeded fault that makes it fail."""

import importlib.util
import inspect

import pytest
from amaranth.hdl import Assert, Assume, Cover, Fragment, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from mellivora.rtl import op_queue
from mellivora.rtl.interfaces import OPERATION
from mellivora.rtl.proofs import memory_word, prove, reached, registers


def mutated(module, *changes):
    """The module again with pieces of its text replaced, each found once."""
    text = inspect.getsource(module)
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        text = text.replace(old, new)
    spec = importlib.util.spec_from_loader("mutant", loader=None)
    mutant = importlib.util.module_from_spec(spec)
    exec(compile(text, module.__file__, "exec"), mutant.__dict__)
    return mutant


class QueueOrder(wiring.Component):
    """Against counting pushes and pops; one operation, any, is followed from its push to its pop.

    If whichever it is comes out after those that were before it, unchanged, all come out in
    order, none twice and none never.
    """

    clear: In(1)
    push: In(1)
    op_in: In(OPERATION)
    pop: In(1)
    follow: In(1)

    def __init__(self, module, depth, inside=True):
        """inside: with the invariants that a step of the proof needs."""
        self.queue, self.places, self.inside = module.OpQueue(depth), depth + 1, inside
        self.module_name = f"queue_order_{depth}"
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        q, places = self.queue, self.places
        m.submodules.queue = fragment = Fragment.get(q, platform)
        m.d.comb += [
            q.clear.eq(self.clear),
            q.push.eq(self.push),
            q.op_in.eq(self.op_in),
            q.pop.eq(self.pop),
            Assume(~(self.push & q.over)),
            Assume(~(self.pop & ~q.valid)),
        ]
        count, before = Signal(range(places + 1)), Signal(range(places + 1))
        following, op = Signal(), Signal(OPERATION.size)
        m.d.sync += count.eq(count + self.push - self.pop)
        with m.If(following):
            m.d.sync += [before.eq(before - self.pop), following.eq(~(self.pop & (before == 0)))]
        with m.Elif(self.follow & self.push):
            m.d.sync += [following.eq(1), before.eq(count - self.pop), op.eq(self.op_in)]
        with m.If(self.clear):
            m.d.sync += [count.eq(0), following.eq(0)]

        m.d.comb += [
            Assert(count <= places),
            Assert(q.valid == (count != 0)),
            Assert(q.over == (count == places)),
            Cover(following & (before == places - 1)),
        ]
        with m.If(following & (before == 0)):
            m.d.comb += [Assert(q.valid), Assert(q.op.as_value() == op)]

        if self.inside:
            self._invariants(m, fragment, count, before, following, op)
        return m

    def _invariants(self, m, fragment, count, before, following, op):
        """Registers agree with the count."""
        state, places = registers(fragment), self.places

        def wrapped(value):
            return Mux(value >= places, value - places, value)

        place = Signal(range(places))
        m.d.comb += [
            place.eq(wrapped(state["head"] + before)),
            Assert(state["level"] == count),
            Assert((state["head"] < places) & (state["tail"] < places)),
            Assert(state["tail"] == wrapped(state["head"] + count)),
        ]
        with m.If(following):
            m.d.comb += [
                Assert(before < count),
                Assert(memory_word(fragment, "places", place) == op),
            ]


QUEUE_FAULTS = {
    "a place too few": ("self.over.eq(level == places)", "self.over.eq(level == self.depth)"),
    "wraps late": ("pointer == places - 1", "pointer == places"),
    "pop counts twice": ("level + self.push - self.pop", "level + self.push - 2 * self.pop"),
    "clear forgets the head": ("tail.eq(0), head.eq(0)", "tail.eq(0)"),
    "push not counted": ("level + self.push - self.pop", "level - self.pop"),
}


def test_queue_keeps_order_and_loses_nothing():
    assert prove(QueueOrder(op_queue, 2), depth=2) is None
    assert reached(QueueOrder(op_queue, 2), depth=6)


@pytest.mark.nightly
@pytest.mark.parametrize("depth", [3, 8, 16, 32])
def test_queue_of_depth(depth):
    assert prove(QueueOrder(op_queue, depth), depth=2) is None


@pytest.mark.parametrize("fault", QUEUE_FAULTS)
def test_a_queue_with(fault):
    """The counterexample is a run from power-on that shows in the ports alone."""
    mutant = mutated(op_queue, QUEUE_FAULTS[fault])
    assert "Assert failed" in prove(QueueOrder(mutant, 2, inside=False), depth=10)
