"""FP8: every pattern and every f16 value against ml_dtypes, save where a choice is stated."""

import ml_dtypes
import numpy as np
import pytest

from mellivora.numerics import from_fp8, to_fp8

CASES = [("e4m3", ml_dtypes.float8_e4m3fn, 448.0), ("e5m2", ml_dtypes.float8_e5m2, 57344.0)]


@pytest.mark.parametrize(("fmt", "dtype", "_largest"), CASES)
def test_every_pattern_widens_exactly_and_comes_back(fmt, dtype, _largest):
    every = np.arange(256, dtype=np.uint8)
    wide, theirs = from_fp8(every, fmt), every.view(dtype).astype(np.float32)
    nan = np.isnan(theirs)
    assert (wide[~nan].view(np.uint32) == theirs[~nan].view(np.uint32)).all()
    assert (wide[nan].view(np.uint32) == 0x7FC00000).all()
    assert (to_fp8(wide, fmt)[~nan] == every[~nan]).all()


@pytest.mark.parametrize(("fmt", "dtype", "largest"), CASES)
def test_every_f16_value_rounds_as_ml_dtypes_or_saturates(fmt, dtype, largest):
    x = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    x = x[np.isfinite(x)]
    got = to_fp8(x, fmt)
    theirs = np.clip(x, -largest, largest).astype(dtype).view(np.uint8)
    assert (got == theirs).all()


def test_stated_choices():
    x = np.array([1e9, -1e9, np.inf, -np.inf, np.nan], np.float32)
    assert to_fp8(x, "e4m3").tolist() == [0x7E, 0xFE, 0x7F, 0x7F, 0x7F]
    assert to_fp8(x, "e5m2").tolist() == [0x7B, 0xFB, 0x7C, 0xFC, 0x7F]
