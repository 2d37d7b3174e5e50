"""The reduction tree: NumPy form against lists of patterns, and facts that define it."""

import numpy as np
import pytest

from mellivora.numerics import fp32, reduce

F32, U32 = np.float32, np.uint32
LENGTHS = (0, 1, 2, 31, 32, 33, 63, 64, 65, 96, 97, 127, 129, 160, 576, 1021)


@pytest.mark.parametrize("cols", LENGTHS)
def test_equals_the_tree_on_patterns(cols, rng, corners):
    x = rng.standard_normal((3, cols)).astype(F32)
    x[2] = rng.choice(corners, cols).view(F32)
    for fast, op, identity in (
        (reduce.tree_sum, fp32.add_bits, 0x80000000),
        (reduce.tree_max, fp32.max_bits, 0xFF800000),
    ):
        wanted = [reduce.tree_bits(row.view(U32).tolist(), op, identity) for row in x]
        assert fast(x).view(U32).tolist() == wanted
    squares = fp32.mul(x, x)
    assert reduce.tree_sumsq(x).tobytes() == reduce.tree_sum(squares).tobytes()


def test_order_is_the_defined_one():
    x = np.zeros(64, F32)
    x[0], x[16], x[1] = 2.0**24, 1.0, 1.0
    # 2^24 + 1 rounds back to 2^24 (ties to even), twice; 1 + 1 first would have given 2^24 + 2.
    assert reduce.tree_sum(x) == 2.0**24
    x[0], x[16], x[1], x[17] = 2.0**24, 0.0, 1.0, 1.0
    assert reduce.tree_sum(x) == 2.0**24 + 2


def test_padding_changes_no_bit():
    assert np.signbit(reduce.tree_sum(np.array([-0.0], F32)))
    assert not np.signbit(reduce.tree_sum(np.array([0.0, -0.0], F32)))
    assert reduce.tree_max(np.full(33, -np.inf, F32)) == -np.inf


def test_leading_axes():
    x = np.arange(2 * 3 * 40, dtype=F32).reshape(2, 3, 40)
    assert (reduce.tree_sum(x) == x.sum(axis=-1)).all()  # small integers: any order is exact
    assert (reduce.tree_max(x) == x.max(axis=-1)).all()
