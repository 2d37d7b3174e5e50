"""The arbiter grants what the definition does, at any rate, to any requesters."""

from types import SimpleNamespace

import numpy as np
import pytest

from mellivora.rtl.dram_arbiter import DramArbiter
from mellivora.rtl.simulate import build
from mellivora.spec import load_chip


@pytest.mark.parametrize(("cores", "gbps"), [(1, 8), (2, 24), (3, 64), (2, 10.1)])
def test_grants_are_those_of_the_definition(cores, gbps, rng):
    """floor(num*(T+1)/den) - floor(num*T/den) a cycle, one at a time from the pointer on."""
    chip = load_chip("nano").replace(cores=cores, dram_gbps=gbps, dram_latency_cycles=37)
    num, den, latency = chip.dram_bursts_num, chip.dram_bursts_den, chip.dram_latency_cycles
    n, cycles, held = 2 * cores + 1, 5_000, 11
    crowd = np.repeat(rng.random(cycles // 100), 100)  # times of many and of few requests
    asks = (rng.random((cycles, n)) < crowd[:, None]).astype(int)
    hold = np.arange(cycles) < held
    shown = build(DramArbiter(chip)).run(hold=hold, asks=asks @ (1 << np.arange(n)))["grants"]
    state = SimpleNamespace(pointer=0, given=0)
    for cycle in range(held, cycles):
        at = cycle - held + latency
        expected = 0
        if num * (at + 1) // den - num * at // den:
            order = [(state.pointer + i) % n for i in range(n)]
            served = next((one for one in order if asks[cycle, one]), None)
            if served is not None:
                expected, state.pointer, state.given = 1 << served, served + 1, state.given + 1
        assert shown[cycle] == expected, cycle
    assert state.given > cycles * num // den // 2
