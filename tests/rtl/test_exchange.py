"""EXCH and BARRIER between cores: cycles, faults, and cores that come to different ones.

Random ones, among transfers, are in test_memory_port.py.
"""

import numpy as np
import pytest
from tests.rtl import dma_streams as streams
from tests.rtl.dma_bench import Run
from tests.rtl.test_memory_port import NANO, PAIR

from mellivora.errors import SpecError
from mellivora.isa import latency
from mellivora.isa.encoding import R_GAP, STORE
from mellivora.rtl.emit import rtlil
from mellivora.rtl.exchange import Exchange
from mellivora.rtl.exchange_link import LEAST_LATENCY, check_exchange
from mellivora.spec import load_chip

QUARTER = PAIR.sram_bytes // 4
SLOTS = [3 * QUARTER, 2 * QUARTER, 40, 40, 3, 80, 50]
"""dst, src, bytes, dst_stride, rows, dst_row, src_row; of every core."""


def run(rng, rows, cycles=400):
    dram, pads = streams.memories(rng, PAIR)
    dispatch = [np.cumsum(mine[:, R_GAP]) for mine in rows]
    done = Run(PAIR, streams.windows_of(PAIR), rows, dispatch, dram, pads, cycles=cycles)
    np.testing.assert_array_equal(done.dram, dram)
    np.testing.assert_array_equal(done.pads, pads, "nothing is written")
    assert not done.shown["store0_active"][-50:].any()
    return done


def test_one_core_exchanges_with_itself(rng):
    exch = [streams.collective(rng, NANO)[0] for _ in range(12)]
    streams.check(rng, NANO, [np.stack([*exch, streams.row("ssync")])])


def test_the_last_core_decides(rng):
    """Both end latency + rows later, counted from the later one."""
    exch = streams.row("exch", SLOTS)
    rows = [np.stack([exch]), np.stack([streams.row("ssync", gap=100), exch])]
    done = streams.check(rng, PAIR, rows)
    cost = int(latency.exchange(exch[None], PAIR)[0])
    assert cost == PAIR.exchange_latency_cycles + 2 * 3 * 3
    assert done.end[0][0] == done.end[1][1] == done.start[1][1] + cost


@pytest.mark.parametrize("index", [2, 4], ids=["bytes", "rows"])
def test_sizes_that_differ_are_a_fault_of_the_other_core(index, rng):
    other = list(SLOTS)
    other[index] -= 1
    barrier = streams.row("barrier")
    rows = [np.stack([streams.row("exch", slots), barrier]) for slots in (SLOTS, other)]
    done = run(rng, rows)
    assert done.fault == {(1, STORE): (5, 0)}
    assert [end.tolist() for end in done.end] == [[-1, -1]] * 2
    assert [start[1] for start in done.start] == [-1, -1]


def test_a_fault_of_its_own_stops_all_and_comes_before_sizes(rng):
    other = list(SLOTS)
    other[0], other[2] = PAIR.sram_bytes - 10, 41
    done = run(rng, [np.stack([streams.row("exch", slots)]) for slots in (SLOTS, other)])
    assert done.fault == {(1, STORE): (3, 0)}
    assert done.end[0][0] == -1


def test_cores_at_different_collectives_wait_for_ever(rng):
    rows = [np.stack([streams.row("exch", SLOTS)]), np.stack([streams.row("barrier")])]
    done = run(rng, rows)
    assert not done.fault
    assert [end.tolist() for end in done.end] == [[-1], [-1]]


def test_too_short_a_latency_is_refused():
    with pytest.raises(SpecError) as raised:
        check_exchange(PAIR.replace(exchange_latency_cycles=LEAST_LATENCY - 1))
    assert raised.value.code == "MV0121"


@pytest.mark.parametrize("name", ["nano", "micro", "m1"])
def test_it_elaborates_for_every_chip(name):
    assert rtlil(Exchange(load_chip(name)))
