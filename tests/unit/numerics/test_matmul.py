"""MATRIX: the NumPy form against Python integers, and accuracy against float64."""

import numpy as np
import pytest

from mellivora.errors import IsaError
from mellivora.numerics import block_matmul, int_matmul, passes, quantize
from mellivora.numerics.matmul import block_dot_bits

F32, U32 = np.float32, np.uint32
WEIGHTS = ("mxint8", "x2", "x3", "mxfp6", "mxfp4", "q8_0", "q4_0", "q4_1")


def test_passes():
    assert passes(1, 1) == [(0, 0)]
    assert passes(2, 1) == [(0, 0), (1, 0)]
    assert passes(3, 1) == [(0, 0), (1, 0), (2, 0)]
    # Where both sides are sliced, the first order that could be dropped is kept: see `passes`.
    assert passes(2, 2) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    by_weight = [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0), (1, 2), (2, 1)]
    assert passes(3, 3) == by_weight


@pytest.mark.parametrize("activations", ["mxint8", "x2", "x3"])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_equals_python_integers(activations, weights, rng):
    spread = np.exp(rng.normal(size=(1, 96)) * 4)
    a = quantize(rng.standard_normal((3, 96)) * spread, activations)
    b = quantize(rng.standard_normal((4, 96)), weights)
    start = rng.standard_normal((3, 4)).astype(F32)
    got = block_matmul(a, b, acc=start).view(U32)
    for i in range(3):
        for j in range(4):
            first = int(start[i, j].view(U32))
            assert int(got[i, j]) == block_dot_bits(a, b, i, j, first)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_subnormal_scales_huge_scales_and_nan(weights, rng):
    x = rng.standard_normal((4, 64)).astype(F32)
    x[0] *= F32(2.0**-130)
    x[1] *= F32(2.0**120)
    x[2, 40] = np.nan
    x[3, :32] = 0
    w = rng.standard_normal((3, 64)).astype(F32)
    w[1] *= F32(2.0**-20)
    a, b = quantize(x, "x2"), quantize(w, weights)
    got = block_matmul(a, b).view(U32)
    for i in range(4):
        assert [int(v) for v in got[i]] == [block_dot_bits(a, b, i, j) for j in range(3)]
    assert (got[2] == 0x7FC00000).all()


def test_error_of_three_slices_is_bounded_by_the_passes_left_out(rng):
    a, b = rng.standard_normal((8, 512)).astype(F32), rng.standard_normal((8, 512)).astype(F32)
    true = a.astype(np.float64) @ b.astype(np.float64).T
    error = np.abs(block_matmul(quantize(a, "x3"), quantize(b, "x3")) - true).max()
    # Left out: passes (1, 2), (2, 1), (2, 2): at most 2.01 * 2^16 * 2^-36 of the scales' product
    # for each of 512 products (scales at most 2^2 for |x| < 8: 2^4); lower slices are unsigned, so
    # these do not cancel. Then 96 FP32 additions on sums below 128, each within 2^-18.
    assert error < 512 * 2.01 * 2.0**-20 * 2.0**4 + 96 * 2.0**-18


@pytest.mark.parametrize("left", ["int8", "uint8", "int4"])
@pytest.mark.parametrize("right", ["int8", "uint8", "int4"])
def test_plain_integers(left, right, rng):
    a, b = quantize(rng.standard_normal((3, 70)), left), quantize(rng.random((4, 70)), right)
    wanted = a.integers().astype(np.int64) @ b.integers().astype(np.int64).T
    assert (int_matmul(a, b) == wanted).all()
    high = np.full((3, 4), 2**31 - 1, np.int32)
    wrapped = (wanted + 2**31 - 1 + 2**31) % 2**32 - 2**31
    assert (int_matmul(a, b, acc=high) == wrapped).all()


def test_refusals(rng):
    x, q = quantize(np.ones((1, 32)), "x2"), quantize(np.ones((1, 32)), "q4_1")
    i = quantize(np.ones((1, 32)), "int8")
    for code, action in (
        ("MV0689", lambda: block_matmul(x, quantize(np.ones((1, 64)), "x2"))),
        ("MV0690", lambda: block_matmul(q, x)),
        ("MV0690", lambda: block_matmul(x, i)),
        ("MV0690", lambda: int_matmul(x, i)),
    ):
        with pytest.raises(IsaError) as caught:
            action()
        assert caught.value.code == code
