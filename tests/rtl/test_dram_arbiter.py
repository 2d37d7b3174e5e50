"""The arbiter grants what the definition does, at any rate, to any requesters."""

import numpy as np
import pytest
from tests.rtl.wide_ports import number, words

from mellivora.rtl.dram_arbiter import DramArbiter
from mellivora.rtl.simulate import build
from mellivora.spec import load_chip


@pytest.mark.parametrize(
    ("cores", "gbps", "ways"),
    [
        *((1, 8, 1), (2, 24, 1), (3, 64, 1), (2, 10.1, 1), (2, 160, 2), (2, 300.5, 4)),
        pytest.param(5, 1344, 4, marks=pytest.mark.nightly),
    ],
)
def test_grants_are_those_of_the_definition(cores, gbps, ways, rng):
    """floor(num*(T+1)/den) - floor(num*T/den) a cycle, one at a time from the pointer on, no more
    to one than it has and `ways`."""
    chip = load_chip("nano").replace(cores=cores, dram_gbps=gbps, dram_latency_cycles=37)
    chip = chip.replace(core_port_bytes_per_cycle=ways * chip.dram_burst_bytes)
    num, den, latency = chip.dram_bursts_num, chip.dram_bursts_den, chip.dram_latency_cycles
    n, cycles, held = 2 * cores + 1, 5_000, 11
    crowd = np.repeat(rng.random(cycles // 100), 100)  # times of many and of few requests
    asks = rng.integers(1, ways + 1, (cycles, n)) * (rng.random((cycles, n)) < crowd[:, None])
    hold, bits = np.arange(cycles) < held, ways.bit_length()
    shown = build(DramArbiter(chip)).run(hold=hold, asks=words(asks, bits))
    pointer, given = 0, 0
    for cycle in range(held, cycles):
        at = cycle - held + latency
        budget = num * (at + 1) // den - num * at // den
        grants, slots, rounds, in_vain = [0] * n, [], [], 0
        who = pointer
        while budget and in_vain < n:
            who %= n
            if grants[who] == asks[cycle, who]:
                in_vain += 1
            else:
                slots.append(1 << who)
                rounds.append(1 << grants[who])
                grants[who] += 1
                budget, in_vain, pointer = budget - 1, 0, who + 1
            who += 1
        given += sum(grants)
        for name, expected, width in (
            ("grants", grants, bits),
            ("slots", slots, n),
            ("rounds", rounds, ways),
        ):
            found = number(shown[name][cycle])
            assert found == sum(one << width * i for i, one in enumerate(expected)), (name, cycle)
    assert given > cycles * num // den // 2
