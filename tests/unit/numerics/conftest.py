"""FP32 patterns to try everything on: a corner lattice and random ones of all magnitudes."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def corners() -> np.ndarray:
    """uint32 patterns: each exponent's neighbourhood, a few fractions, both signs, NaNs."""
    fields = np.array([0, 1, 2, 23, 24, 64, 102, 103, 104, 112, 113, 118, 125, 126, 127, 128, 129])
    fields = np.concatenate([fields, [142, 143, 150, 151, 191, 230, 252, 253, 254, 255]])
    fractions = np.array([0, 1, 2, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0x3FFFFF])
    fractions = np.concatenate([fractions, [0x400000, 0x400001, 0x7FEFFF, 0x7FFFFE, 0x7FFFFF]])
    lattice = (fields[:, None] << 23 | fractions).reshape(-1).astype(np.uint32)
    return np.concatenate([lattice, lattice | np.uint32(0x80000000)])


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_250_101)
