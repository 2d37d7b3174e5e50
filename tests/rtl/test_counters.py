"""The counters of whole runs are the stalls that `sim.stalls` finds afterwards."""

import numpy as np
import pytest
from tests.rtl.bench_counters import check_counters
from tests.rtl.bench_front import layout_words
from tests.rtl.bench_programs import built, launch, lowered, random_program, run, twin

from mellivora.rtl.counters import COUNTER_BITS, COUNTERS, Counters
from mellivora.rtl.front import EVENTS
from mellivora.rtl.simulate import build, unpack
from mellivora.sim.result import TimingResult

SIZE = (2, 2)


@pytest.fixture(scope="module")
def counters():
    return build(Counters())


def counted(sim, events, **others):
    """All counters after a run in which these events happened, and DRAM and ECC gave these."""
    cycles, names = len(events), list(COUNTERS)
    whole = cycles + len(names)
    inputs = {"clear": np.zeros(whole), "events": np.zeros((whole, events.shape[1]), np.uint32)}
    inputs["events"][:cycles] = events
    for name in ("dram_read", "dram_write", "ecc_corrected", "ecc_uncorrectable"):
        inputs[name] = np.concatenate([others.get(name, np.zeros(cycles)), np.zeros(len(names))])
    inputs["index"] = np.concatenate([np.zeros(cycles), np.arange(len(names))])
    shown = sim.run(**inputs)["value"][cycles:]
    low, high = unpack(shown, 32, 2).T
    return {name: int(a | b << 32) for name, a, b in zip(names, low, high, strict=True)}


def test_random_programs(counters):
    chip, sim = built(SIZE)
    rng = np.random.default_rng(11)
    wanted, launches = [], []
    while len(launches) < 30:
        code = random_program(rng, shared=False, real=True)
        latency = int(rng.choice([0, 9, 50]))
        table, rows, tail = lowered(code)
        dispatch, start, end, finished = twin(table, chip, latency)
        if not finished:
            continue
        # The chip of the result only says how long DRAM takes, for a split that is summed up.
        of = chip.replace(dram_latency_cycles=max(latency, 1))
        result = TimingResult(of, [rows], [table], [dispatch], [start], [end])
        wanted.append((result, int(dispatch[-1]) + tail))
        launches.append(launch(code, latency, int(end.max()) + 60))
    seen = dict.fromkeys(COUNTERS, 0)
    for shown, (result, halted) in zip(run(sim, launches), wanted, strict=True):
        got = counted(counters, shown["events"])
        check_counters(got, result, halted)
        for name, value in got.items():
            seen[name] += value
    never = {name for name, value in seen.items() if not value}
    assert never <= {name for name in COUNTERS if name.startswith(("dram", "ecc"))}


def running(rows):
    return np.stack([layout_words(EVENTS, [{"running": int(one)}]) for one in rows])


def test_memory_and_what_does_not_count(counters, rng):
    """Bursts and words are added as they come, while the core runs; nothing else moves."""
    alive = rng.random(3000) < 0.8
    inputs = {name: rng.integers(0, 2, 3000) for name in ("dram_read", "dram_write")}
    inputs |= {
        name: rng.integers(0, 1 << 12, 3000) for name in ("ecc_corrected", "ecc_uncorrectable")
    }
    got = counted(counters, running(alive), **inputs)
    assert got["cycles"] == alive.sum()
    for name, values in inputs.items():
        counter = name + "s" if name.startswith("dram") else name
        assert got[counter] == values[alive].sum()
    assert got["ecc_corrected"] > 1 << 16


def test_clear(counters):
    events = running(np.ones(50))
    inputs = dict.fromkeys(("dram_read", "dram_write", "ecc_corrected", "ecc_uncorrectable"), 0)
    shown = counters.run(clear=np.arange(50) == 30, events=events, index=0, **inputs)["value"]
    assert unpack(shown, COUNTER_BITS // 2, 2)[[30, 31, 49], 0].tolist() == [30, 0, 18]
