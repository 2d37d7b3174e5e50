"""MATRIX as a whole: bits of `isa.meaning.matmul`, cycles of `isa.latency.matmul`, its faults."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from tests.rtl.bench_matrix import (
    MatrixBench,
    Memory,
    golden,
    random_accumulators,
    random_matmul,
    row_of,
    run,
)

from mellivora.isa import BY_NAME, Core
from mellivora.isa.encoding import R_OPCODE, R_SLOT
from mellivora.isa.modes import BFormat
from mellivora.rtl.interfaces import END, FAULT
from mellivora.rtl.matrix_check import CHECKED
from mellivora.rtl.simulate import build
from mellivora.spec import ChipSpec, load_chip

NANO = load_chip("nano").replace(accumulator_rows=20)
MICRO = load_chip("micro").replace(accumulator_rows=18)
SYNC = row_of("msync", [], [])


def cost(row: list[int], chip: ChipSpec) -> int:
    instruction = next(one for one in BY_NAME.values() if one.opcode == row[R_OPCODE])
    return int(instruction.cost(np.array([row], np.int64), chip)[0])


def ends_shown(out: dict[str, np.ndarray]) -> list[tuple[int, int, int, int, int]]:
    """(cycle, sequence, pc, post0, post1) of every cycle in which an operation ends."""
    found = []
    words = out["ends"]
    for cycle in np.flatnonzero(words[:, 0] >> END["valid"].offset & 1):
        value = sum(int(word) << 32 * i for i, word in enumerate(words[cycle]))
        parts = (value >> END[n].offset & (1 << END[n].width) - 1 for n in NAMES)
        found.append((int(cycle), *parts))
    return found


NAMES = ("sequence", "pc", "post0", "post1")


@functools.cache
def bench(chip: ChipSpec):
    """The simulation, elaborated once."""
    return build(MatrixBench(chip))


def play(chip, rows, pad, accumulators, gaps=None):
    """Runs the rows, each in the first cycle it may start in or `gaps` later; checks everything."""
    sim = bench(chip)
    costs = [cost(row, chip) for row in rows]
    gaps = [0] * len(rows) if gaps is None else gaps
    starts, at = [], 3
    for gap, cycles in zip(gaps, costs):
        starts.append(at + gap)
        at += gap + cycles
    out = run(sim, chip, rows, starts, at + 8, pad, accumulators)

    ready = np.ones(at + 8, bool)
    for start, cycles in zip(starts, costs):
        ready[start + 1 : start + cycles] = False
    np.testing.assert_array_equal(out["ready"], ready)
    np.testing.assert_array_equal(out["active"], ~ready)
    assert not (out["fault"][:, 0] & 1).any()
    expected = [
        (start + cycles - 1, i + 1, (i + 1) * 3, (i + 1) % 61, (i + 1) % 59)
        for i, (start, cycles) in enumerate(zip(starts, costs))
    ]
    assert ends_shown(out) == expected

    core = Core(chip, np.zeros(0, np.uint8), [])
    core.scratchpad[:], core.accumulators[:] = pad, accumulators
    shown = accumulators.copy()
    mask = np.unpackbits(
        out["wrote__mask"].reshape(len(ready), -1).view(np.uint8), axis=1, bitorder="little"
    )[:, : 4 * chip.columns].astype(bool)
    data = out["wrote__data"].view(np.uint8)
    writes = np.flatnonzero(out["wrote__enable"])
    for i, row in enumerate(rows):
        golden(core, row)
        end = starts[i] + costs[i]
        mine = writes[(writes >= starts[i]) & (writes < end)]
        for cycle in mine:
            place = int(out["wrote__address"][cycle]) + np.flatnonzero(mask[cycle])
            shown[place] = data[cycle][mask[cycle]]
        wrong = np.flatnonzero(shown.view(np.uint32) != core.accumulators.view(np.uint32))
        assert not wrong.size, (
            f"operation {i} {row}: {wrong.size} differ, at {wrong[:6]}: "
            f"{shown.view(np.uint32)[wrong[:6]]} {core.accumulators.view(np.uint32)[wrong[:6]]}"
        )
    assert set(writes) <= {cycle for s, c in zip(starts, costs) for cycle in range(s, s + c)}
    return out


def batch(chip, rng, count, **given):
    """Up to `count` random operations that fit the scratchpad together, and their memories."""
    memory, rows = Memory(chip, rng), []
    while len(rows) < count and (row := random_matmul(memory, **given)) is not None:
        rows.append(row)
    return rows, memory.data, random_accumulators(chip, rng)


def changed(chip, rows, pad, accumulators):
    """Accumulators that the rows change: what a comparison rests on."""
    core = Core(chip, np.zeros(0, np.uint8), [])
    core.scratchpad[:], core.accumulators[:] = pad, accumulators
    for row in rows:
        golden(core, row)
    values = core.accumulators.view(np.uint32)
    return values[values != accumulators.view(np.uint32)]


@pytest.mark.parametrize("fmt", BFormat, ids=lambda fmt: fmt.name)
def test_each_format(fmt, rng):
    """Shapes, slices and layouts by chance, back to back, as many as the scratchpad holds."""
    for _ in range(3):
        rows, pad, accumulators = batch(NANO, rng, 60, fmt=fmt)
        play(NANO, rows, pad, accumulators)
    values = changed(NANO, rows, pad, accumulators)
    assert len(rows) > 8
    assert len(np.unique(values)) > 60


def test_formats_in_turn_with_pauses(rng):
    """Operations of all kinds after each other, MSYNC between some, idle cycles before some."""
    for _ in range(6):
        rows, pad, accumulators = batch(NANO, rng, 60)
        for at in sorted(rng.integers(0, len(rows), 5), reverse=True):
            rows.insert(at, SYNC)
        gaps = np.where(rng.random(len(rows)) < 0.3, rng.integers(1, 6, len(rows)), 0)
        play(NANO, rows, pad, accumulators, gaps.tolist())


@pytest.mark.parametrize("blocks", [0, 1, 2, 5])
@pytest.mark.parametrize("m", [0, 1, 2, 3, 4, 6, 7, 19, 20])
def test_few_rows(m, blocks, rng):
    """Accumulators meet themselves after 3 cycles and more: from results, from memory."""
    small = {"m": m, "blocks": blocks, "n": NANO.columns}
    rows, pad, accumulators = batch(NANO, rng, 24, **small)
    play(NANO, rows, pad, accumulators)


@pytest.mark.nightly
def test_wider_chip(rng):
    rows, pad, accumulators = batch(MICRO, rng, 60)
    play(MICRO, rows, pad, accumulators)


@pytest.mark.parametrize("fmt", [BFormat.MX8, BFormat.Q4_0, BFormat.Q4_1, BFormat.INT8])
def test_a_long_matmul_keeps_the_columns_busy(fmt, rng):
    """At least 95 of 100 cycles bring a row of A to all columns."""
    chip = NANO
    rows, pad, accumulators = batch(
        chip, rng, 1, fmt=fmt, m=20, n=chip.columns, blocks=25, a_slices=1, b_slices=1
    )
    out = play(chip, rows, pad, accumulators)
    assert out["a_enable"].sum() == 500
    assert 500 / cost(rows[0], chip) > 0.95


def spoilt(row, rng):
    """The row with a fault: 5 or 3."""
    row = list(row)
    if rng.random() < 0.5:
        row[R_SLOT + 6] = NANO.columns + 1  # n
        return row, 5
    row[R_SLOT + int(rng.choice([1, 3]))] = NANO.sram_bytes - 1  # a, b
    return row, 3


def test_a_fault_stops_the_engine_and_writes_nothing(rng):
    """After three good operations a faulty one: shown for ever, not ready again, never ended."""
    causes = set()
    for _ in range(12):
        rows, pad, accumulators = batch(NANO, rng, 4, m=int(rng.integers(1, 9)), blocks=2, n=8)
        bad, cause = spoilt(rows[3], rng)
        costs = [cost(row, NANO) for row in rows[:3]]
        starts = [2 + sum(costs[:i]) for i in range(4)]
        cycles = starts[3] + 200
        out = run(bench(NANO), NANO, [*rows[:3], bad], starts, cycles, pad, accumulators)
        assert [end[1] for end in ends_shown(out)] == [1, 2, 3]
        fault = out["fault"].astype(np.int64)
        valid = fault[:, 0] & 1
        known = int(np.flatnonzero(valid)[0])
        assert starts[3] < known <= starts[3] + 1 + CHECKED
        assert valid[known:].all()
        assert not out["ready"][starts[3] + 1 :].any()
        assert not out["active"][known + 1 :].any()
        assert not out["wrote__enable"][starts[3] :].any()
        value = sum(int(word) << 32 * i for i, word in enumerate(fault[-1]))
        shown = {n: value >> FAULT[n].offset & (1 << FAULT[n].width) - 1 for n in FAULT.members}
        assert shown == {"valid": 1, "cause": cause, "pc": 12, "sequence": 4}
        causes.add(cause)
    assert causes == {3, 5}
