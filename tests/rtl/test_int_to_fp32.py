"""INT32 to FP32 equals `numerics.from_int`."""

import numpy as np

from mellivora import numerics
from mellivora.rtl.int_to_fp32 import INT_TO_FP32


def test_bits(rng, simulation, same_bits):
    near = (1 << np.arange(32))[:, None] + np.arange(-70, 71)  # ties of all widths among them
    corners = np.concatenate([near.reshape(-1), -near.reshape(-1), [-(2**31)]])
    wild = rng.integers(-(2**31), 2**31, 1_000_000) >> rng.integers(0, 31, 1_000_000)
    i = np.clip(np.concatenate([corners, wild]), -(2**31), 2**31 - 1)
    got = simulation(INT_TO_FP32).results(INT_TO_FP32.stages, i=i)["q"]
    same_bits(got, INT_TO_FP32.compute(i), i=i)


def test_cycles(simulation, changes_at):
    one, minus_two = (int(np.float32(x).view(np.uint32)) for x in (1, -2))
    sim = simulation(INT_TO_FP32)
    changes_at(sim, INT_TO_FP32.stages, {"i": 1}, {"i": -2}, "q", (one, minus_two))


def test_compute_is_the_simulators_function():
    assert INT_TO_FP32.compute is numerics.from_int
