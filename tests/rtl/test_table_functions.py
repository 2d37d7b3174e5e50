"""The table functions equal `numerics`, argument reduction and special values included."""

import numpy as np
import pytest

from mellivora import numerics
from mellivora.rtl import table_functions

F32, U32 = np.float32, np.uint32
PRIMITIVES = {
    "exp2": table_functions.EXP2,
    "log2": table_functions.LOG2,
    "recip": table_functions.RECIP,
    "rsqrt": table_functions.RSQRT,
    "sin_turns": table_functions.SIN_TURNS,
    "cos_turns": table_functions.COS_TURNS,
}
EACH = pytest.mark.parametrize("name", PRIMITIVES)


@EACH
def test_bits(name, singles, simulation, same_bits):
    function = PRIMITIVES[name]
    got = simulation(function).results(function.stages, x=singles)["q"]
    same_bits(got, function.compute(singles.view(F32)), x=singles)


@EACH
def test_bits_where_it_turns(name, rng, simulation, same_bits):
    """Near 0, the ends of exp2's range, 1 and 3/2 of log2, quarters of a turn."""
    function = PRIMITIVES[name]
    places = np.array([0, 0.25, 0.5, 0.75, 1, 1.5, 2, 10.5, 126, 127.5, 128, 149, 150, 200], F32)
    near = places.view(U32)[:, None].astype(np.int64) + np.arange(-2000, 2001)
    x = np.maximum(near, 0).astype(U32).reshape(-1)
    x = np.concatenate([x, x | U32(1 << 31)])
    got = simulation(function).results(function.stages, x=x)["q"]
    same_bits(got, function.compute(x.view(F32)), x=x)


@pytest.mark.nightly
@EACH
def test_bits_of_every_61st_pattern(name, simulation, same_bits):
    """70 million, all exponents; the step is a prime, so every low bit pattern is met."""
    function = PRIMITIVES[name]
    sim = simulation(function)
    every = np.arange(0, 1 << 32, 61, dtype=np.int64)
    for part in np.array_split(every, 64):
        x = part.astype(U32)
        same_bits(sim.results(function.stages, x=x)["q"], function.compute(x.view(F32)), x=x)


@EACH
def test_cycles(name, simulation, changes_at):
    function = PRIMITIVES[name]
    x, y = F32([0.125, 0.0625])
    before, after = (int(function.compute(one).view(U32)) for one in (x, y))
    first, second = ({"x": one.view(U32)} for one in (x, y))
    sim = simulation(function)
    changes_at(sim, function.stages, first, second, "q", (before, after))


@EACH
def test_compute_is_the_simulators_function(name):
    assert PRIMITIVES[name].compute is getattr(numerics, name)


def test_every_function_has_a_primitive():
    assert PRIMITIVES.keys() == table_functions.FUNCTIONS.keys()
