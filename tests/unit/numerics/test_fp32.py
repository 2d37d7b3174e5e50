"""The fast FP32 operations equal the ones in Python integers; NumPy and ml_dtypes agree."""

import ml_dtypes
import numpy as np
import pytest

from mellivora.numerics import fp32

F32, U32 = np.float32, np.uint32
PAIRS = {
    "add": (fp32.add, fp32.add_bits),
    "mul": (fp32.mul, fp32.mul_bits),
    "max": (fp32.maximum, fp32.max_bits),
}


@pytest.mark.parametrize("name", PAIRS)
def test_fast_equals_integers_on_corners(name, corners):
    fast, meaning = PAIRS[name]
    a, b = (x.reshape(-1) for x in np.meshgrid(corners[::2], corners[1::3]))
    got = fast(a.view(F32), b.view(F32)).view(U32).tolist()
    assert got == [meaning(x, y) for x, y in zip(a.tolist(), b.tolist())]


@pytest.mark.parametrize("name", PAIRS)
def test_fast_equals_integers_near_cancellation(name, rng):
    fast, meaning = PAIRS[name]
    a = rng.integers(0, 2**32, 60_000, dtype=U32)
    near = a ^ U32(0x80000000) ^ rng.integers(0, 1 << 25, a.size, dtype=U32)
    b = np.where(rng.random(a.size) < 0.5, near, rng.integers(0, 2**32, a.size, dtype=U32))
    got = fast(a.view(F32), b.view(F32)).view(U32).tolist()
    assert got == [meaning(x, y) for x, y in zip(a.tolist(), b.tolist())]


@pytest.mark.nightly
@pytest.mark.parametrize("name", PAIRS)
def test_fast_equals_integers_on_millions(name, rng):
    for _ in range(20):
        test_fast_equals_integers_near_cancellation(name, rng)


def test_max_takes_the_second_of_two_zeros_and_any_nan():
    zeros = np.array([0.0, -0.0], F32)
    assert fp32.maximum(zeros, zeros[::-1]).view(U32).tolist() == [0x80000000, 0]
    assert fp32.maximum(np.nan, 1.0).view(U32) == fp32.maximum(1.0, -np.nan).view(U32) == 0x7FC00000


def test_from_int_rounds_once(rng):
    values = rng.integers(-(2**31), 2**31, 20_000) >> rng.integers(0, 31, 20_000)
    values = np.concatenate([values, [0, 1, -1, 2**24 + 1, 2**25 + 6, -(2**31), 2**31 - 1]])
    got = fp32.from_int(values).view(U32).tolist()
    assert got == [fp32.from_int_bits(int(v)) for v in values]


def test_narrowing_equals_integers_and_ml_dtypes(corners, rng):
    patterns = np.concatenate([corners, rng.integers(0, 2**32, 40_000, dtype=U32)])
    # f16's own range, where rounding and subnormals happen
    small = rng.integers(100 << 23, 145 << 23, 40_000, dtype=U32)
    patterns = np.concatenate([patterns, small])
    x = patterns.view(F32)
    assert fp32.to_f16(x).tolist() == [fp32.to_f16_bits(p) for p in patterns.tolist()]
    assert fp32.to_bf16(x).tolist() == [fp32.to_bf16_bits(p) for p in patterns.tolist()]
    number = ~np.isnan(x)
    theirs = np.where(number, x, F32(0)).astype(ml_dtypes.bfloat16).view(np.uint16)
    assert (fp32.to_bf16(x)[number] == theirs[number]).all()


def test_widening_is_exact_for_every_16_bit_pattern():
    every = np.arange(1 << 16, dtype=np.uint16)
    for widen, narrow, theirs in (
        (fp32.from_f16, fp32.to_f16, every.view(np.float16)),
        (fp32.from_bf16, fp32.to_bf16, every.view(ml_dtypes.bfloat16)),
    ):
        wide = widen(every)
        number = ~np.isnan(wide)
        assert (wide[number] == theirs.astype(F32)[number]).all()
        assert (narrow(wide)[number] == every[number]).all()
        assert (wide.view(U32)[~number] == 0x7FC00000).all()
