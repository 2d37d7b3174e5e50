"""MatrixCheck finds the causes of `isa.footprint`, before anything could be written."""

import functools

import numpy as np
import pytest
from tests.rtl.bench_matrix import Memory, op_words, random_matmul

from mellivora.isa.encoding import ACCUMULATOR_BASE, R_CONFIG, R_SLOT
from mellivora.isa.footprint import footprint
from mellivora.isa.state import Fault
from mellivora.rtl.matrix_check import CHECKED, MatrixCheck
from mellivora.rtl.simulate import build
from mellivora.spec import load_chip

CHIP = load_chip("nano")
PERIOD = CHECKED + 3


def golden(row):
    try:
        footprint(row, CHIP)
    except Fault as fault:
        return fault.cause
    return 0


@functools.cache
def sim():
    return build(MatrixCheck(CHIP))


def causes(rows):
    """Of each row, the cause shown CHECKED cycles after `fresh`; before, 0 or the same."""
    cycles = PERIOD * len(rows)
    op = np.repeat(np.array([op_words(row) for row in rows]), PERIOD, axis=0)
    fresh = np.arange(cycles) % PERIOD == 0
    shown = sim().run(operation=op, fresh=fresh)["cause"].reshape(len(rows), PERIOD)
    last = shown[:, CHECKED]
    assert ((shown[:, 1:] == 0) | (shown[:, 1:] == last[:, None])).all()
    return last


def compare(rows):
    expected = np.array([golden(row) for row in rows])
    got = causes(rows)
    wrong = np.flatnonzero(got != expected)
    assert not wrong.size, [(rows[i], int(got[i]), int(expected[i])) for i in wrong[:4]]
    return expected


def legal_rows(rng, count):
    rows = []
    while len(rows) < count:
        memory = Memory(CHIP, rng)
        while (row := random_matmul(memory)) is not None:
            rows.append(row)
    return rows[:count]


def test_legal_operations_have_no_cause(rng):
    assert not compare(legal_rows(rng, 300)).any()


def test_one_field_wrong(rng):
    """One slot or stride of a legal operation made large, negative, or a little off."""
    rows = legal_rows(rng, 3000)
    for row in rows:
        field = int(rng.choice([*range(R_SLOT, R_SLOT + 8), *range(R_CONFIG, R_CONFIG + 8)]))
        row[field] = int(
            rng.choice(
                [
                    row[field] + rng.integers(-3, 4),
                    row[field] ^ 1 << int(rng.integers(0, 31)),
                    -row[field],
                    rng.integers(-(1 << 31), 1 << 31),
                    (1 << 31) - 1,
                    -(1 << 31),
                    ACCUMULATOR_BASE,
                ]
            )
        )
    expected = compare(rows)
    assert {0, 3, 5} == set(expected)
    assert min(np.bincount(expected)[[0, 3, 5]]) > 200


@pytest.mark.parametrize("which", ["a", "a_scale", "b"])
def test_to_the_last_byte(which, rng):
    """Operands moved up until they touch the end, and one byte more; down to 0, and one less."""
    slot = {"a": 1, "a_scale": 2, "b": 3}[which] + R_SLOT
    rows = []
    for row in legal_rows(rng, 400):
        low, high = row[slot] - CHIP.sram_bytes, row[slot] + CHIP.sram_bytes
        for ends in ((row[slot], high), (row[slot], low)):
            good, bad = ends  # the last legal address lies between
            while abs(good - bad) > 1:
                middle = (good + bad) // 2
                row[slot] = middle
                good, bad = (middle, bad) if golden(row) == 0 else (good, middle)
            for address in (good, bad):
                row[slot] = address
                rows.append(list(row))
            row[slot] = good
    expected = compare(rows)
    assert (expected == 3).sum() > 300
    assert (expected == 0).sum() > 300
