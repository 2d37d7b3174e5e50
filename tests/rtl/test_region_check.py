"""RegionCheck gives the causes of `isa.footprint`, on lattices of corners and random regions."""

import numpy as np
import pytest

from mellivora.isa.encoding import ACCUMULATOR_BASE
from mellivora.isa.footprint import _near, _region
from mellivora.isa.state import Fault
from mellivora.rtl.region_check import CHECK_CYCLES, ROWS_MAX, RegionCheck
from mellivora.rtl.simulate import build
from mellivora.spec import load_chip


def golden(chip, address, stride, rows, row_bytes, word, accumulators):
    if word and not accumulators and (address | stride) & 3:
        return 4  # nobody asks so; alignment comes first here too
    try:
        if accumulators:
            _region(chip, address, rows, row_bytes, stride, 4 if word else 1)
        else:
            _near(chip, address, rows, row_bytes, stride)
    except Fault as fault:
        return fault.cause
    return 0


def check(chip, regions, valid=None):
    """Causes by the hardware of regions (address, stride, rows, row_bytes, word, accumulators)."""
    columns = list(zip(*regions))
    wide = {
        name: np.array([[v & 0xFFFF_FFFF, v >> 32 & 0xFF] for v in values], np.uint32)
        for name, values in zip(("address", "stride"), columns)
    }
    row_bytes = np.array([[v & 0xFFFF_FFFF, v >> 32] for v in columns[3]], np.uint32)
    valid = np.ones(len(regions), bool) if valid is None else valid
    out = build(RegionCheck(chip)).results(
        CHECK_CYCLES,
        valid=valid,
        rows=np.array(columns[2], np.uint32),
        row_bytes=row_bytes,
        word=np.array(columns[4], np.uint32),
        accumulators=np.array(columns[5], np.uint32),
        **wide,
    )
    np.testing.assert_array_equal(out["checked"], valid)
    return out["cause"]


def compare(chip, regions):
    got, causes = check(chip, regions), [golden(chip, *region) for region in regions]
    wrong = [(r, int(g), c) for r, g, c in zip(regions, got, causes) if g != c]
    assert not wrong, f"{len(wrong)} of {len(regions)}: {wrong[:5]}"
    assert set(causes) == {0, 3, 4}
    return causes


@pytest.mark.parametrize("name", ["nano", "micro", "m1"])
def test_around_the_ends(name, rng):
    """Regions that end within a few bytes of a memory's end, of all shapes."""
    chip, regions = load_chip(name), []
    for _ in range(20_000):
        accumulators = bool(rng.integers(2))
        base, size = (
            (ACCUMULATOR_BASE, chip.accumulator_bytes) if accumulators else (0, chip.sram_bytes)
        )
        rows = int(2 ** rng.uniform(0, 17))
        row_bytes = int(2 ** rng.uniform(0, 12))
        stride = int(rng.integers(0, max(2, 2 * size // rows)))
        stride = stride & ~3 if rng.random() < 0.5 else stride
        last = (rows - 1) * stride + row_bytes
        address = base + size - last + int(rng.choice([-4, -1, 0, 0, 0, 1, 4, 5, 64]))
        word = bool(rng.random() < 0.3)
        regions.append((address, stride, rows, row_bytes, word, accumulators or rng.random() < 0.5))
    causes = compare(chip, regions)
    assert min(causes.count(cause) for cause in (0, 3, 4)) > 1000


def test_corners():
    """Signs, powers of two, sizes and their neighbours, each with each."""
    chip = load_chip("nano")
    sizes = (chip.sram_bytes, chip.accumulator_bytes)
    ends = [0, sizes[0], ACCUMULATOR_BASE, ACCUMULATOR_BASE + sizes[1]]
    addresses = [e + d for e in ends for d in (-4, -1, 0, 1, 4)] + [-(2**39), 2**39 - 1, -(2**31)]
    strides = [-(2**39), -4, -1, 0, 1, 4, 64, 255, 256, sizes[0] - 1, sizes[0], 2**17, 2**31 - 1]
    strides += [2**31, 2**32, 2**38, 2**39 - 1]
    rows = [1, 2, 3, 256, 257, sizes[0] - 1, sizes[0], sizes[0] + 1, 2**17, 2**31 - 1, ROWS_MAX]
    row_bytes = [1, 4, 5, sizes[1], sizes[0] - 1, sizes[0], sizes[0] + 1, 2**32, 2**40 - 1]
    bits = [(word, accumulators) for word in (False, True) for accumulators in (False, True)]
    compare(
        chip,
        [
            (a, s, r, n, *both)
            for a in addresses
            for s in strides
            for r in rows
            for n in row_bytes
            for both in bits
        ],
    )


def test_random(rng):
    """All bits of all inputs, most of them small."""
    chip, count = load_chip("nano"), 50_000

    def numbers(bits, low):
        return [
            max(low, int(v) >> int(s))
            for v, s in zip(rng.integers(0, 1 << bits, count), rng.integers(0, bits, count))
        ]

    signs = rng.choice([1, 1, 1, 1, -1], (2, count))
    accumulators = rng.random(count) < 0.5
    base = np.where(accumulators & (rng.random(count) < 0.7), ACCUMULATOR_BASE, 0)
    address = [int(b + s * v) for b, s, v in zip(base, signs[0], numbers(38, 0))]
    stride = [int(s * v) for s, v in zip(signs[1], numbers(39, 0))]
    word = rng.random(count) < 0.3
    fields = (address, stride, numbers(32, 1), numbers(40, 1), word, accumulators)
    compare(chip, [(a, s, r, n, bool(w), bool(q)) for a, s, r, n, w, q in zip(*fields)])


def test_more_rows_than_there_are_numbers():
    """`ROWS_MAX` rows stand for any greater number of them."""
    chip = load_chip("m1")
    for stride in (0, 1, 4, 2**30, -1):
        for rows in (ROWS_MAX + 1, 2**36):
            region = (0, stride, ROWS_MAX, 4, False, True)
            assert golden(chip, *region) == golden(chip, 0, stride, rows, 4, False, True)


def test_only_valid_regions_have_a_cause(rng):
    chip, valid = load_chip("nano"), rng.random(1000) < 0.5
    cause = check(chip, [(-1, 0, 1, 1, False, False)] * 1000, valid)
    np.testing.assert_array_equal(cause, np.where(valid, 3, 0))


def test_cycles(changes_at):
    sim = build(RegionCheck(load_chip("nano")))
    good = {"valid": 1, "address": [0, 0], "stride": [4, 0], "rows": 3, "row_bytes": [4, 0]}
    good |= {"word": 1, "accumulators": 0}
    changes_at(sim, CHECK_CYCLES, good, good | {"address": [2, 0]}, "cause", (0, 4))
    changes_at(sim, CHECK_CYCLES, good, good | {"stride": [1 << 20, 0]}, "cause", (0, 3))
    changes_at(sim, CHECK_CYCLES, good, good | {"valid": 0}, "checked", (1, 0))
