"""The engine: bits of `isa.meaning` and cycles of `isa.latency`, operations back to back."""

import numpy as np
import pytest
from tests.rtl import vector_bench as bench
from tests.rtl import vector_ops as ops

from mellivora.isa.encoding import ACCUMULATOR_BASE
from mellivora.isa.modes import Deq, Func, Kind, Op, Reduce, Store, vew_fn, vew_mode, vquant_mode
from mellivora.rtl.emit import rtlil
from mellivora.rtl.vector_engine import VectorEngine
from mellivora.spec import load_chip

NANO, MICRO = load_chip("nano"), load_chip("micro")
KINDS = ("vew", "vred", "vquant", "vdeq")


def check(chip, rows, rng, gaps=None):
    """Same memories, same cycles; without gaps the next one starts when the last has ended."""
    core = bench.filled(chip, rng)
    expected = bench.copy_of(core)
    out = bench.run(chip, rows, core, gaps=gaps)
    assert bench.golden(chip, rows, expected) == 0
    assert out.fault is None
    took = out.times[:, 1] - out.times[:, 0] + 1
    costs = np.array(bench.costs(chip, rows))
    wrong = np.flatnonzero(took != costs)
    assert not wrong.size, f"{rows[wrong[0]]} took {took[wrong[0]]}, not {costs[wrong[0]]}"
    starts = out.times[1:, 0] - out.times[:-1, 1] - 1
    np.testing.assert_array_equal(starts, 0 if gaps is None else gaps[1:])
    for memory in ("scratchpad", "accumulators"):
        got, want = getattr(core, memory), getattr(expected, memory)
        at = np.flatnonzero(got != want)
        assert not at.size, f"{at.size} bytes of {memory} differ, the first at {at[0]:#x}"


@pytest.mark.parametrize("kind", KINDS)
def test_random_operations(kind, rng):
    """Formats, kinds, functions, masks and shapes at random, in both memories."""
    check(NANO, [getattr(ops, kind)(rng, NANO) for _ in range(150)], rng)


def mixed(chip, rng, count):
    names = rng.choice([*KINDS, "vsync"], count)
    return [getattr(ops, name)(rng, chip) for name in names]


def test_operations_of_all_kinds_in_turn(rng):
    check(NANO, mixed(NANO, rng, 250), rng)


def test_with_pauses(rng):
    rows = mixed(NANO, rng, 80)
    check(NANO, rows, rng, gaps=rng.integers(0, 30, len(rows)).tolist())


@pytest.mark.nightly
@pytest.mark.parametrize("lanes", [8, 16, 64])
def test_many(lanes, rng):
    """64 lanes: two blocks a beat."""
    chip = {8: NANO, 16: MICRO}.get(lanes) or NANO.replace(lanes=lanes)
    for _ in range(5):
        check(chip, mixed(chip, rng, 400), rng)


@pytest.mark.parametrize("func", list(Func))
def test_each_function_with_each_operation(func, rng):
    rows = [
        bench.row_of(
            "vew",
            [0x8000 + 0x400 * i, 0, 0x2000, 0x4000, 2, 21, vew_fn(op, op, func), vew_mode(c=kind)],
            [84, 84, 84, 84],
        )
        for i, (op, kind) in enumerate((op, kind) for op in Op for kind in (Kind.TENSOR, Kind.ROW))
    ]
    check(NANO, rows, rng)


def test_an_operation_reads_what_the_one_before_wrote(rng):
    """Through every kind of result: the last write is seen by the first read."""
    rows = []
    for cols in (1, 8, 32):
        size = 4 * cols
        copy = ([0x100, 0, 0, 0, 1, cols, vew_fn(Op.ADD, func=Func.ABS), vew_mode(b=Kind.CONST)],)
        rows += [
            bench.row_of("vew", *copy, [size, size]),
            bench.row_of("vred", [0x200, 0x100, 1, cols, Reduce.SUM, 0], [4, size]),
            bench.row_of(
                "vew", [0x300, 0x100, 0x200, 0, 1, cols, vew_fn(Op.MUL), Kind.ROW], [4] * 4
            ),
            bench.row_of(
                "vquant",
                [0x500, 0x600, 0x300, 0, 1, cols, vquant_mode(Store.MX2, wide=True)],
                [64, size, 0, 1, 64],
            ),
            bench.row_of("vdeq", [0x700, 0x500, 0, 1, cols, Deq.INT8], [size, 64]),
            bench.row_of(
                "vew", [0x900, 0x700, 0x600, 0, 1, cols, vew_fn(Op.ADD), Kind.E8M0], [4] * 4
            ),
        ]
    check(NANO, rows, rng)


def faulty(chip, rng):
    """An operation with one field, or a few, out of range."""
    row = getattr(ops, rng.choice(KINDS))(rng, chip)
    for _ in range(int(rng.integers(1, 3))):
        at = int(rng.choice([7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18, 19]))
        odd = [-1, 2, 6, chip.sram_bytes, ACCUMULATOR_BASE - 8, 2**31 - 1, -(2**31), 1 << 20]
        odd += [ACCUMULATOR_BASE + chip.accumulator_bytes - 4]
        row[at] = int(rng.choice(odd)) if rng.random() < 0.7 else row[at] + int(rng.integers(-9, 9))
    return row


def test_faults(rng):
    """Cause, operation, and not a byte written of it; what came before has ended."""
    seen = set()
    for _ in range(400):
        row = faulty(NANO, rng)
        before = bench.row_of("vsync", [])
        core = bench.filled(NANO, np.random.default_rng(1))
        expected = bench.copy_of(core)
        cause = bench.golden(NANO, [row], bench.copy_of(expected)) if small(row) else 0
        if not cause:
            continue
        seen.add((row[0], cause))
        out = bench.run(NANO, [before, row], core, limit=60)
        assert out.fault is not None, row
        assert out.fault[1:] == (cause, 4, 1), row  # pc and sequence of the second
        assert out.times[0, 1] >= 0
        assert out.times[1, 1] == -1
        assert out.writes == 0
        assert (core.scratchpad == expected.scratchpad).all()
        assert (core.accumulators == expected.accumulators).all()
    assert len(seen) >= 10, seen


def small(row):
    """The model makes arrays of the size of the tile, so not of every one."""
    return all(abs(row[at]) <= 1 << 20 for at in (9, 10, 11, 12))


def test_a_fault_holds(rng):
    row = bench.row_of("vew", [2, 0, 0, 0, 1, 1, 0, 0])
    core = bench.filled(NANO, rng)
    out = bench.run(NANO, [row, row], core, limit=200)
    assert out.fault is not None
    assert out.times[1, 0] == -1


@pytest.mark.parametrize("name", ["micro", pytest.param("m1", marks=pytest.mark.nightly)])
def test_it_elaborates_for(name):
    assert "module \\vector_engine" in rtlil(VectorEngine(load_chip(name)))
