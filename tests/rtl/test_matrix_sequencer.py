"""Phases of MATRIX against plain loops: each row of A and each load in its cycle, and the end."""

import functools

import numpy as np
from tests.rtl.bench_matrix import Memory, op_words, random_matmul, schedule

from mellivora.isa.latency import matmul
from mellivora.rtl.matrix_sequencer import STEP, MatrixSequencer
from mellivora.rtl.simulate import build
from mellivora.spec import load_chip

CHIP = load_chip("nano").replace(accumulator_rows=20)


@functools.cache
def sim():
    return build(MatrixSequencer(CHIP))


def field(words, layout, name):
    """A field of a port, by cycle."""
    value = np.zeros(len(words), np.int64)
    one = layout[name]
    for bit in range(one.width):
        word, shift = divmod(one.offset + bit, 32)
        column = words if words.ndim == 1 else words[:, word]
        value |= (column.astype(np.int64) >> shift & 1) << bit
    return value


def random_rows(rng, count):
    rows = []
    while len(rows) < count:
        memory = Memory(CHIP, rng)
        while (row := random_matmul(memory)) is not None:
            rows.append(row)
    return rows[:count]


def inputs_of(rows):
    """(starts, cycles, op and start by cycle), back to back."""
    costs = matmul(np.array(rows, np.int64), CHIP)
    starts = 2 + np.concatenate([[0], np.cumsum(costs)[:-1]])
    cycles = int(starts[-1] + costs[-1]) + 4
    index = np.minimum(np.searchsorted(starts, np.arange(cycles)), len(rows) - 1)
    op = np.array([op_words(row) for row in rows])[index]
    start = np.isin(np.arange(cycles), starts)
    return starts, costs, cycles, op, start


def test_every_step_in_its_cycle(rng):
    rows = random_rows(rng, 300)
    starts, costs, cycles, op, start = inputs_of(rows)
    out = sim().run(op=op, start=start, stop=0)
    np.testing.assert_array_equal(np.flatnonzero(out["ends"]), starts + costs - 1)
    expected = {name: np.zeros(cycles, np.int64) for name in STEP.members}
    for row, at in zip(rows, starts):
        for wanted, flag in zip(schedule(row, CHIP), ("row", "loading")):
            for cycle, what in wanted.items():
                expected[flag][at + cycle] = 1
                for name in what.keys() & STEP.members.keys():
                    expected[name][at + cycle] = what[name]
    for flag, names in (
        ("row", ("first", "swap", "a_slice", "source")),
        ("loading", ("load_index",)),
    ):
        shown = field(out["step"], STEP, flag)
        np.testing.assert_array_equal(shown, expected[flag], flag)
        for name in names:
            got = field(out["step"], STEP, name)[shown == 1]
            np.testing.assert_array_equal(got, expected[name][shown == 1], name)
    assert expected["row"].sum() > 3000
    assert expected["loading"].sum() > 3000


def test_stop_ends_all(rng):
    """From the cycle after `stop` on nothing is asked for, and nothing ends."""
    rows = random_rows(rng, 20)
    _, _, cycles, op, start = inputs_of(rows)
    stop = np.arange(cycles) >= cycles // 2
    out = sim().run(op=op, start=start & ~stop, stop=stop)
    late = slice(cycles // 2 + 1, None)
    for shown in (
        out["ends"],
        out["busy"],
        *(field(out["step"], STEP, n) for n in ("row", "loading")),
    ):
        assert shown[: cycles // 2].any()
        assert not shown[late].any()
