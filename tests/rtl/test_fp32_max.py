"""The comparator equals `numerics.maximum`, and NumPy's >."""

import numpy as np

from mellivora import numerics
from mellivora.rtl.fp32_max import FP32_MAX

F32, U32 = np.float32, np.uint32


def test_bits(pairs, rng, simulation, same_bits):
    a, b = pairs
    b = np.where(rng.random(a.size) < 0.2, a ^ rng.integers(0, 3, a.size, U32), b)  # close ones
    got = simulation(FP32_MAX).results(FP32_MAX.stages, a=a, b=b)
    x, y = a.view(F32), b.view(F32)
    same_bits(got["q"], FP32_MAX.compute(x, y), a=a, b=b)
    with np.errstate(invalid="ignore"):
        same_bits(got["greater"], (x > y).astype(U32), a=a, b=b)


def test_cycles(simulation, changes_at):
    one, two, three = (int(F32(x).view(U32)) for x in (1, 2, 3))
    first, second = {"a": one, "b": two}, {"a": three, "b": two}
    sim = simulation(FP32_MAX)
    changes_at(sim, FP32_MAX.stages, first, second, "q", (two, three))
    changes_at(sim, FP32_MAX.stages, first, second, "greater", (0, 1))


def test_compute_is_the_simulators_function():
    assert FP32_MAX.compute is numerics.maximum
