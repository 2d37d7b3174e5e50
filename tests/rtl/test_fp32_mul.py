"""The FP32 multiplier equals `numerics.mul`."""

import numpy as np

from mellivora import numerics
from mellivora.rtl.fp32_mul import FP32_MUL

F32, U32 = np.float32, np.uint32


def test_bits(pairs, simulation, same_bits):
    a, b = pairs
    got = simulation(FP32_MUL).results(FP32_MUL.stages, a=a, b=b)["q"]
    same_bits(got, FP32_MUL.compute(a.view(F32), b.view(F32)), a=a, b=b)


def test_bits_around_the_subnormals(rng, simulation, same_bits):
    """Random products rarely end below 2^-126; here all do, or nearly."""
    a = rng.integers(0, 2**32, 500_000, dtype=U32)
    field = np.clip(rng.integers(90, 135, a.size) - (a >> 23 & 255).astype(int), 0, 254)
    b = (field << 23 | rng.integers(0, 1 << 23, a.size)).astype(U32)
    got = simulation(FP32_MUL).results(FP32_MUL.stages, a=a, b=b)["q"]
    expected = FP32_MUL.compute(a.view(F32), b.view(F32))
    assert np.mean((np.abs(expected) < 2.0**-126) & (expected != 0)) > 0.2
    same_bits(got, expected, a=a, b=b)


def test_cycles(simulation, changes_at):
    two, three, four, six = (int(F32(x).view(U32)) for x in (2, 3, 4, 6))
    first, second = {"a": two, "b": two}, {"a": two, "b": three}
    changes_at(simulation(FP32_MUL), FP32_MUL.stages, first, second, "q", (four, six))


def test_compute_is_the_simulators_function():
    assert FP32_MUL.compute is numerics.mul
