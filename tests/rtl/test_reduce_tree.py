"""The tree of a chunk equals `numerics.tree_sum` and `tree_max`."""

import numpy as np
import pytest

from mellivora import numerics
from mellivora.rtl.reduce_tree import REDUCE_MAX, REDUCE_SUM

F32, U32 = np.float32, np.uint32
EACH = pytest.mark.parametrize("tree", [REDUCE_SUM, REDUCE_MAX], ids=["sum", "max"])


def chunks_of(count, corners, rng):
    """uint32 [count, 32]: everyday numbers, wild ones, corners, and rows that end early."""
    x = rng.standard_normal((count, 32)).astype(F32).view(U32)
    x[::3] = rng.integers(0, 2**32, (len(x[::3]), 32), dtype=U32) & U32(0xBFFFFFFF)
    x[1::9] = rng.choice(corners, (len(x[1::9]), 32))
    return x


def check(tree, x, simulation, same_bits):
    take_max = int(tree is REDUCE_MAX)
    got = simulation(tree).results(tree.stages, x=x, take_max=take_max)["q"]
    same_bits(got, tree.compute(x.view(F32)))


@EACH
def test_bits(tree, corners, rng, simulation, same_bits):
    """A million operands."""
    check(tree, chunks_of(1 << 15, corners, rng), simulation, same_bits)


@pytest.mark.nightly
@EACH
def test_bits_of_a_million_chunks(tree, corners, rng, simulation, same_bits):
    for _ in range(32):
        check(tree, chunks_of(1 << 15, corners, rng), simulation, same_bits)


@EACH
def test_short_rows_are_padded_with_the_identity(tree, rng, simulation, same_bits):
    identity = F32(-np.inf) if tree is REDUCE_MAX else F32(-0.0)
    rows = [rng.standard_normal(n).astype(F32) for n in range(32)] + [np.full(3, -0.0, F32)]
    padded = np.full((len(rows), 32), identity, F32)
    for place, row in zip(padded, rows):
        place[: len(row)] = row
    take_max = int(tree is REDUCE_MAX)
    sim = simulation(tree)
    got = sim.results(tree.stages, x=padded.view(U32), take_max=take_max)["q"]
    same_bits(got, np.array([tree.compute(row) for row in rows]))


@EACH
def test_cycles(tree, simulation, changes_at):
    x = np.array([np.ones(32), np.full(32, 2)], F32)
    before, after = tree.compute(x).view(U32).tolist()
    take_max = int(tree is REDUCE_MAX)
    first, second = ({"x": row.view(U32), "take_max": take_max} for row in x)
    sim = simulation(tree)
    changes_at(sim, tree.stages, first, second, "q", (before, after))


def test_sum_and_maximum_may_follow_each_other(rng, simulation, same_bits):
    x = rng.standard_normal((1000, 32)).astype(F32)
    take_max = rng.integers(0, 2, 1000)
    sim = simulation(REDUCE_SUM)
    got = sim.results(REDUCE_SUM.stages, x=x.view(U32), take_max=take_max)["q"]
    same_bits(got, np.where(take_max == 1, REDUCE_MAX.compute(x), REDUCE_SUM.compute(x)))


def test_compute_is_the_simulators_function():
    assert (REDUCE_SUM.compute, REDUCE_MAX.compute) == (numerics.tree_sum, numerics.tree_max)
