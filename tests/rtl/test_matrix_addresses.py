"""Addresses of MATRIX's operands against plain loops, as the sequencer asks for them."""

import functools

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from tests.rtl.bench_matrix import schedule
from tests.rtl.test_matrix_sequencer import CHIP, inputs_of, random_rows

from mellivora.rtl.interfaces import OPERATION
from mellivora.rtl.matrix_addresses import MatrixAddresses
from mellivora.rtl.matrix_sequencer import MatrixSequencer
from mellivora.rtl.simulate import build


class Walk(wiring.Component):
    """Sequencer and addresses."""

    op: In(OPERATION)
    start: In(1)
    a: Out(32)
    a_scale: Out(32)
    b0: Out(32)
    b1: Out(32)
    is_scale: Out(1)
    has_reset = True
    module_name = "matrix_walk"

    def elaborate(self, platform):
        m = Module()
        m.submodules.sequencer = sequencer = MatrixSequencer(CHIP)
        m.submodules.addresses = addresses = MatrixAddresses(CHIP)
        m.d.comb += [sequencer.op.eq(self.op), sequencer.start.eq(self.start)]
        m.d.comb += [addresses.op.eq(self.op), self.is_scale.eq(addresses.b_is_scale)]
        for name in ("launch", "phase", "step"):
            m.d.comb += getattr(addresses, name).eq(getattr(sequencer, name))
        for name in ("a", "a_scale", "b0", "b1"):
            m.d.comb += getattr(self, name).eq(getattr(addresses, name))
        return m


@functools.cache
def sim():
    return build(Walk())


def test_every_address(rng):
    rows = random_rows(rng, 300)
    starts, _, _, op, start = inputs_of(rows)
    out = sim().run(op=op, start=start)
    compared = 0
    for row, at in zip(rows, starts):
        for wanted in schedule(row, CHIP):
            for cycle, what in wanted.items():
                for name in what.keys() & out.keys():
                    got = int(out[name][at + cycle])
                    assert got == what[name] & 0xFFFF_FFFF, (row, cycle, name)
                    compared += 1
    assert compared > 10_000
