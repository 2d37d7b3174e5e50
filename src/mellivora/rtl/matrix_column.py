"""One column of MATRIX: a 32-block of one row of A times one column of B, into its accumulator."""

from enum import IntEnum

import numpy as np
import numpy.typing as npt
from amaranth.hdl import Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.rtl.dot32 import B_CODES, CODES, PAIRS, SUM_BITS, Dot32, dot32, sum32
from mellivora.rtl.fp32_add import Fp32Add
from mellivora.rtl.pipeline import register
from mellivora.rtl.primitive import Primitive
from mellivora.rtl.scale_dot import DOT_BITS, ScaleDot, scale_dot
from mellivora.rtl.sharing import share


class Accumulate(IntEnum):
    """What a step adds."""

    SCALED = 0  # acc + float(dot) * (sa * sb)
    OFFSET = 1  # acc + (float(dot) * (sa * sb) + float(sum of a) * (sa * minimum)), Q4_1
    INTEGER = 2  # acc + dot, INT32 that wraps


SUM_STAGE = 2
"""`a_sum` is due so many cycles after the codes, when a `Sum32` beside the columns has it."""
SCALE_STAGE = 2
"""`sa`, `sb` and `minimum` are due so many cycles after the codes."""
ACC_STAGE = {Accumulate.SCALED: 7, Accumulate.INTEGER: 7, Accumulate.OFFSET: 10}
"""`acc` is due so many cycles after the codes."""
COLUMN_STAGES = {mode: stage + 3 for mode, stage in ACC_STAGE.items()}


class MatrixColumn(wiring.Component):
    """q, COLUMN_STAGES[mode] cycles after the codes: the new accumulator.

    Dot32 2, ScaleDot 5, Fp32Add 3; the two parts of an OFFSET step are added first, 3 cycles more.
    A step each cycle. After an OFFSET step the next three must not be of another mode: they would
    meet it at the accumulator. Idle cycles have mode SCALED, and a q that nobody takes.
    """

    mode: In(2)
    a: In(CODES)
    pairs: In(PAIRS)
    b: In(B_CODES)
    offset: In(signed(DOT_BITS))  # of the dot product, as `Dot32` takes it
    sa: In(32)
    sb: In(32)
    minimum: In(32)
    a_sum: In(signed(SUM_BITS))
    acc: In(32)
    q: Out(32)
    module_name = "matrix_column"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dot, term, minimum_term = Dot32(), ScaleDot(), ScaleDot(SUM_BITS + 1, half=True)
        both, total = Fp32Add(), Fp32Add(integers=True)
        m.submodules.dot_product = share(dot)
        m.submodules.scale_term, m.submodules.scale_minimum = share(term), share(minimum_term)
        m.submodules.join, m.submodules.accumulator = share(both), share(total)

        integer_2 = register(m, self.mode == Accumulate.INTEGER, "integer_late", stages=2)
        offset_10 = register(m, self.mode == Accumulate.OFFSET, "offset_late", stages=10)
        m.d.comb += [
            dot.a.eq(self.a),
            dot.pairs.eq(self.pairs),
            dot.b.eq(self.b),
            dot.offset.eq(self.offset),
            term.dot.eq(dot.dot),
            term.sa.eq(self.sa),
            term.sb.eq(self.sb),
            term.integer.eq(integer_2),
            minimum_term.dot.eq(self.a_sum),
            minimum_term.sa.eq(self.sa),
            minimum_term.sb.eq(self.minimum),
            minimum_term.integer.eq(0),
            both.a.eq(term.q),
            both.b.eq(minimum_term.q),
            total.a.eq(self.acc),
            total.b.eq(Mux(offset_10, both.q, term.q)),
            total.integer.eq(register(m, integer_2, "integer_late", stages=5)),
            self.q.eq(total.q),
        ]
        return m


def matrix_step(
    mode: Accumulate,
    *,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    acc: npt.NDArray[np.uint32],
    offset: npt.ArrayLike = 0,
    sa: npt.ArrayLike = 1,
    sb: npt.ArrayLike = 1,
    minimum: npt.ArrayLike = 0,
) -> npt.NDArray[np.uint32]:
    """The new accumulators as patterns [...]; a, b integers [..., 32], scales float32 [...].

    offset: integers [...] that are added to the dot product.

    The step that `numerics.block_matmul` and `numerics.int_matmul` are loops of.
    """
    dot = dot32(a, b, offset)
    if mode == Accumulate.INTEGER:
        return (acc.astype(np.int64) + dot).astype(np.uint32)
    term = scale_dot(dot, sa, sb)
    if mode == Accumulate.OFFSET:
        term = numerics.add(term, scale_dot(sum32(a), sa, minimum))
    return numerics.add(acc.view(np.float32), term).view(np.uint32)


MATRIX_COLUMN = Primitive(
    name="matrix_column",
    compute=matrix_step,
    create=MatrixColumn,
    stages=COLUMN_STAGES[Accumulate.SCALED],
)
"""Multiply and tree 4, convert and scale 3, FP32 add 3 of MATRIX_FILL_CYCLES."""
