"""The memory port's queues are among those that proofs about the port allow for."""

import pytest
from amaranth.hdl import Assert, Fragment, Module, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In
from tests.rtl.port_proofs import Queue
from tests.rtl.proof_parts import FifoInside

from mellivora.rtl.proofs import prove

WIDTH = 2
"""No width is like another to a queue, but it does not look at what it holds."""


class Both(wiring.Component):
    """Amaranth's, and the model, which shows and takes when that one does: always alike.

    And it is no later than it need be: shows a word after a cycle, takes all but the last.
    """

    w_en: In(1)
    w_data: In(WIDTH)
    r_en: In(1)

    def __init__(self, depth, model_depth=None):
        self.depth, self.model_depth = depth, model_depth or depth
        self.module_name = f"both_queues_{depth}"
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        real = fifo.SyncFIFOBuffered(width=WIDTH, depth=self.depth)
        m.submodules.real = fragment = Fragment.get(real, platform)
        m.submodules.model = model = Queue(width=WIDTH, depth=self.model_depth)
        m.d.comb += [model.shows.eq(real.r_rdy), model.takes.eq(real.w_rdy)]
        for one in (real, model):
            m.d.comb += [one.w_en.eq(self.w_en), one.w_data.eq(self.w_data), one.r_en.eq(self.r_en)]
        m.d.comb += [
            Assert(real.w_rdy == model.w_rdy),
            Assert(real.r_rdy == model.r_rdy),
            Assert(~real.r_rdy | (real.r_data == model.r_data)),
        ]
        late = Signal()  # a word was there and not shown
        m.d.sync += late.eq(model.level.any() & ~real.r_rdy)
        m.d.comb += [
            Assert(real.r_rdy | ~late),
            Assert(real.w_rdy | (model.level >= self.depth - 1)),
        ]
        inside = FifoInside(fragment, self.depth, buffered=True)
        m.d.comb += [*inside.holds(model.level), *model.holds(model.level)]
        for i, word in enumerate(model.words):
            m.d.comb += Assert((i >= model.level) | (word == inside.word(i)))
        m.d.comb += Assert(~model.shown | inside.shown)
        return m


@pytest.mark.parametrize("depth", [4, 16])
def test_amaranths_is_one_of_them(depth):
    assert prove(Both(depth), depth=1, solver="bitwuzla") is None


def test_it_would_not_be_with_a_place_less():
    assert "Assert failed" in prove(Both(4, 3), depth=8, solver="bitwuzla")
