"""Host cosine and sine against 50 digits, and bits that no math library may change."""

from __future__ import annotations

import hashlib

import mpmath
import numpy as np

from mellivora.numerics import cos_sin, inverse_powers


def test_cos_sin_are_correctly_rounded_on_a_sample() -> None:
    """float64 within 2^-50 and one rounding: equal to the rounded truth but for near ties."""
    rng = np.random.default_rng(5)
    corners = [0.0, -0.0, 1e-30, 0.5, np.pi / 4, np.pi / 2, np.pi, 3.0, 1e5, 131071.0]
    angles = np.array([*corners, *rng.uniform(-2e4, 2e4, 4000)], np.float32)
    cosine, sine = cos_sin(angles)
    with mpmath.workdps(50):
        for got, function in ((cosine, mpmath.cos), (sine, mpmath.sin)):
            for angle, value in zip(angles, got, strict=True):
                truth = function(mpmath.mpf(float(angle)))
                # Half an ulp of float32, plus the stated error of the float64 value.
                bound = np.spacing(np.float32(abs(float(truth)))) / 2 + 2.0**-50
                assert abs(mpmath.mpf(float(value)) - truth) <= bound, (angle, value)


def test_inverse_powers_are_correctly_rounded() -> None:
    got = inverse_powers(10000.0, 32)
    with mpmath.workdps(50):
        exact = [mpmath.mpf(10000) ** (-mpmath.mpf(i) / 32) for i in range(32)]
    assert got.tolist() == [float(np.float32(float(e))) for e in exact]


def test_bits_are_the_same_on_every_host() -> None:
    """A constant: whatever CPU runs this, the table has these bits."""
    angle = np.arange(512, dtype=np.float32)[:, None] * inverse_powers(100000.0, 32)[None, :]
    digest = hashlib.sha256()
    for part in cos_sin(angle):
        digest.update(part.astype("<f4").tobytes())
    assert digest.hexdigest() == "69b829af5d14007424f16d7332d4d62b29aa80e02f0d457c8b197c39cca24623"
