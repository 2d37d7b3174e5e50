"""Operations in flight end in order, several in one cycle, as `sim.stepped` has it."""

from dataclasses import dataclass

import numpy as np
import pytest

from mellivora.rtl.dma_flight import DmaFlight
from mellivora.rtl.interfaces import OPERATION
from mellivora.rtl.simulate import build

OUTSTANDING, CYCLES = 3, 4000
ISSUE = 6


@dataclass
class One:
    sequence: int
    ready: int  # the edge at which it may end, if it has no data
    has_data: bool


@pytest.mark.parametrize("most", [1, 3])
def test_ends_are_those_of_a_queue(most, rng):
    """A plain queue: each cycle, what may end at the next edge is shown, in order.

    most: operations with data that may have their last data in one cycle.
    """
    names = ("start", "sync", "issued", "empty", "arrived")
    inputs = {name: np.zeros(CYCLES, np.uint32) for name in names}
    words = np.zeros((CYCLES, -(-OPERATION.size // 32)), np.uint32)
    room, quiet, ends = [], [], []
    flight, free_at, start_at, sequence, several = [], 0, 0, 0, 0
    for t in range(CYCLES):
        room.append(len(flight) < OUTSTANDING)
        quiet.append(not flight)
        if flight and free_at - 1 == t and not inputs["sync"][start_at]:
            inputs["issued"][t], inputs["empty"][t] = 1, not flight[-1].has_data
        waits = sum(one.has_data and one.ready <= t for one in flight)
        comes = rng.random() < (0.2 if t & 512 else 1)
        arrivals = int(rng.integers(1, min(waits, most) + 1)) if waits and comes else 0
        inputs["arrived"][t] = arrivals
        if room[-1] and free_at <= t and rng.random() < 0.7:
            start_at, sequence = t, sequence + 1
            sync = inputs["sync"][t] = rng.random() < 0.5
            inputs["start"][t] = 1
            free_at = t + (1 if sync else ISSUE)
            flight.append(One(sequence, free_at, not sync and rng.random() < 0.6))
            post0, post1, pc = sequence % 64, sequence // 3 % 64, sequence * 7
            fields = {"post0": post0, "post1": post1, "pc": pc, "sequence": sequence}
            value = OPERATION.const(fields).as_value().value
            words[t] = [value >> 32 * k & 0xFFFF_FFFF for k in range(words.shape[1])]
        ended = []
        while flight and (arrivals if flight[0].has_data else flight[0].ready <= t + 1):
            arrivals -= flight[0].has_data
            ended.append(flight.pop(0).sequence)
        several += len(ended) > 1
        ends.append(ended)
    shown = build(DmaFlight(OUTSTANDING, most)).run(**inputs, op=words)
    np.testing.assert_array_equal(shown["room"], room)
    np.testing.assert_array_equal(shown["quiet"], quiet)
    assert several > 100
    size = 69
    for t, expected in enumerate(ends):
        value = sum(int(word) << 32 * k for k, word in enumerate(shown["ends"][t]))
        entries = [value >> size * i & (1 << size) - 1 for i in range(OUTSTANDING)]
        found = sorted(one >> 37 for one in entries if one & 1)
        assert found == expected, t
        for one in entries:
            if one & 1:
                sequence = one >> 37
                fields = (one >> 1 & 63, one >> 7 & 63, one >> 13 & (1 << 24) - 1)
                assert fields == (sequence % 64, sequence // 3 % 64, sequence * 7)
