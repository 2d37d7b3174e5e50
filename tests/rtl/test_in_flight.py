"""Places of started operations against a deque, also where one ends in the cycle of its start."""

from collections import deque

import numpy as np
import pytest

from mellivora.rtl.in_flight import PLACE, InFlight
from mellivora.rtl.interfaces import END
from mellivora.rtl.simulate import build, pack


@pytest.mark.parametrize("most", [1, 3])
def test_against_a_deque(most, rng):
    count = 5000
    start, clear, ended, oldest = np.zeros((4, count), np.int64)
    ends = np.zeros((count, most * END.size), np.int64)
    flight = deque()
    for t in range(count):
        oldest[t] = flight[0] if flight else -1
        start[t] = len(flight) < most and rng.random() < 0.6
        if start[t]:
            flight.append(t)
        ended[t] = rng.integers(0, len(flight) + 1) if rng.random() < 0.5 else 0
        for i in range(ended[t]):
            ends[t, i * END.size + END["valid"].offset] = 1
            flight.popleft()
        clear[t] = rng.random() < 0.002
        if clear[t]:
            flight.clear()
    assert {int(n) for n in ended} == set(range(most + 1))
    place = pack(np.stack([np.arange(count) % 4096, np.arange(count)], axis=1), PLACE["pc"].width)
    place = place[:, : -(-PLACE.size // 32)]
    inputs = {"clear": clear, "start": start, "place": place, "ends": pack(ends, 1)}
    shown = build(InFlight(most)).run(**inputs)
    np.testing.assert_array_equal(shown["ended"], ended)
    np.testing.assert_array_equal(shown["busy"], oldest >= 0)
    np.testing.assert_array_equal(shown["oldest"][oldest >= 0], place[oldest[oldest >= 0]])
