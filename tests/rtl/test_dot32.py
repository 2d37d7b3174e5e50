"""The dot product and the sum of 32 codes are exact."""

import numpy as np
import pytest

from mellivora.rtl.dot32 import (
    B_BITS,
    CODE_BITS,
    DOT32,
    FACTOR_BITS,
    OFFSET_STAGE,
    PAIR_BITS,
    SUM32,
    SUM_BITS,
    pair_sums,
)
from mellivora.rtl.scale_dot import DOT_BITS
from mellivora.rtl.simulate import pack

LOW, HIGH = -(1 << CODE_BITS - 1), (1 << CODE_BITS - 1) - 1


def signed(words, bits):
    """What a signed port shows, as integers."""
    return (words.astype(np.int64) ^ 1 << bits - 1) - (1 << bits - 1)


def extremes(bits):
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    return np.array([low, low + 1, -1, 0, 1, high - 1, high])


@pytest.fixture
def codes(rng):
    """a, b: integers [blocks, 32]; the extremes with the extremes first."""
    x, y = np.meshgrid(extremes(CODE_BITS), extremes(B_BITS))
    x, y = (np.repeat(e.reshape(-1, 1), 32, axis=1) for e in (x, y))
    count, top = 1 << 18, 1 << B_BITS - 1
    a, b = rng.integers(LOW, HIGH + 1, (count, 32)), rng.integers(-top, top, (count, 32))
    one = np.eye(32, dtype=int)  # every place counts once
    return np.concatenate([x, one, a]), np.concatenate([y, -top * one, b])


def test_dot_bits(codes, simulation, same_bits, rng):
    """2^18 blocks: 8 million products; with each an offset that 128 or a zero point gives."""
    a, b = codes
    offset = a.sum(axis=1) * rng.choice([0, 128, 255, -255], len(a))
    operands = {"a": pack(a, CODE_BITS), "b": pack(b, B_BITS), "offset": offset}
    operands["pairs"] = pack(pair_sums(a), PAIR_BITS)
    late = {"offset": OFFSET_STAGE}
    got = simulation(DOT32).results(DOT32.stages, late=late, **operands)["dot"]
    same_bits(signed(got, DOT_BITS), DOT32.compute(a, b, offset))


def test_sum_bits(codes, simulation, same_bits, rng):
    """Zero points of a's bytes; 128 and any zero point of 9 bits off each b: the greatest offset
    needs all of its bits."""
    a, _ = codes
    zero = np.zeros(len(a), int)
    a[len(a) // 2 :] &= 255  # unsigned bytes
    zero[len(a) // 2 :] = rng.integers(0, 256, len(a) - len(a) // 2)
    factor = rng.integers(-255, 128 + 256 + 1, len(a))
    factor[:2] = 128 + 256
    out = simulation(SUM32).results(
        SUM32.stages, late={"factor": 1}, a=pack(a, CODE_BITS), zero=zero, factor=factor
    )
    expected = SUM32.compute(a, zero)
    same_bits(signed(out["total"], SUM_BITS), expected)
    same_bits(signed(out["offset"], DOT_BITS), expected * factor)
    assert factor.max() < 1 << FACTOR_BITS - 1


def test_cycles(simulation, changes_at):
    ones, twos = (pack(np.full((1, 32), n), CODE_BITS)[0] for n in (1, 2))
    b_ones, b_twos = (pack(np.full((1, 32), n), B_BITS)[0] for n in (1, 2))
    pairs = pack(np.full((1, 16), 2), PAIR_BITS)[0]
    first = {"a": ones, "b": b_ones, "pairs": pairs, "offset": 0}
    for change, after in (({"b": b_twos}, 64), ({"offset": 5}, 37)):
        late = {"offset": OFFSET_STAGE}
        pair = (32, after)
        changes_at(simulation(DOT32), DOT32.stages, first, first | change, "dot", pair, late)
    sim, first = simulation(SUM32), {"a": ones, "zero": 0, "factor": 1}
    changes_at(sim, SUM32.stages, first, first | {"a": twos}, "total", (32, 64))
    late = {"factor": 1}
    changes_at(sim, SUM32.stages, first, first | {"factor": 2}, "offset", (32, 64), late)
