"""One column of MATRIX: a 32-block of one row of A times one column of B, into its accumulator."""

from enum import IntEnum

import numpy as np
import numpy.typing as npt
from amaranth.hdl import Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.rtl.dot32 import CODES, SUM_BITS, Dot32, dot32, sum32
from mellivora.rtl.fp32_add import Fp32Add
from mellivora.rtl.fp32_mul import Fp32Mul
from mellivora.rtl.pipeline import register
from mellivora.rtl.primitive import Primitive
from mellivora.rtl.scale_dot import ScaleDot, scale_dot
from mellivora.rtl.sharing import share


class Accumulate(IntEnum):
    """What a step adds."""

    SCALED = 0  # acc + float(dot) * (sa * sb)
    OFFSET = 1  # acc + (float(dot) * (sa * sb) + float(sum of a) * (sa * minimum)), Q4_1
    INTEGER = 2  # acc + dot, INT32 that wraps


SUM_STAGE = 4
"""`a_sum` is due so many cycles after the codes, when a `Sum32` beside the columns has it."""
ACC_STAGE = {Accumulate.SCALED: 7, Accumulate.INTEGER: 7, Accumulate.OFFSET: 10}
"""`acc` is due so many cycles after the codes."""
COLUMN_STAGES = {mode: stage + 3 for mode, stage in ACC_STAGE.items()}


class MatrixColumn(wiring.Component):
    """q, COLUMN_STAGES[mode] cycles after the codes: the new accumulator.

    Dot32 4, ScaleDot 3, Fp32Add 3; the two parts of an OFFSET step are added first, 3 cycles more.
    A step each cycle. After an OFFSET step the next three must not be of another mode: they would
    meet it at the accumulator. Idle cycles have mode SCALED, and a q that nobody takes.
    """

    mode: In(2)
    a: In(CODES)
    b: In(CODES)
    sa: In(32)
    sb: In(32)
    minimum: In(32)
    a_sum: In(signed(SUM_BITS))
    acc: In(32)
    q: Out(32)
    module_name = "matrix_column"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        dot, scale, minimum_scale = Dot32(), Fp32Mul(), Fp32Mul()
        term, minimum_term, both, total = ScaleDot(), ScaleDot(), Fp32Add(), Fp32Add()
        m.submodules.dot_product = share(dot)
        m.submodules.scale_product, m.submodules.minimum_product = (
            share(scale),
            share(minimum_scale),
        )
        m.submodules.scale_term, m.submodules.scale_minimum = share(term), share(minimum_term)
        m.submodules.join, m.submodules.accumulator = share(both), share(total)

        def late(mode: Accumulate, stages: int) -> object:
            return register(m, self.mode == mode, f"{mode.name.lower()}_late", stages=stages)

        m.d.comb += [
            dot.a.eq(self.a),
            dot.b.eq(self.b),
            scale.a.eq(self.sa),
            scale.b.eq(self.sb),
            minimum_scale.a.eq(self.sa),
            minimum_scale.b.eq(self.minimum),
            term.dot.eq(dot.dot),
            term.scale.eq(register(m, scale.q, "scale_4")),
            minimum_term.dot.eq(self.a_sum),
            minimum_term.scale.eq(register(m, minimum_scale.q, "minimum_scale_4")),
            both.a.eq(term.q),
            both.b.eq(minimum_term.q),
            total.a.eq(self.acc),
            total.b.eq(Mux(late(Accumulate.OFFSET, 10), both.q, term.q)),
        ]
        integer = register(m, dot.dot, "dot_7", stages=3) + self.acc
        integer_10 = register(m, integer[:32], "integer", stages=3)
        m.d.comb += self.q.eq(Mux(late(Accumulate.INTEGER, 10), integer_10, total.q))
        return m


def matrix_step(
    mode: Accumulate,
    *,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    acc: npt.NDArray[np.uint32],
    sa: npt.ArrayLike = 1,
    sb: npt.ArrayLike = 1,
    minimum: npt.ArrayLike = 0,
) -> npt.NDArray[np.uint32]:
    """The new accumulators as patterns [...]; a, b integers [..., 32], scales float32 [...].

    The step that `numerics.block_matmul` and `numerics.int_matmul` are loops of.
    """
    dot = dot32(a, b)
    if mode == Accumulate.INTEGER:
        return (acc.astype(np.int64) + dot).astype(np.uint32)
    term = scale_dot(dot, numerics.mul(sa, sb))
    if mode == Accumulate.OFFSET:
        term = numerics.add(term, scale_dot(sum32(a), numerics.mul(sa, minimum)))
    return numerics.add(acc.view(np.float32), term).view(np.uint32)


MATRIX_COLUMN = Primitive(
    name="matrix_column",
    compute=matrix_step,
    create=MatrixColumn,
    stages=COLUMN_STAGES[Accumulate.SCALED],
)
"""Multiply and tree 4, convert and scale 3, FP32 add 3 of MATRIX_FILL_CYCLES."""
