"""A column of MATRIX with all that is its own: operand B, arithmetic, results not yet in memory."""

from enum import IntEnum

from amaranth.hdl import Array, C, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.latency import ACCUMULATE_CYCLES
from mellivora.rtl.b_column import B_CONTROL, BColumn
from mellivora.rtl.dot32 import CODES, PAIRS, SUM_BITS
from mellivora.rtl.interfaces import READ_CYCLES, WRITE_CYCLES
from mellivora.rtl.matrix_column import MatrixColumn
from mellivora.rtl.scale_dot import DOT_BITS
from mellivora.rtl.sharing import share

MEMORY_CYCLES = ACCUMULATE_CYCLES + READ_CYCLES + WRITE_CYCLES
"""Steps of one accumulator that lie so far apart meet in memory; closer ones take it from here."""
HISTORY = MEMORY_CYCLES - ACCUMULATE_CYCLES
"""Results that are shown and not yet in memory: of this cycle and of HISTORY - 1 before."""


class Source(IntEnum):
    """Where a step's accumulator comes from; RESULT + k: what `q` was k cycles ago."""

    ZERO = 0
    MEMORY = 1
    RESULT = 2


SOURCE_BITS = 3


class MatrixLane(wiring.Component):
    """`BColumn` and `MatrixColumn`. b is shown by `control.swap`, its scales by `swap_scale`; all
    else is due as the column has it."""

    mode: In(2)
    control: In(B_CONTROL)
    dword: In(32)
    rows: In(32)
    half_scale: In(16)
    half_minimum: In(16)
    a: In(CODES)
    pairs: In(PAIRS)
    offset: In(signed(DOT_BITS))
    sa: In(32)
    a_sum: In(signed(SUM_BITS))
    source: In(SOURCE_BITS)  # due with acc
    keep: In(1)  # past results may be asked for
    acc: In(32)
    q: Out(32)
    module_name = "matrix_lane"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        operand, column = BColumn(), MatrixColumn()
        m.submodules.operand, m.submodules.column = share(operand), share(column)
        for name in ("control", "dword", "rows", "half_scale", "half_minimum"):
            m.d.comb += getattr(operand, name).eq(getattr(self, name))
        results = [column.q]
        with m.If(self.keep):
            for age in range(1, HISTORY):
                past = Signal(32, name=f"result_{age}", reset_less=True)
                m.d.sync += past.eq(results[-1])
                results.append(past)
        m.d.comb += [
            column.mode.eq(self.mode),
            column.a.eq(self.a),
            column.b.eq(operand.b),
            column.pairs.eq(self.pairs),
            column.offset.eq(self.offset),
            column.sa.eq(self.sa),
            column.sb.eq(operand.sb),
            column.minimum.eq(operand.minimum),
            column.a_sum.eq(self.a_sum),
            column.acc.eq(Array([C(0, 32), self.acc, *results])[self.source]),
            self.q.eq(column.q),
        ]
        return m
