"""What specifications share: mutants, free inputs, a line that is followed, FIFOs from inside."""

import importlib.util
import inspect

import pytest
from amaranth.hdl import Assert, Module, Mux, Signal, Value
from amaranth.lib.wiring import In

from mellivora.rtl.proofs import memory_word, registers


def mutated(module, *changes, **names):
    """The module again with pieces of its text, each found once, and global names replaced."""
    text = inspect.getsource(module)
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
        text = text.replace(old, new)
    spec = importlib.util.spec_from_loader("mutant", loader=None)
    mutant = importlib.util.module_from_spec(spec)
    exec(compile(text, module.__file__, "exec"), mutant.__dict__)
    assert names.keys() <= mutant.__dict__.keys()
    mutant.__dict__.update(names)
    return mutant


def first_two(faults):
    """Each fault as a parameter: the first two in every run, the others by night."""
    names = list(faults)
    return names[:2] + [pytest.param(name, marks=pytest.mark.nightly) for name in names[2:]]


def _inputs(component):
    for path, member, value in component.signature.flatten(component):
        if member.flow == In:
            yield "__".join(map(str, path)), member, Value.cast(value)


def inputs_of(component):
    """Members of a specification: every input of the component is one of its own."""
    return {name: In(member.shape) for name, member, _ in _inputs(component)}


def join_inputs(m: Module, specification, component):
    for name, _, value in _inputs(component):
        m.d.comb += value.eq(Value.cast(getattr(specification, name)))


def at_most_one(bits):
    """Whether no two of them are set."""
    return (bits & (bits - 1)) == 0


class Line:
    """Counts those that stand between `joins` and `leaves`; with `follow` the one that joins is
    followed: `due` until it has left, `before` of the others leave before it.

    joins, leaves: how many do in this cycle; index: the followed one joins after so many of these.
    leaving: it is one of those that leave.
    """

    def __init__(self, m: Module, name, most, *, joins, leaves, follow, index=0):
        self.count = Signal(range(most + 2), name=f"{name}_count")
        self.before = Signal(range(most + 2), name=f"{name}_before")
        self.due = Signal(name=f"{name}_due")
        self.first = self.due & (self.before == 0)
        self.leaving = self.due & (self.before < leaves)
        self.behind = self.count - self.before
        m.d.sync += self.count.eq(self.count + joins - leaves)
        with m.If(follow):
            m.d.sync += [self.due.eq(1), self.before.eq(self.count - leaves + index)]
        with m.Elif(self.due):
            m.d.sync += [self.due.eq(self.before >= leaves), self.before.eq(self.before - leaves)]


class FifoInside:
    """Registers of an elaborated `amaranth.lib.fifo.SyncFIFO`, or SyncFIFOBuffered."""

    def __init__(self, fragment, depth, *, buffered=False):
        self.fragment, self.buffered = fragment, buffered
        self.state = registers(fragment)
        self.places = depth - 1 if buffered else depth
        self.level = self.state["inner_level" if buffered else "level"]
        self.shown = self.state["r_rdy"] if buffered else 0

    def holds(self, count):
        """Invariant: registers agree with the number of words in it."""
        produce, consume = self.state["produce"], self.state["consume"]
        return [
            Assert(self.level + self.shown == count),
            Assert(self.level <= self.places),
            Assert((produce < self.places) & (consume < self.places)),
            Assert(produce == self._wrapped(consume + self.level)),
        ]

    def word(self, before):
        """The word that has `before` others before it."""
        place = self._wrapped(self.state["consume"] + before - self.shown)
        stored = memory_word(self.fragment, "storage", place)
        return Mux(self.shown & (before == 0), self.state["r_data"], stored)

    def _wrapped(self, place):
        return Mux(place >= self.places, place - self.places, place)
