"""The quantiser of a block equals `numerics.mx_slices`."""

import numpy as np
import pytest

from mellivora import numerics
from mellivora.rtl.mx_quantise import MX_QUANTISE

F32, U32 = np.float32, np.uint32
EACH = pytest.mark.parametrize("slices", [1, 2, 3])


def blocks_of(count, corners, rng):
    """uint32 [count, 32]: blocks of corners, wild ones, and ones of neighbouring magnitudes."""
    x = rng.integers(0, 2**32, (count, 32), dtype=U32)
    x[::4] = rng.choice(corners, (len(x[::4]), 32))
    spread = rng.integers(0, 30, (count, 32)).clip(max=28)
    field = (rng.integers(0, 255, (count, 1)) - spread).clip(0, 254).astype(U32)
    close = (x & U32(0x807FFFFF)) | field << U32(23)
    return np.where((np.arange(count) % 4 >= 2)[:, None], close, x)


def check(x, slices, simulation, same_bits):
    got = simulation(MX_QUANTISE).results(MX_QUANTISE.stages, x=x, slices=slices)
    codes, scales = MX_QUANTISE.compute(x.view(F32), slices=slices)
    same_bits(got["scale"], scales[:, 0])
    planes = np.ascontiguousarray(got["planes"]).view(np.uint8).reshape(len(x), 3, 32)
    for j in range(3):
        expected = codes[j].view(np.uint8) if j < slices else np.zeros_like(planes[:, j])
        same_bits(planes[:, j], expected)


@EACH
def test_bits(slices, corners, rng, simulation, same_bits):
    """A million elements for each number of slices."""
    check(blocks_of(1 << 15, corners, rng), slices, simulation, same_bits)


@pytest.mark.nightly
@EACH
def test_bits_of_a_million_blocks(slices, corners, rng, simulation, same_bits):
    for _ in range(32):
        check(blocks_of(1 << 15, corners, rng), slices, simulation, same_bits)


@EACH
def test_blocks_without_a_finite_number(slices, simulation, same_bits):
    specials = np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 1, 0x7F7FFFFF], U32)
    x = np.zeros((specials.size * 32, 32), U32)
    for i, special in enumerate(specials):  # each at each place of a block
        x[32 * i : 32 * i + 32][np.arange(32), np.arange(32)] = special
    check(x, slices, simulation, same_bits)


def test_cycles(simulation, changes_at):
    one, four = (np.full(32, n, F32).view(U32) for n in (1, 4))
    sim = simulation(MX_QUANTISE)
    first, second = {"x": one, "slices": 1}, {"x": four, "slices": 1}
    changes_at(sim, MX_QUANTISE.stages, first, second, "scale", (127, 129))
    three = {"x": np.full(32, 3, F32).view(U32), "slices": 1}
    shown = [np.zeros(24, U32), np.zeros(24, U32)]
    shown[0][:8], shown[1][:8] = 64 * 0x01010101, 96 * 0x01010101
    changes_at(sim, MX_QUANTISE.stages, first, three, "planes", (shown[0], shown[1]))


def test_compute_is_the_simulators_function():
    assert MX_QUANTISE.compute is numerics.mx_slices
