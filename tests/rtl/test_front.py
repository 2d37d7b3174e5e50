"""The front starts and ends every operation in the cycle in which `sim.stepped` does."""

import numpy as np
import pytest
from tests.rtl.bench_programs import (
    LIMIT,
    LOAD_,
    MATRIX_,
    STORE_,
    VECTOR_,
    built,
    launch,
    lowered,
    operation_word,
    random_program,
    record_of,
    run,
    times,
    twin,
)

from mellivora.isa import BY_NAME, Word, encode
from mellivora.isa.encoding import R_PC, SEMAPHORE_MAX
from mellivora.rtl.semaphores import OVERFLOW_CYCLES
from mellivora.rtl.watchdog import WATCHDOG_CYCLES
from mellivora.sim.timing import Role

SIZES = [(2, 2), (8, 2)]
MORE_SIZES = [pytest.param(size, marks=pytest.mark.nightly) for size in ((3, 4), (5, 3))]
"""Queue depth, transfers outstanding."""


@pytest.fixture(scope="module")
def bench():
    return built(SIZES[0])


@pytest.mark.parametrize("size", SIZES + MORE_SIZES)
def test_every_start_and_end(size):
    """Random programs back to back: every operation's start and end, and when the core is done."""
    chip, sim = built(size)
    rng = np.random.default_rng(chip.queue_depth)
    checked, several, stuck, ends_at = 0, 0, 0, []
    for _ in range(5):
        wanted, launches = [], []
        while len(launches) < 12:
            code = random_program(rng)
            latency = int(rng.choice([0, 1, 9, 50]))
            table, _, tail = lowered(code)
            dispatch, start, end, finished = twin(table, chip, latency)
            cycles = int(end.max()) + 20 if finished else LIMIT
            wanted.append((dispatch, start, end, finished, tail))
            launches.append(launch(code, latency, cycles))
        for shown, (dispatch, start, end, finished, tail) in zip(run(sim, launches), wanted):
            got_start, got_end = times(shown["shown"], len(start))
            np.testing.assert_array_equal(got_start, start)
            if not finished:  # what ends in the first cycle after the run
                end = np.where(got_end == LIMIT, LIMIT, end)
            np.testing.assert_array_equal(got_end, end)
            if finished:
                halted = dispatch[-1] - 1 + tail + 1
                done = np.arange(len(shown["done"])) >= max(int(end.max()), halted)
                np.testing.assert_array_equal(shown["done"], done)
                assert record_of(shown["record"]) is None
            checked += len(start)
            stuck += not finished
            _, counts = np.unique(end[end >= 0] * 4, return_counts=True)
            several += int((counts > 1).sum())
            ends_at.append(int(end.max()))
    assert checked > 3000, checked
    assert several > 200, several
    assert max(ends_at) > 500, ends_at
    assert stuck < 20


def single(*words):
    halt = Word(BY_NAME["halt"].opcode, 0, 0, 0, 0, (0,) * 8)
    return encode([*words, halt])


def go(bench, code, *, latency=3, cycles=LIMIT):
    (shown,) = run(bench[1], [launch(code, latency, cycles)])
    return shown


def test_a_count_past_its_maximum(bench):
    """Fault 6 of the operation that posts; nothing starts from its end on, and it is named soon."""
    post = operation_word(VECTOR_, Role.COMPUTE, 2, posts=(5, 5))
    loop = Word(BY_NAME["loop"].opcode, 0, 0, 0, 0, (130, 1, 0, 0, 0, 0, 0, 0))
    other = operation_word(MATRIX_, Role.COMPUTE, 1)
    code = single(other, loop, post, other)
    shown, (table, rows, _) = go(bench, code), lowered(code)
    _, start, end, _ = twin(table, bench[0], 3)
    over = np.flatnonzero((2 * np.arange(len(table)) > SEMAPHORE_MAX) & (table["post0"] == 5))[0]
    assert record_of(shown["record"]) == (6, "VECTOR", int(rows[over, R_PC]))
    got_start, got_end = times(shown["shown"], len(table))
    np.testing.assert_array_equal(got_start, np.where(start < end[over], start, -1))
    np.testing.assert_array_equal(got_end, np.where(start < end[over], end, -1))
    assert shown["done"][-1]
    assert shown["done"].argmax() == end[over] + OVERFLOW_CYCLES


def test_the_maximum_itself_is_no_fault(bench):
    post = operation_word(VECTOR_, Role.COMPUTE, 1, posts=(5, 0))
    take = operation_word(MATRIX_, Role.COMPUTE, 1, waits=(5, 5))
    loop = Word(BY_NAME["loop"].opcode, 0, 0, 0, 0, (SEMAPHORE_MAX, 1, 0, 0, 0, 0, 0, 0))
    shown = go(bench, single(loop, post, take, post, post))
    assert record_of(shown["record"]) is None
    assert shown["done"][-1]
    shown = go(bench, single(loop, post, post))
    assert record_of(shown["record"]) == (6, "VECTOR", 2)


def test_engine_fault_stops_the_core(bench):
    """Operations that run, end; nothing more starts; of two faults in a cycle the older counts."""
    words = [
        operation_word(LOAD_, Role.TRANSFER, 30),
        operation_word(STORE_, Role.ORDER, 7, cause=2),  # starts in 3, shows it in 9
        operation_word(VECTOR_, Role.COMPUTE, 6, cause=5),  # starts a cycle later: as soon
        operation_word(MATRIX_, Role.COMPUTE, 9),
        *[operation_word(MATRIX_, Role.COMPUTE, 9)] * 2,
    ]
    for first, second, wanted in ((1, 2, (2, "STORE")), (2, 1, (5, "VECTOR"))):
        order = list(words)
        order[1], order[2] = words[first], words[second]
        if first == 2:  # again both in one cycle
            order[1] = operation_word(VECTOR_, Role.COMPUTE, 7, cause=5)
            order[2] = operation_word(STORE_, Role.ORDER, 6, cause=2)
        shown = go(bench, single(*order))
        assert record_of(shown["record"]) == (*wanted, 1)
        got_start, got_end = times(shown["shown"], 6)
        assert got_start.tolist() == [1, 2, 3, 4, -1, -1]
        assert got_end.tolist() == [1 + 30 + 4, -1, -1, 4 + 9, -1, -1]
        assert shown["done"].argmax() == 35
        assert shown["done"][35:].all()


def test_fault_of_control_waits_for_all_that_was_dispatched(bench):
    slow = operation_word(LOAD_, Role.TRANSFER, 30, posts=(3, 0))
    after = operation_word(VECTOR_, Role.COMPUTE, 9, waits=(3, 0))
    bad = Word(0xFF, 0, 0, 0, 0, (0,) * 8)
    shown = go(bench, encode([slow, after, bad]))
    assert record_of(shown["record"]) == (1, "CONTROL", 2)
    start, end = times(shown["shown"], 2)
    assert (start >= 0).all()
    assert (end >= 0).all()
    assert shown["done"].argmax() == end.max() + 1
    # An operation's own fault comes first, as it does in the order of the program.
    wrong = operation_word(LOAD_, Role.TRANSFER, 30, cause=3)
    shown = go(bench, encode([wrong, bad]))
    assert record_of(shown["record"]) == (3, "LOAD", 0)


@pytest.mark.parametrize("end", ["halt", "full", "fault"])
def test_watchdog_names_the_oldest(bench, end):
    """A wait for a token that never comes: cause 7, of the oldest operation that has not ended."""
    fine = operation_word(LOAD_, Role.TRANSFER, 30)
    stuck = operation_word(VECTOR_, Role.COMPUTE, 9, waits=(3, 0))
    behind = operation_word(MATRIX_, Role.COMPUTE, 9, waits=(4, 0))
    words = [fine, stuck, behind]
    words += [behind] * (20 if end == "full" else 0)
    words += [Word(0xFF, 0, 0, 0, 0, (0,) * 8)] * (end == "fault")
    shown = go(bench, single(*words), cycles=WATCHDOG_CYCLES + 100)
    assert record_of(shown["record"]) == (7, "VECTOR", 1)
    quiet = 1 + 30 + 4  # the LOAD's end
    assert shown["done"].argmax() == quiet + WATCHDOG_CYCLES
