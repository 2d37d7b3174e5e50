"""binary16 and bfloat16 to FP32: every pattern."""

import numpy as np
import pytest

from mellivora import numerics
from mellivora.rtl.widen import FROM_BF16, FROM_F16

EACH = pytest.mark.parametrize("source", [FROM_F16, FROM_BF16], ids=lambda p: p.name)


@EACH
def test_all_patterns(source, simulation, same_bits):
    x = np.arange(1 << 16)
    got = simulation(source).results(source.stages, x=x)["q"]
    same_bits(got, source.compute(x), x=x)


@EACH
def test_cycles(source, simulation, changes_at):
    before, after = source.compute(np.array([0x3C00, 0x4000])).view(np.uint32).tolist()
    sim = simulation(source)
    changes_at(sim, source.stages, {"x": 0x3C00}, {"x": 0x4000}, "q", (before, after))


def test_compute_is_the_simulators_function():
    assert (FROM_F16.compute, FROM_BF16.compute) == (numerics.from_f16, numerics.from_bf16)
