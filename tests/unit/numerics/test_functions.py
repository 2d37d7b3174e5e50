"""Table functions: NumPy form equal to Python integers; errors below 1 ulp; special values.

The short sweeps here take every 61st significand (a prime stride) of a few binades; the `nightly`
ones take all of them. float64 is good enough a judge: its own error is below 2^-27 ulp of FP32.
"""

import hashlib

import numpy as np
import pytest

from mellivora.numerics import functions
from mellivora.numerics.function_tables import table

F32, U32 = np.float32, np.uint32
NAN, INF, SIGN = 0x7FC00000, 0x7F800000, 0x80000000
NAMES = ("exp2", "log2", "recip", "rsqrt", "sin_turns", "cos_turns")


def sine(x):
    r = x - np.rint(x)
    size = np.abs(r)
    return np.copysign(np.sin(2 * np.pi * np.where(size > 0.25, 0.5 - size, size)), r)


def cosine(x):
    size = np.abs(x - np.rint(x))
    near_zero = np.abs(size - 0.25) < 0.125
    return np.where(near_zero, np.sin(2 * np.pi * (0.25 - size)), np.cos(2 * np.pi * size))


# name: (float64 form, exponent fields to sweep, with negative arguments, largest error in ulp)
SWEEPS = {
    "exp2": (np.exp2, (105, 118, *range(120, 134)), True, 0.71),
    "log2": (np.log2, (0, 1, 64, 124, 125, 126, 127, 128, 129, 254), False, 0.58),
    "recip": (lambda x: 1 / x, (0, 1, 127, 252, 253, 254), True, 0.78),
    "rsqrt": (lambda x: 1 / np.sqrt(x), (0, 1, 127, 128, 253, 254), False, 0.62),
    "sin_turns": (sine, (0, 1, 60, *range(110, 130), 149, 150), True, 0.60),
    "cos_turns": (cosine, (0, 1, 60, *range(110, 130), 149, 150), True, 0.72),
}


def worst_ulp(name: str, stride: int) -> float:
    """Largest |error| in units of the last place of the true result, over the sweep."""
    form, fields, negative, _ = SWEEPS[name]
    worst = 0.0
    for field in fields:
        for sign in (0, SIGN) if negative else (0,):
            fraction = np.arange(0, 1 << 23, stride, dtype=U32)
            x = (fraction + U32(sign | field << 23)).view(F32)
            x = x[x != 0]
            true = form(x.astype(np.float64))
            got = getattr(functions, name)(x)
            # Beyond the largest finite number by half a unit, the answer is an infinity.
            over = np.abs(true) >= 2.0**128 - 2.0**103
            assert np.isinf(got[over]).all()
            # Results below half the smallest subnormal may be 0; one last place there is 2^-149.
            unit = np.ldexp(1.0, np.maximum(np.frexp(true)[1] - 24, -149))
            error = np.abs(got.astype(np.float64) - true)[~over] / unit[~over]
            worst = max(worst, float(error.max(initial=0)))
    return worst


@pytest.mark.parametrize("name", NAMES)
@np.errstate(all="ignore")
def test_error_is_below_one_ulp_stratified(name):
    assert worst_ulp(name, 61) <= SWEEPS[name][3]


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
@np.errstate(all="ignore")
def test_error_is_below_one_ulp_exhaustive(name):
    assert worst_ulp(name, 1) <= SWEEPS[name][3]


@pytest.mark.parametrize("name", NAMES)
def test_numpy_form_equals_python_integers(name, corners, rng):
    anything = rng.integers(0, 2**32, 4_000, dtype=U32)
    useful = rng.integers(90 << 23, 140 << 23, 8_000, dtype=U32)
    useful |= rng.integers(0, 2, useful.size, dtype=U32) << U32(31)
    patterns = np.concatenate([corners, anything, useful])
    meaning = getattr(functions, name + "_bits")
    got = getattr(functions, name)(patterns.view(F32)).view(U32).tolist()
    assert got == [meaning(p) for p in patterns.tolist()]


@pytest.mark.parametrize(
    ("name", "x", "wanted"),
    [
        ("exp2", [0, SIGN, INF, INF | SIGN], [0x3F800000, 0x3F800000, INF, 0]),
        ("log2", [0, SIGN, 0x3F800000, INF, 0xBF800000, INF | SIGN],
         [INF | SIGN, INF | SIGN, 0, INF, NAN, NAN]),
        ("recip", [0, SIGN, INF, INF | SIGN, 0x7F000000, 1],
         [INF, INF | SIGN, 0, SIGN, 0x400000, INF]),
        ("rsqrt", [0, SIGN, INF, INF | SIGN, 0x80000001], [INF, INF | SIGN, 0, NAN, NAN]),
        ("sin_turns", [0, SIGN, INF, 0x3F800000, 0xBF000000, 0x3E800000],
         [0, SIGN, NAN, 0, SIGN, 0x3F800000]),
        ("cos_turns", [0, SIGN, INF, 0x3E800000, 0x3F000000],
         [0x3F800000, 0x3F800000, NAN, 0, 0xBF800000]),
    ],
)  # fmt: skip
def test_special_values(name, x, wanted):
    nans = [NAN, NAN | SIGN, 0x7F800001]
    got = getattr(functions, name)(np.array([*x, *nans], U32).view(F32)).view(U32).tolist()
    assert got == [*wanted, NAN, NAN, NAN]


def test_powers_of_two_are_exact():
    n = np.arange(-160, 140)
    with np.errstate(over="ignore"):
        power = np.ldexp(1.0, n).astype(F32)
    assert functions.exp2(n.astype(F32)).tobytes() == power.tobytes()
    kept = (n >= -149) & (n < 128)
    assert (functions.log2(power[kept]) == n[kept]).all()
    assert (
        functions.rsqrt(power[kept & (n % 2 == 0)]) == 2.0 ** (-n[kept & (n % 2 == 0)] / 2)
    ).all()
    normal = (n >= -126) & (n < 127)
    assert (functions.recip(power[normal]) == 2.0 ** -n[normal]).all()


def test_tables_are_the_same_on_every_machine():
    text = functions.cpp_tables()
    assert (
        hashlib.sha256(text.encode()).hexdigest()
        == "de8c7c5f0a66b96a12c540b7c07576bc27c47403d27f7d1b4b46031e49c95944"
    )


def test_tables_fit_the_stated_widths():
    for name in ("exp2", "log2", "recip", "rsqrt", "sin"):
        c0, c1, c2, _ = table(name)
        assert c0.min() >= 0
        assert np.abs(c1.astype(np.int64)).max() < 1 << 24
        assert np.abs(c2.astype(np.int64)).max() < 1 << 16
