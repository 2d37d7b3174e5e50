"""Words that come by slot are put in the order of one core's fragments."""

import numpy as np
from tests.rtl.dma_streams import chip_of

from mellivora.rtl.beat_return import BeatReturn
from mellivora.rtl.simulate import build

CHIP = chip_of(cores=2, dram_gbps=80, core_port_bytes_per_cycle=64)
SLOTS, WAYS = 5, 4


def test_every_fragment_has_the_word_of_its_slot(rng):
    assert (CHIP.dram_slots, CHIP.core_port_bursts) == (SLOTS, WAYS)
    cycles, size = 2000, CHIP.dram_burst_bytes // 4
    words = rng.integers(0, 1 << 32, (cycles, SLOTS, size), dtype=np.uint32)
    mine, rounds = np.zeros((2, cycles), np.uint32)
    wanted = np.zeros((cycles, WAYS, size), np.uint32)
    for t in range(cycles):
        count = rng.integers(WAYS + 1)
        taken = rng.choice(SLOTS, count, replace=False)
        for slot in range(SLOTS):  # others have words in the rest, of any round
            own = np.flatnonzero(taken == slot)
            k = int(own[0]) if own.size else int(rng.integers(WAYS))
            rounds[t] |= 1 << k + WAYS * slot
            if own.size:
                mine[t] |= 1 << slot
                wanted[t, k] = words[t, slot]
    shown = build(BeatReturn(CHIP)).run(
        mine=mine, rounds=rounds, words=words.reshape(cycles, SLOTS * size)
    )
    np.testing.assert_array_equal(shown["data"], wanted.reshape(cycles, WAYS * size))
