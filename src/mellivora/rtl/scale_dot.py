"""An exact integer times an FP32 scale: conversion and multiplication of MATRIX in one."""

import numpy as np
import numpy.typing as npt
from amaranth.hdl import C, Cat, Module, Mux, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import numerics
from mellivora.rtl.fp32_fields import Fields, unpack
from mellivora.rtl.fp32_mul import multiply
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive

DOT_BITS = 23
"""32 products of 9-bit integers: from -2^21 + 2^13 to 2^21, which is 32 * -256 * -256."""


class ScaleDot(wiring.Component):
    """q = fl(float(dot) * scale) after 3 cycles.

    float(dot) is exact, so it need not be normalised first: the integer is a significand without
    its leading one, as a subnormal is, and takes the multiplier's way.
    """

    dot: In(signed(DOT_BITS))
    scale: In(32)
    q: Out(32)
    module_name = "scale_dot"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        negative = self.dot < 0
        size = wire(m, Mux(negative, -self.dot, self.dot)[: DOT_BITS - 1], "size")
        number = Fields(
            sign=negative,
            exponent=C(150, 8),  # significand * 2^0
            significand=Cat(size, C(0, 25 - DOT_BITS)),
            nan=C(0, 1),
            infinite=C(0, 1),
        )
        m.d.comb += self.q.eq(
            register(m, multiply(m, number, unpack(m, self.scale, "scale")), "q_out")
        )
        return m


def scale_dot(dot: npt.ArrayLike, scale: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """fl(float(dot) * scale), float32."""
    return numerics.mul(numerics.from_int(np.asarray(dot)), scale)


SCALE_DOT = Primitive(name="scale_dot", compute=scale_dot, create=ScaleDot, stages=3)
"""MATRIX, "convert and scale"."""
