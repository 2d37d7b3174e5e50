"""Starts, counters and overflows against integers, one cycle at a time as `sim.stepped` does."""

import numpy as np
import pytest
from tests.rtl.bench_front import layout_words

from mellivora.isa.encoding import SEMAPHORE_MAX, SEMAPHORES
from mellivora.rtl.interfaces import END, FAULT
from mellivora.rtl.semaphores import (
    OVERFLOW_CYCLES,
    OVERFLOW_FAULT,
    WORKERS,
    Semaphores,
)
from mellivora.rtl.simulate import build, pack

OUTSTANDING = 2


@pytest.fixture(scope="module")
def sim():
    return build(Semaphores(OUTSTANDING))


def stacked(layout, rows):
    return np.stack([layout_words(layout, row) for row in rows])


def charged(ends, past):
    """The fault of the oldest of an engine's ends that post to a counter past its maximum."""
    late = [end for end in ends if end["valid"] and past[[end["post0"], end["post1"]]].any()]
    if not late:
        return {}
    oldest = min(late, key=lambda end: end["sequence"])
    place = {name: oldest[name] for name in ("pc", "sequence")}
    return {"valid": 1, "cause": OVERFLOW_FAULT, **place}


def play(rng, cycles, *, few, start_rate, post_rate):
    """Random heads and ends, and the starts they must give, to the first overflow; then cycles in
    which all could start, and none does after an overflow. Overflows are named OVERFLOW_CYCLES
    later."""
    counts = np.zeros(SEMAPHORES, np.int64)

    def number():
        return int(rng.integers(few if rng.random() < 0.9 else SEMAPHORES))

    heads, ends, starts, faults = [], [], [], []
    valid, ready = np.zeros((2, cycles + OVERFLOW_CYCLES), np.int64)
    for t in range(cycles):
        valid[t], ready[t] = (
            sum(int(rng.random() < start_rate) << e for e in range(WORKERS)) for _ in range(2)
        )
        heads.append([{"wait0": number(), "wait1": number()} for _ in range(WORKERS)])
        start = 0
        for e in range(WORKERS):
            after, good = counts.copy(), bool(valid[t] & ready[t] & 1 << e)
            for s in heads[t][e].values():
                good = good and (s == 0 or after[s] > 0)
                after[s] -= s > 0
            if good:
                start, counts = start | 1 << e, after
        starts.append(start)
        ends.append([])
        for n in (OUTSTANDING, OUTSTANDING, 1, 1):
            ends[t].append([
                {"valid": int(rng.random() < post_rate), "post0": number(), "post1": number(),
                 "pc": int(rng.integers(1 << 24)), "sequence": int(rng.integers(1 << 32))}
                for _ in range(n)
            ])  # fmt: skip
        for row in ends[t]:
            for end in row:
                for s in (end["post0"], end["post1"]):
                    counts[s] += end["valid"] and s > 0
        past = counts > SEMAPHORE_MAX
        faults.append([charged(row, past) for row in ends[t]])
        if past.any():
            break
    for t in range(len(starts), len(starts) + OVERFLOW_CYCLES):
        valid[t] = ready[t] = every = (1 << WORKERS) - 1
        starts.append(0 if past.any() else every)
        heads.append([{"wait0": 0, "wait1": 0}] * WORKERS)
        ends.append([[{}] * n for n in (OUTSTANDING, OUTSTANDING, 1, 1)])
    faults = [[{}] * WORKERS] * OVERFLOW_CYCLES + faults
    length = len(starts)
    inputs = {"valid": valid[:length], "ready": ready[:length], "stop": np.zeros(length)}
    inputs["waits"] = pack(
        np.array([[w for h in row for w in (h["wait0"], h["wait1"])] for row in heads]), 6
    )
    for e in range(WORKERS):
        inputs[f"ends{e}"] = stacked(END, [row[e] for row in ends])
    return inputs, np.array(starts), stacked(FAULT, faults)


@pytest.mark.parametrize(
    ("few", "start_rate", "post_rate"),
    [(3, 0.9, 0.3), (8, 0.9, 0.3), (64, 0.9, 0.9), (5, 0.5, 0.5), (2, 1.0, 0.2)],
)
def test_random_cycles(sim, rng, few, start_rate, post_rate):
    """Every start until a counter passes its maximum, and who is charged with it."""
    counts = np.zeros(16, np.int64)
    for _ in range(3):
        inputs, starts, faults = play(rng, 300, few=few, start_rate=start_rate, post_rate=post_rate)
        shown = sim.run(clear=0, **inputs)
        np.testing.assert_array_equal(shown["start"], starts)
        np.testing.assert_array_equal(shown["overflow"], faults)
        counts += np.bincount(starts, minlength=16)
    assert (counts > 0).sum() > 4  # several engines in one cycle


def test_overflow_is_reached(sim, rng):
    """Some of many runs post too much; the last cycle names the first of each engine that did."""
    named = 0
    for _ in range(10):
        inputs, _, faults = play(rng, 400, few=2, start_rate=0.1, post_rate=0.8)
        shown = sim.run(clear=0, **inputs)
        np.testing.assert_array_equal(shown["overflow"], faults)
        named += bool(faults[-1].any())
    assert named == 10


def test_clear_and_stop(sim, rng):
    inputs, starts, _ = play(rng, 40, few=3, start_rate=0.9, post_rate=0.3)
    twice = {name: np.concatenate([rows, rows]) for name, rows in inputs.items()}
    length = len(starts)
    clear = np.arange(2 * length) == length - 1  # also what is posted in that cycle
    shown = sim.run(clear=clear, **twice)
    np.testing.assert_array_equal(shown["start"], np.concatenate([starts, starts]))
    assert not sim.run(clear=0, **(inputs | {"stop": np.ones(length)}))["start"].any()
