"""What every component is tried on: a lattice of corners and random patterns, a million rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from mellivora.rtl import Primitive
from mellivora.rtl.simulate import Simulation, build

ROWS = 1_000_000


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_251_123)


@pytest.fixture(scope="session")
def corners() -> np.ndarray:
    """uint32 [840]: exponents where something changes, fractions near ties, both signs, NaNs."""
    fields = [0, 1, 2, 22, 23, 24, 25, 63, 64, 102, 103, 112, 113, 125, 126, 127, 128, 133, 134]
    fields += [149, 150, 151, 190, 191, 252, 253, 254, 255]
    fractions = [0, 1, 2, 0xFFF, 0x1000, 0x7FFF, 0x8000, 0x3FFFFF, 0x400000, 0x400001]
    fractions += [0x5A5A5A, 0x7FEFFF, 0x7FFFFD, 0x7FFFFE, 0x7FFFFF]
    lattice = (np.array(fields)[:, None] << 23 | np.array(fractions)).reshape(-1)
    return np.concatenate([lattice, lattice | 1 << 31]).astype(np.uint32)


@pytest.fixture
def pairs(corners: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every corner with every corner; then random ones, a half of them close to cancellation."""
    a, b = (x.reshape(-1) for x in np.meshgrid(corners, corners))
    random_a = rng.integers(0, 2**32, ROWS, dtype=np.uint32)
    random_b = rng.integers(0, 2**32, ROWS, dtype=np.uint32)
    near = random_a ^ np.uint32(1 << 31) ^ (np.uint32(1) << rng.integers(0, 27, ROWS, np.uint32))
    random_b = np.where(rng.random(ROWS) < 0.5, near, random_b)
    return np.concatenate([a, random_a]), np.concatenate([b, random_b])


@pytest.fixture
def singles(corners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The corners, random patterns, and as many of everyday size, with few and many bits."""
    wild = rng.integers(0, 2**32, ROWS // 2, dtype=np.uint32)
    whole = rng.integers(-(2**31), 2**31, ROWS // 2) >> rng.integers(0, 31, ROWS // 2)
    everyday = np.ldexp(whole, -rng.integers(0, 60, ROWS // 2)).astype(np.float32)
    return np.concatenate([corners, wild, everyday.view(np.uint32)])


@pytest.fixture(scope="session")
def simulation() -> Callable[[Primitive], Simulation]:
    """simulation(primitive): its hardware, built once for all tests that ask for the same."""
    built: dict[str, Simulation] = {}

    def of(primitive: Primitive) -> Simulation:
        if primitive.name not in built:
            built[primitive.name] = build(primitive.create())
        return built[primitive.name]

    return of


@pytest.fixture(scope="session")
def same_bits() -> Callable[..., None]:
    """same_bits(got, expected, a=..., b=...): equal, or the first rows that are not, in hex."""

    def check(got: np.ndarray, expected: np.ndarray, **operands: np.ndarray) -> None:
        expected = np.asarray(expected)
        expected = expected.view(np.uint32) if expected.dtype == np.float32 else expected
        assert got.shape == expected.shape
        wrong = np.flatnonzero((got != expected).reshape(len(got), -1).any(axis=1))
        rows = [
            f"{', '.join(f'{name}={column[i]:#x}' for name, column in operands.items())}: "
            f"{got[i]!r} is not {expected[i]!r}"
            for i in wrong[:5]
        ]
        assert not wrong.size, f"{wrong.size} of {len(got)} rows differ\n" + "\n".join(rows)

    return check


@pytest.fixture(scope="session")
def changes_at() -> Callable[..., None]:
    """changes_at(sim, stages, first, second, port, (x, y)): operands change from `first` to
    `second` in one cycle; the port still shows x `stages` - 1 cycles later, and y after `stages`.

    late: {port: cycles} for operands that are due later than the others.
    """

    def check(
        sim: Simulation,
        stages: int,
        first: Mapping[str, object],
        second: Mapping[str, object],
        port: str,
        expected: tuple[object, object],
        late: Mapping[str, int] | None = None,
    ) -> None:
        edge, cycles = 30, 60
        operands = {}
        for name in sim.inputs:
            before, after = (np.atleast_1d(np.asarray(side[name])) for side in (first, second))
            if before.ndim == 1 and before.size > 1:  # one row of a wide port
                before, after = before[None], after[None]
            switch = edge + (late or {}).get(name, 0)
            operands[name] = np.concatenate(
                [np.repeat(before, switch, axis=0), np.repeat(after, cycles - switch, axis=0)]
            )
        shown = sim.run(**operands)[port]
        x, y = expected
        assert np.any(np.asarray(x) != np.asarray(y)), "the results must differ to be told apart"
        np.testing.assert_array_equal(shown[edge + stages - 1], x, "too early")
        np.testing.assert_array_equal(shown[edge + stages], y, "too late")

    return check
