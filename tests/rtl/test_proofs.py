"""Proofs of what must never happen, each with a seeded fault that makes it fail."""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Cover, Fragment, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from tests.rtl.proof_parts import mutated

from mellivora.rtl import op_queue, semaphores
from mellivora.rtl.interfaces import OPERATION
from mellivora.rtl.proofs import memory_word, prove, reached, registers
from mellivora.rtl.semaphores import WORKERS


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
@pytest.mark.parametrize("depth", [8, 16, 32])
def test_queue_of_depth(depth):
    assert prove(QueueOrder(op_queue, depth), depth=2) is None


@pytest.mark.parametrize("fault", QUEUE_FAULTS)
def test_a_queue_with(fault):
    """The counterexample is a run from power-on that shows in the ports alone."""
    mutant = mutated(op_queue, QUEUE_FAULTS[fault])
    assert "Assert failed" in prove(QueueOrder(mutant, 2, inside=False), depth=10)


class TokensKept(wiring.Component):
    """One semaphore against a counter: what is posted is there, what is taken was there.

    A post past the maximum is shown in `past` a cycle later, when nothing starts any more, and
    named in `overflow` OVERFLOW_CYCLES later; nothing else is claimed after it.
    """

    def __init__(self, module, outstanding, number, half=""):
        """half: of a step of the proof, which takes them one after the other: "starts", what is
        claimed of starts in a state that is taken to be good; "state", that it stays good if all
        that starts is right. Without it all that is claimed, and nothing from inside."""
        self.part, self.number, self.half = module.Semaphores(outstanding), number, half
        self.most = module.SEMAPHORE_MAX
        self.module_name = f"tokens_kept_{outstanding}"
        members = self.part.signature.members
        inputs = {name: member for name, member in members.items() if member.flow == In}
        super().__init__(inputs)

    def elaborate(self, platform):
        m = Module()
        part = self.part
        m.submodules.part = fragment = Fragment.get(part, platform)
        for name in self.signature.members:
            m.d.comb += Value.cast(getattr(part, name)).eq(Value.cast(getattr(self, name)))

        def here(enable, value):
            return enable & (value == self.number)

        waits = [(part.start[e], getattr(self.waits[e], f"wait{j}"))
                 for e in range(WORKERS) for j in range(2)]  # fmt: skip
        ends = [end for e, count in enumerate(part.ends_of)
                for end in (getattr(self, f"ends{e}")[i] for i in range(count))]  # fmt: skip
        posts = [(end.valid, value) for end in ends for value in (end.post0, end.post1)]
        taken = Signal(range(2 * WORKERS + 1))
        posted = Signal(range(len(posts) + 1))
        bits = (self.most + len(posts)).bit_length()
        tokens, after, passed = Signal(bits), Signal(bits), Signal()
        m.d.comb += [
            taken.eq(sum(here(*wait) for wait in waits)),
            posted.eq(sum(here(*post) for post in posts)),
            after.eq(tokens - taken + posted),
        ]
        now, named = Signal(), Signal()  # it passed by the last cycle's posts; by those before
        m.d.sync += [
            tokens.eq(after),
            passed.eq(passed | (after > self.most)),
            now.eq(~passed & (after > self.most)),
            named.eq(now),
        ]
        with m.If(self.clear):
            m.d.sync += [tokens.eq(0), passed.eq(0), now.eq(0), named.eq(0)]
        of_starts = Assume if self.half == "state" else Assert
        of_state = Assume if self.half == "starts" else Assert
        with m.If(now):
            m.d.comb += of_state(part.past)
        with m.If(named):
            m.d.comb += of_state(Cat(part.overflow[e].valid for e in range(WORKERS)).any())
        with m.If(part.past):
            m.d.comb += of_starts(part.start == 0)
        with m.If(~passed):
            m.d.comb += of_starts(taken <= tokens)
            # An engine that could start and whose tokens are there starts.
            alone = ~self.stop & ~part.past & self.valid[0] & self.ready[0]
            wanted = here(alone, self.waits[0].wait0) + here(alone, self.waits[0].wait1)
            with m.If(alone & (self.waits[0].wait0 == self.number) & (self.waits[0].wait1 == 0)):
                m.d.comb += of_starts(part.start[0] == (tokens >= wanted))
        for e in range(WORKERS):
            with m.If(part.start[e]):
                m.d.comb += of_starts(self.valid[e] & self.ready[e] & ~self.stop)
        m.d.comb += Cover((tokens == 14) & (taken == 4) & (posted == 5))
        if self.half:
            state = registers(fragment)
            names = sorted(name for name in state if name.startswith("plane"))
            held = Cat(state[name][self.number] for name in names)
            pending = Signal(range(2 * WORKERS + 1))
            m.d.comb += [
                pending.eq(sum(here(state["started"][e], state[f"taken{e}_wait{j}"])
                               for e in range(WORKERS) for j in range(2))),
                of_state(passed | (tokens <= self.most)),
                of_state(~now | (passed & (tokens > self.most))),
            ]  # fmt: skip
            with m.If(~passed | now):
                m.d.comb += of_state(held == tokens + pending)
            with m.If(now):
                blamed = [here(state[f"ended_{e}_{i}"], state[f"ended_{e}_{i}_post{j}"])
                          for e, count in enumerate(part.ends_of) for i in range(count)
                          for j in range(2)]  # fmt: skip
                m.d.comb += of_state(Cat(blamed).any())
        return m


SMALL = (
    "import ENGINES, LOAD, SEMAPHORE_MAX, SEMAPHORES",
    "import ENGINES, LOAD; SEMAPHORE_MAX, SEMAPHORES = 15, 4",
)
"""All counters are made alike, of one slice a bit: fewer and shorter ones prove the same."""
SEMAPHORE_FAULTS = {
    "one token short": ("(low > needs)", "(low > needs + 1)"),
    "a token out of nothing": ("(low > needs)", "(low >= needs)"),
    "a second wait forgotten": ("own = [self.waits[e].wait0 == number] if j else []", "own = []"),
    "takes of the cycle before forgotten": (
        "wire(m, gone + _total(before)",
        "wire(m, _total(before)",
    ),
    "a carry lost": ("wire(m, (plane & other) | (carry &", "wire(m, (carry &"),
    "an overflow kept quiet": ("self.past.eq(over.any())", "self.past.eq(0)"),
}


def test_semaphores_lose_no_token():
    small = mutated(semaphores, SMALL)
    for half in ("starts", "state"):
        assert prove(TokensKept(small, 1, number=2, half=half), depth=1) is None
        assert reached(TokensKept(small, 1, number=2, half=half), depth=4)


@pytest.mark.parametrize("fault", SEMAPHORE_FAULTS)
def test_semaphores_with(fault):
    mutant = mutated(semaphores, SMALL, SEMAPHORE_FAULTS[fault])
    assert "Assert failed" in prove(TokensKept(mutant, 1, number=2), depth=5)
