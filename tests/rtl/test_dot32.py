"""The dot product and the sum of 32 codes are exact."""

import numpy as np
import pytest

from mellivora.rtl.dot32 import CODE_BITS, DOT32, PAIR_BITS, SUM32, SUM_BITS, pair_sums
from mellivora.rtl.scale_dot import DOT_BITS
from mellivora.rtl.simulate import pack

LOW, HIGH = -(1 << CODE_BITS - 1), (1 << CODE_BITS - 1) - 1


def signed(words, bits):
    """What a signed port shows, as integers."""
    return (words.astype(np.int64) ^ 1 << bits - 1) - (1 << bits - 1)


@pytest.fixture
def codes(rng):
    """a, b: integers [blocks, 32]; the extremes with the extremes first."""
    extremes = np.array([LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH])
    x, y = (np.repeat(e.reshape(-1, 1), 32, axis=1) for e in np.meshgrid(extremes, extremes))
    wild = rng.integers(LOW, HIGH + 1, (2, 1 << 18, 32))
    one = np.eye(32, dtype=int)  # every place counts once
    return np.concatenate([x, one, wild[0]]), np.concatenate([y, LOW * one, wild[1]])


def test_dot_bits(codes, simulation, same_bits):
    """2^18 blocks: 8 million products."""
    a, b = codes
    operands = {"a": pack(a, CODE_BITS), "b": pack(b, CODE_BITS)}
    operands["pairs"] = pack(pair_sums(a), PAIR_BITS)
    got = simulation(DOT32).results(DOT32.stages, **operands)["dot"]
    same_bits(signed(got, DOT_BITS), DOT32.compute(a, b))


def test_sum_bits(codes, simulation, same_bits):
    a, _ = codes
    got = simulation(SUM32).results(SUM32.stages, a=pack(a, CODE_BITS))["total"]
    same_bits(signed(got, SUM_BITS), SUM32.compute(a))


def test_cycles(simulation, changes_at):
    ones, twos = (pack(np.full((1, 32), n), CODE_BITS)[0] for n in (1, 2))
    pairs = pack(np.full((1, 16), 2), PAIR_BITS)[0]
    first = {"a": ones, "b": ones, "pairs": pairs}
    second = first | {"b": twos}
    changes_at(simulation(DOT32), DOT32.stages, first, second, "dot", (32, 64))
    sim = simulation(SUM32)
    changes_at(sim, SUM32.stages, {"a": ones}, {"a": twos}, "total", (32, 64))
