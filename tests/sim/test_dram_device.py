"""DRAM beneath the arbiter: worked by hand, against a plain twin, and what streams get of it."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from mellivora.errors import SpecError
from mellivora.sim.dram import served
from mellivora.spec import load_chip
from mellivora.spec.dram_timing import IDEAL, DramTiming, dram_timing

ONE = DramTiming(
    channels=1,
    interleave_bytes=256,
    banks=4,
    row_bytes=1024,
    burst_num=5,
    burst_den=2,
    precharge=10,
    activate=12,
    row_cycle=40,
    to_read=9,
    to_write=4,
    refresh_interval=0,
    refresh=0,
    write_batch=4,
    window=8,
)
"""Row 1 of bank 0 is page 5, row 2 page 10: rows permute the banks."""


def reads(timing: DramTiming, *bursts: tuple[int, int]) -> list[int]:
    cycles, addresses = zip(*bursts)
    return served(timing, cycles, addresses, [False] * len(bursts)).tolist()


def test_a_closed_row_is_opened_and_then_hit():
    """Activated in 0, open in 12; a burst holds the bus for 2 1/2 cycles: 12, 14.5, 17."""
    assert reads(ONE, (0, 0), (0, 64), (0, 128)) == [12, 14, 17]
    assert reads(ONE, (0, 0), (50, 64)) == [12, 50]


def test_another_row_of_a_bank_waits_for_the_row_cycle():
    """Row 1 of bank 0 is page 5: precharged when 40 cycles from the activation in 0 are up."""
    assert reads(ONE, (0, 0), (13, 5 * 1024)) == [12, 40 + 12]
    assert reads(ONE, (0, 0), (100, 5 * 1024)) == [12, 100 + 10 + 12]


def test_another_bank_is_opened_meanwhile():
    """One activation a cycle: bank 1 is open in 13, the bus is free in 14.5."""
    assert reads(ONE, (0, 0), (0, 1024)) == [12, 14]


def test_an_open_row_goes_first():
    """The second asks for another row of the bank, the third for the open one; then it closes."""
    assert reads(ONE, (0, 0), (1, 5 * 1024), (2, 64)) == [12, 40 + 12, 14]


def test_only_the_oldest_are_seen():
    narrow = ONE._replace(window=2)
    bursts = [(0, 0), (1, 5 * 1024), (1, 10 * 1024), (1, 64)]
    assert reads(ONE, *bursts)[3] < 40 < reads(narrow, *bursts)[3]


def test_writes_are_kept_and_go_in_batches():
    """Four are kept in their cycles; then the bus turns to them before the read is moved, bank 1
    opens, four bursts go, and the bus turns back."""
    cycles = [0, 2, 3, 4, 5, 15]
    addresses = [0, 1024, 1088, 1152, 1216, 64]
    kinds = [False, True, True, True, True, False]
    got = served(ONE, cycles, addresses, kinds).tolist()
    assert got[1:5] == [2, 3, 4, 5]
    first_write = max(5 + ONE.to_write, 5 + ONE.activate)
    assert got[0] == int(first_write + 4 * 2.5 + ONE.to_read)
    assert got[5] == got[0] + 2


def test_more_writes_than_places_wait():
    """Twice a batch is kept; the ninth waits until the first has been moved."""
    got = served(ONE, [0] * 9, [64 * i for i in range(9)], [True] * 9).tolist()
    assert got[:8] == [0] * 8
    assert got[8] == 13, "opened in 12: moved then, its place free a cycle later"


def test_refresh_closes_all_rows():
    timing = ONE._replace(refresh_interval=100, refresh=30)
    assert reads(timing, (0, 0), (99, 64)) == [12, 99]
    assert reads(timing, (0, 0), (100, 64)) == [12, 130 + 12]
    assert reads(timing, (0, 0), (950, 64)) == [12, 950 + 12], "the ninth was in 900"
    assert reads(timing, (0, 0), (990, 64)) == [12, 1030 + 12], "not open before the tenth"
    assert reads(timing, (0, 0), (1010, 64)) == [12, 1030 + 12]


def test_channels_do_not_meet():
    two = ONE._replace(channels=2)
    assert reads(two, (0, 0), (0, 256)) == [12, 12]


class Plain:
    """The device, one cycle at a time and without a shortcut."""

    def __init__(self, timing: DramTiming) -> None:
        self.t = timing
        self.channels = [
            {
                "banks": [[-1, -(10**6), 0] for _ in range(timing.banks)],
                "reads": [],
                "waiting": deque(),
                "writes": [],
                "draining": 0,
                "bus": 0,
            }
            for _ in range(timing.channels)
        ]

    def run(self, cycles, addresses, writes) -> list[int]:
        t, out = self.t, [-1] * len(cycles)
        cycle = at = 0
        closed_until = 0
        while -1 in out:
            if t.refresh_interval and cycle and cycle % t.refresh_interval == 0:
                closed_until = cycle + t.refresh
                for channel in self.channels:
                    for bank in channel["banks"]:
                        bank[0] = -1
            while at < len(cycles) and cycles[at] <= cycle:
                piece, rest = divmod(addresses[at], t.interleave_bytes)
                inner, number = divmod(piece, t.channels)
                page = (inner * t.interleave_bytes + rest) // t.row_bytes
                row = page // t.banks
                request = (at, row, (page ^ row) % t.banks)
                self.channels[number]["waiting" if writes[at] else "reads"].append(request)
                at += 1
            for channel in self.channels:
                self._step(channel, cycle, closed_until, out)
            cycle += 1
        return out

    def _step(self, c, cycle, closed_until, out) -> None:
        t, den = self.t, self.t.burst_den
        while c["waiting"] and len(c["writes"]) < 2 * t.write_batch:
            request = c["waiting"].popleft()
            out[request[0]] = cycle
            c["writes"].append(request)
        if cycle < closed_until:
            return
        if not c["draining"] and len(c["writes"]) >= t.write_batch:
            c["draining"] = t.write_batch
            c["bus"] = max(c["bus"], cycle * den) + t.to_write * den
        self._open(c, cycle)
        while c["bus"] < (cycle + 1) * den:
            queue = c["writes"][: c["draining"]] if c["draining"] else c["reads"][: t.window]
            open_rows = {(n, bank[0]) for n, bank in enumerate(c["banks"]) if bank[2] <= cycle}
            ready = [q for q in queue if (q[2], q[1]) in open_rows]
            if not ready:
                return
            c["bus"] = max(c["bus"], cycle * den) + t.burst_num
            if not c["draining"]:
                out[ready[0][0]] = cycle
                c["reads"].remove(ready[0])
                continue
            c["writes"].remove(ready[0])
            c["draining"] -= 1
            if not c["draining"]:
                c["bus"] = max(c["bus"], cycle * den) + t.to_read * den

    def _open(self, c, cycle) -> None:
        t = self.t
        queue = c["writes"][: c["draining"]] if c["draining"] else c["reads"][: t.window]
        used = {q[2] for q in queue if c["banks"][q[2]][0] == q[1]}
        for _, row, number in queue:
            bank = c["banks"][number]
            closes = t.precharge if bank[0] >= 0 else 0
            if number in used or cycle + closes < bank[1] + t.row_cycle or cycle < bank[2]:
                continue
            bank[:] = [row, cycle + closes, cycle + closes + t.activate]
            return


@pytest.mark.parametrize("seed", range(30))
def test_the_plain_twin_agrees(seed):
    rng = np.random.default_rng([4, seed])
    timing = ONE._replace(
        channels=int(rng.integers(1, 4)),
        interleave_bytes=int(rng.choice([64, 256])),
        row_bytes=int(rng.choice([128, 1024])),
        burst_num=int(rng.integers(1, 9)),
        refresh_interval=int(rng.choice([0, 150, 400])),
        refresh=60,
        write_batch=int(rng.integers(1, 6)),
        window=int(rng.integers(1, 9)),
    )
    count = 300
    cycles = np.cumsum(rng.choice([0, 1, 2, 40], size=count, p=[0.4, 0.3, 0.25, 0.05])).tolist()
    streams = rng.integers(0, 1 << 14, size=4) & ~63
    addresses = []
    for _ in range(count):
        one = int(rng.integers(0, 4))
        addresses.append(int(streams[one]))
        streams[one] += 64 if rng.random() < 0.9 else 64 * int(rng.integers(0, 100))
    writes = (rng.random(count) < 0.3).tolist()
    got = served(timing, cycles, addresses, writes)
    assert got.tolist() == Plain(timing).run(cycles, addresses, writes)
    assert (got >= cycles).all()


def test_an_ideal_device_is_never_late():
    cycles = np.repeat(np.arange(50), 3)
    addresses = 64 * np.arange(150)[::-1]
    writes = np.arange(150) % 3 == 1
    assert (served(IDEAL, cycles, addresses, writes) == cycles).all()


@pytest.mark.parametrize("name", ["nano", "micro", "m1"])
def test_a_stream_gets_all_but_refresh(name):
    """One stream as fast as it can be taken: rows are opened while others are read, so that what
    refresh takes, and a row opened again after each, is all that is lost."""
    chip = load_chip(name)
    timing = dram_timing(chip)
    rate = chip.dram_bursts_num / chip.dram_bursts_den
    count = int(rate * 30_000)
    cycles = (np.arange(count) / rate).astype(np.int64)
    done = served(timing, cycles, 64 * np.arange(count), np.zeros(count))
    share = count / rate / int(done.max())
    lost = timing.refresh + timing.activate + timing.burst_num / timing.burst_den
    assert 1 - lost / timing.refresh_interval - 0.01 < share
    assert share < 1 - timing.refresh / timing.refresh_interval + 0.01


def test_figures_are_those_of_the_standards():
    """LPDDR5 at 1 GHz: 18.75 ns is 19 cycles; half of a channel's 17 GB/s is one burst in 8."""
    timing = dram_timing(load_chip("nano"))
    assert (timing.channels, timing.banks, timing.row_bytes) == (1, 16, 2048)
    assert (timing.precharge, timing.activate, timing.row_cycle) == (19, 19, 62)
    assert (timing.refresh_interval, timing.refresh) == (3906, 280)
    assert (timing.burst_num, timing.burst_den) == (8, 1)
    assert dram_timing(load_chip("m1")).channels == 48


@pytest.mark.parametrize(
    "chip", [load_chip("predecessor"), load_chip("nano").replace(dram_latency_cycles=7)]
)
def test_a_chip_without_dram_or_with_one_too_near_is_refused(chip):
    with pytest.raises(SpecError) as error:
        dram_timing(chip)
    assert error.value.code == "MV0119"
