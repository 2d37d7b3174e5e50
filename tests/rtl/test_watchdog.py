"""The watchdog expires after its cycles, not before, and only where somebody is not done."""

import numpy as np

from mellivora.rtl.simulate import build
from mellivora.rtl.watchdog import WATCHDOG_CYCLES, Watchdog


def expiries(quiet, done):
    return np.flatnonzero(build(Watchdog(2)).run(quiet=quiet, done=done)["expired"]).tolist()


def test_to_the_cycle():
    cycles = 3 * WATCHDOG_CYCLES
    quiet, done = np.full(cycles, 3), np.full(cycles, 1)
    assert expiries(quiet, done) == [WATCHDOG_CYCLES * k - 1 for k in (1, 2, 3)]
    quiet[WATCHDOG_CYCLES - 1] = 2  # one cycle of one core: it counts anew
    assert expiries(quiet, done) == [2 * WATCHDOG_CYCLES - 1, 3 * WATCHDOG_CYCLES - 1]
    assert expiries(np.full(cycles, 3), np.full(cycles, 3)) == []
    assert expiries(np.full(cycles, 1), done) == []
