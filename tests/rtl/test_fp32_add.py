"""The FP32 adder, in 3 stages and in 2, equals `numerics.add`."""

import numpy as np
import pytest

from mellivora import numerics
from mellivora.rtl.fp32_add import FP32_ADD, FP32_ADD_2

BOTH = pytest.mark.parametrize("adder", [FP32_ADD, FP32_ADD_2], ids=lambda p: p.name)


@BOTH
def test_bits(adder, pairs, simulation, same_bits):
    a, b = pairs
    got = simulation(adder).results(adder.stages, a=a, b=b)["q"]
    same_bits(got, adder.compute(a.view(np.float32), b.view(np.float32)), a=a, b=b)


@BOTH
def test_cycles(adder, simulation, changes_at):
    one, two, three, five = (np.float32(x).view(np.uint32) for x in (1, 2, 3, 5))
    first, second = {"a": one, "b": two}, {"a": two, "b": three}
    changes_at(simulation(adder), adder.stages, first, second, "q", (int(three), int(five)))


@BOTH
def test_compute_is_the_simulators_function(adder):
    assert adder.compute is numerics.add
