"""The event-driven engine equals the cycle-stepped definition for every operation's dispatch,
start and end."""

from __future__ import annotations

import numpy as np
import pytest

from mellivora.sim.result import TimingResult
from mellivora.sim.stepped import Stepped
from mellivora.sim.timing import OPERATION, ChipNumbers, Role, run_operations
from mellivora.spec import load_chip

LOAD, STORE, MATRIX, VECTOR = range(4)
RATES = [(1, 8), (2, 7), (1, 4), (1, 1), (3, 2), (5, 3), (7, 2), (40, 3), (21, 1)]
CYCLE_LIMIT = 400_000


def semaphore(producer: int, consumer: int) -> int:
    return 1 + 4 * producer + consumer


def random_streams(rng: np.random.Generator, *, cores: int, steps: int) -> list[np.ndarray]:
    """Operations of each core that cannot deadlock: a wait takes a token that an earlier row
    posts, a semaphore has one producer and one consumer engine, and all cores have the same
    collectives in the same order."""
    plan = rng.choice(len(Role), size=steps, p=[0.4, 0.1, 0.34, 0.1, 0.06])
    shared = rng.integers(1, 40, size=steps)  # bursts of a LOADM, cost of a collective
    dense = rng.random() < 0.5  # many transfers at once, or a chain of waits
    streams = []
    for _ in range(cores):
        tokens: dict[int, int] = {}
        rows = []
        for step, role in enumerate(plan):
            copies = 1 if role in (Role.MULTICAST, Role.COLLECTIVE) else int(rng.integers(0, 3))
            for _ in range(copies):
                rows.append(random_operation(rng, Role(role), int(shared[step]), tokens, dense))
        streams.append(np.array(rows, OPERATION))
    return streams


def random_operation(
    rng: np.random.Generator, role: Role, shared: int, tokens: dict[int, int], dense: bool
) -> np.ndarray:
    one = np.zeros((), OPERATION)
    engine = {Role.MULTICAST: LOAD, Role.COLLECTIVE: STORE, Role.COMPUTE: int(rng.integers(2, 4))}
    one["engine"] = engine.get(role, int(rng.integers(0, 2)))
    one["role"] = role
    one["gap"] = rng.choice([1, 2, 5, 40], p=[0.7, 0.15, 0.1, 0.05])
    one["cost"] = (
        shared if role == Role.COLLECTIVE else 1 if role == Role.ORDER else rng.integers(1, 30)
    )
    if role == Role.TRANSFER:
        one["bursts"] = rng.choice([0, 1, 2, 7, 33, 100])
        one["after"] = rng.random() < 0.2
    if role == Role.MULTICAST:
        one["bursts"] = shared
    for field in ("wait0", "wait1"):
        able = [s for p in range(4) if tokens.get(s := semaphore(p, int(one["engine"])))]
        if able and rng.random() < (0.15 if dense else 0.7):
            one[field] = rng.choice(able)
            tokens[int(one[field])] -= 1
    for field in ("post0", "post1"):
        if rng.random() < 0.4:
            one[field] = semaphore(int(one["engine"]), int(rng.integers(0, 4)))
    for field in ("post0", "post1"):
        tokens[int(one[field])] = tokens.get(int(one[field]), 0) + 1
    return one


def random_numbers(rng: np.random.Generator) -> ChipNumbers:
    num, den = RATES[int(rng.integers(len(RATES)))]
    return ChipNumbers(
        queue_depth=int(rng.integers(2, 6)),
        outstanding=int(rng.integers(2, 5)),
        latency=int(rng.choice([0, 1, 9, 50])),
        num=num,
        den=den,
        port=int(rng.choice([1, 2, 4])),
    )


def assert_equal(streams: list[np.ndarray], numbers: ChipNumbers) -> int:
    """Both machines on the same streams; returns the cycles of the twin."""
    twin = Stepped(streams, numbers)
    assert twin.run(CYCLE_LIMIT), f"not done after {CYCLE_LIMIT} cycles: {numbers}"
    *times, report = run_operations(streams, numbers)
    assert report[0] == 0
    for core, slow in enumerate(twin.cores):
        for name, fast in zip(("dispatch", "start", "end"), times, strict=True):
            assert fast[core].tolist() == getattr(slow, name), (core, name, numbers)
    return twin.now


@pytest.mark.parametrize("cores", [1, 2, 4])
@pytest.mark.parametrize("block", range(4))
def test_twins_agree(cores: int, block: int) -> None:
    for seed in range(30):
        rng = np.random.default_rng([cores, block, seed])
        streams = random_streams(rng, cores=cores, steps=int(rng.integers(1, 30)))
        assert_equal(streams, random_numbers(rng))


@pytest.mark.parametrize("seed", range(8))
def test_twins_agree_on_sixteen_cores(seed: int) -> None:
    rng = np.random.default_rng([16, seed])
    numbers = random_numbers(rng)._replace(num=RATES[seed][0], den=RATES[seed][1])
    assert_equal(random_streams(rng, cores=16, steps=12), numbers)


@pytest.mark.nightly
@pytest.mark.parametrize("block", range(30))
def test_twins_agree_at_length(block: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng([7, block, seed])
        cores = int(rng.choice([1, 2, 3, 4, 8, 16]))
        streams = random_streams(rng, cores=cores, steps=int(rng.integers(1, 60)))
        assert_equal(streams, random_numbers(rng))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("requesters", [1, 2, 3, 5])
def test_arbiter_alone(rate: tuple[int, int], requesters: int) -> None:
    """Only loads and stores, ports between starved and never the limit; sizes about multiples of
    the port."""
    for port in (1, 2, 4, 8):
        rng = np.random.default_rng([*rate, requesters, port])
        cores = -(-requesters // 2)
        streams = []
        for core in range(cores):
            rows = np.zeros(12, OPERATION)
            both = 2 * core + 1 < requesters
            rows["engine"] = rng.integers(0, 2, size=12) if both else LOAD
            rows["role"], rows["gap"], rows["cost"] = Role.TRANSFER, 1, 1
            rows["bursts"] = rng.choice([1, port - 1, port, port + 1, 3 * port, 17], size=12)
            streams.append(rows)
        assert_equal(streams, ChipNumbers(4, 3, int(rng.integers(0, 9)), *rate, port))


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_busy_and_stalls_fill_the_clock(cores: int) -> None:
    """Every cycle of every engine is busy or has exactly one cause of stall."""
    chip = load_chip("m1").replace(
        cores=cores, queue_depth=4, outstanding_transfers=2, dram_gbps=96
    )
    for seed in range(20):
        rng = np.random.default_rng([5, cores, seed])
        streams = random_streams(rng, cores=cores, steps=30)
        dispatch, start, end, _ = run_operations(streams, ChipNumbers.of(chip))
        result = TimingResult(chip, [], streams, dispatch, start, end)
        assert (result.stall_cycles >= 0).all()
        total = result.busy_cycles + result.stall_cycles.sum(axis=2)
        assert (total == result.cycles).all()
