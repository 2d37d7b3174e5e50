"""float(dot) * scale equals `numerics`, with every kind of scale."""

import numpy as np

from mellivora import numerics
from mellivora.rtl.scale_dot import DOT_BITS, SCALE_DOT

F32, U32 = np.float32, np.uint32


def test_bits(corners, rng, simulation, same_bits):
    dots = np.array([0, 1, -1, 2, 3, 127 * 127 * 32, -(2**21) + 2**13, 2**21, 2**21 - 1])
    a, b = (x.reshape(-1) for x in np.meshgrid(dots, corners))
    wild = rng.integers(-(2**21), 2**21 + 1, 1_000_000) >> rng.integers(0, 21, 1_000_000)
    scale = rng.integers(0, 2**32, wild.size, dtype=U32)
    scale[::4] &= 0x80FFFFFF  # a quarter so small that the product may be subnormal
    dot, scale = np.concatenate([a, wild]), np.concatenate([b, scale])
    got = simulation(SCALE_DOT).results(SCALE_DOT.stages, dot=dot, scale=scale)["q"]
    same_bits(got, SCALE_DOT.compute(dot, scale.view(F32)), dot=dot, scale=scale)


def test_the_widest_dot_fits():
    widest = 32 * 256 * 256
    assert widest.bit_length() + 1 == DOT_BITS
    assert numerics.from_int(2**21) == 2.0**21  # all are exact in FP32: one rounding is enough


def test_cycles(simulation, changes_at):
    half, three, six = (int(F32(x).view(U32)) for x in (0.5, 3, 6))
    first, second = {"dot": 6, "scale": half}, {"dot": 12, "scale": half}
    sim = simulation(SCALE_DOT)
    changes_at(sim, SCALE_DOT.stages, first, second, "q", (three, six))
