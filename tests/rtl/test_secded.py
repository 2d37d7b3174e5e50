"""SECDED: every byte with every flip of one and of two bits."""

from itertools import combinations

import numpy as np
import pytest

from mellivora.rtl.secded import CODE_BITS, COLUMNS, SECDED_DECODE, SECDED_ENCODE, decode, encode

BYTES = np.arange(256)


def patterns(count):
    """Every mask of `count` flipped bits."""
    return np.array([sum(1 << i for i in bits) for bits in combinations(range(CODE_BITS), count)])


@pytest.fixture
def by_hardware(simulation):
    def run(codes):
        shown = simulation(SECDED_DECODE).results(1, code=codes.reshape(-1))
        return [shown[name].reshape(codes.shape) for name in ("data", "corrected", "uncorrectable")]

    return run


def test_encoder_equals_compute(simulation):
    got = simulation(SECDED_ENCODE).results(1, data=BYTES)["code"]
    np.testing.assert_array_equal(got, encode(BYTES))
    assert encode(0) == 0, "memory that starts as zeros is right"


def test_decoder_equals_compute_on_every_pattern(by_hardware):
    codes = np.arange(1 << CODE_BITS)
    for got, want in zip(by_hardware(codes), decode(codes)):
        np.testing.assert_array_equal(got, want)


def test_no_flip(by_hardware):
    data, corrected, uncorrectable = by_hardware(encode(BYTES))
    np.testing.assert_array_equal(data, BYTES)
    assert not corrected.any()
    assert not uncorrectable.any()


def test_every_single_flip_is_put_right(by_hardware):
    data, corrected, uncorrectable = by_hardware(encode(BYTES)[:, None] ^ patterns(1))
    np.testing.assert_array_equal(data, np.broadcast_to(BYTES[:, None], data.shape))
    assert corrected.all()
    assert not uncorrectable.any()


def test_every_double_flip_is_reported(by_hardware):
    data, corrected, uncorrectable = by_hardware(encode(BYTES)[:, None] ^ patterns(2))
    assert data.shape == (256, 78)
    assert uncorrectable.all()
    assert not corrected.any()


def test_columns_are_a_hsiao_code():
    assert len(set(COLUMNS)) == CODE_BITS
    assert all(column.bit_count() % 2 for column in COLUMNS)
    assert max(sum(c >> i & 1 for c in COLUMNS[:8]) for i in range(5)) == 5


def test_cycles(simulation, changes_at):
    good, single, double = (int(encode(0x5A)) ^ flips for flips in (0, 1, 3))
    sim = simulation(SECDED_DECODE)
    changes_at(sim, 1, {"code": good}, {"code": single}, "corrected", (0, 1))
    changes_at(sim, 1, {"code": good}, {"code": double}, "uncorrectable", (0, 1))
    encoder = simulation(SECDED_ENCODE)
    changes_at(encoder, 1, {"data": 0}, {"data": 0x5A}, "code", (0, int(encode(0x5A))))
