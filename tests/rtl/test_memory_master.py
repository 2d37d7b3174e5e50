"""A master against two queues: what it asks, when, and whether it has a place for one more."""

from collections import deque

import numpy as np
import pytest
from tests.rtl.dma_streams import chip_of
from tests.rtl.wide_ports import number, words

from mellivora.rtl.dma_walker import burst_bits
from mellivora.rtl.interfaces import ADDRESS_BITS
from mellivora.rtl.memory_link import STORE_DATA_CYCLES
from mellivora.rtl.memory_master import WRITE_BUFFER, MemoryMaster
from mellivora.rtl.simulate import build

CHIP = chip_of(cores=2, dram_gbps=80, core_port_bytes_per_cycle=64)
CORES, WAYS, CYCLES = 2, 4, 4000
BEAT_BITS = 9 * CHIP.dram_burst_bytes


@pytest.mark.parametrize("ready", [0.9, 0.3])
def test_against_two_queues(ready, rng):
    place = burst_bits(CHIP)
    loads, stores = rng.integers(0, 1 << (ADDRESS_BITS - place), (2, CYCLES, CORES * WAYS))
    beats = [[number(rng.integers(0, 1 << 32, 5)) % (1 << BEAT_BITS) for _ in range(CORES * WAYS)]
             for _ in range(CYCLES)]  # fmt: skip
    bus = {name: rng.random(CYCLES) < ready for name in ("arready", "awready", "wready")}
    readers, writers, rounds = np.zeros((3, CYCLES), np.uint32)
    reads, addresses, data, late = deque(), deque(), deque(), deque()
    granted = {"aw": 0, "w": 0}
    wanted = []
    for t in range(CYCLES):
        may_read, may_write = len(reads) < 2, max(granted.values()) < WRITE_BUFFER
        if late and late[0][0] + STORE_DATA_CYCLES == t - 1:  # in the queues from this cycle on
            at, which = late.popleft()
            addresses.append(int(stores[at, which]) << place)
            data.append(beats[at + STORE_DATA_CYCLES][which])
        wanted.append((may_read, may_write, *(queue[0] if queue else None
                       for queue in (reads, addresses, data))))  # fmt: skip
        kind, core, k = (
            rng.choice(["read", "write", "none"], p=[0.45, 0.45, 0.1]),
            rng.integers(CORES),
            rng.integers(WAYS),
        )
        rounds[t] = 1 << k
        if reads and bus["arready"][t]:
            reads.popleft()
        if kind == "read" and may_read:
            readers[t] = 1 << core if rng.random() < 0.7 else 3  # a multicast is of all cores
            which = (0 if readers[t] == 3 else core) * WAYS + k
            reads.append(int(loads[t, which]) << place)
        for name, queue in (("aw", addresses), ("w", data)):
            if queue and bus[f"{name}ready"][t]:
                queue.popleft()
                granted[name] -= 1
        if kind == "write" and may_write and t + STORE_DATA_CYCLES < CYCLES:
            writers[t] = 1 << core
            granted = {name: count + 1 for name, count in granted.items()}
            late.append((t, core * WAYS + k))
    shown = build(MemoryMaster(CHIP)).run(
        readers=readers,
        writers=writers,
        round=rounds,
        loads=words(loads, ADDRESS_BITS - place),
        stores=words(stores, ADDRESS_BITS - place),
        beats=words(beats, BEAT_BITS),
        **bus,
    )
    for t, (may_read, may_write, read, address, beat) in enumerate(wanted):
        assert (shown["may_read"][t], shown["may_write"][t]) == (may_read, may_write), t
        for name, one in (("ar", read), ("aw", address), ("w", beat)):
            assert shown[f"{name}valid"][t] == (one is not None), (name, t)
        if read is not None:
            assert number(shown["araddr"][t]) == read
        if address is not None:
            assert number(shown["awaddr"][t]) == address
        if beat is not None:
            assert (
                number(shown["wdata"][t]) | number(shown["wstrb"][t]) << (BEAT_BITS * 8 // 9)
                == beat
            )
    full = np.mean([[not one[0], not one[1]] for one in wanted], axis=0)
    assert (full > 0.02).all() or ready > 0.5
