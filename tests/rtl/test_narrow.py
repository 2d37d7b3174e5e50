"""FP32 to binary16, bfloat16 and INT8 equals `numerics`."""

import numpy as np
import pytest

from mellivora import numerics
from mellivora.rtl.narrow import TO_BF16, TO_F16, TO_INT8

F32, U32 = np.float32, np.uint32
EACH = pytest.mark.parametrize("target", [TO_F16, TO_BF16, TO_INT8], ids=lambda p: p.name)


def patterns(target, x):
    """What the function gives, as the port shows it."""
    y = target.compute(x.view(F32))
    return y.view(np.uint8).astype(U32) if y.dtype == np.int8 else y.astype(U32)


@EACH
def test_bits(target, singles, rng, simulation, same_bits):
    ties = rng.integers(-600, 601, 200_000) / 2  # halves around INT8's ends
    small = np.ldexp(rng.integers(-(1 << 13), 1 << 13, 200_000), -26)  # ties of f16's subnormals
    x = np.concatenate([singles, ties.astype(F32).view(U32), small.astype(F32).view(U32)])
    got = simulation(target).results(target.stages, x=x)["q"]
    same_bits(got, patterns(target, x), x=x)


@EACH
def test_cycles(target, simulation, changes_at):
    x = np.array([3, 5], F32).view(U32)
    before, after = patterns(target, x).tolist()
    sim = simulation(target)
    changes_at(sim, target.stages, {"x": x[0]}, {"x": x[1]}, "q", (before, after))


def test_compute_is_the_simulators_function():
    assert TO_F16.compute is numerics.f32_to_f16_bits
    assert TO_BF16.compute is numerics.f32_to_bf16_bits
    assert TO_INT8.compute is numerics.f32_to_int8
