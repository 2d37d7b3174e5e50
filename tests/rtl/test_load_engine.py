"""LOAD: what is wrong leaves no trace, what is empty or a sync keeps its place in the order."""

import numpy as np
import pytest
from tests.rtl import dma_streams as streams
from tests.rtl.test_memory_port import PAIR

from mellivora.isa.encoding import GATHER_PAGES
from mellivora.rtl.emit import rtlil
from mellivora.rtl.load_engine import LoadEngine
from mellivora.spec import load_chip


def past_the_window(slots, config):
    slots[1] += 1 << 20


def before_the_window(slots, config):
    slots[1], slots[2] = 0, -1


def no_window(slots, config):
    slots[0] = PAIR.windows


def negative_stride(slots, config):
    config[4] = -1


def past_the_scratchpad(slots, config):
    slots[3] = PAIR.sram_bytes - slots[4] + 1


def before_the_scratchpad(slots, config):
    slots[3] = -1


@pytest.mark.parametrize(
    ("cause", "damage"),
    [
        (2, past_the_window),
        (2, before_the_window),
        (2, no_window),
        (2, negative_stride),
        (3, past_the_scratchpad),
        (3, before_the_scratchpad),
    ],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_violation_sends_and_writes_nothing(cause, damage, rng):
    streams.check_fault(rng, PAIR, "load", cause, damage)


def test_syncs_and_transfers_of_no_bytes_end_in_order(rng):
    """A transfer with two of each behind it, again and again: they end with it, or in time."""
    name, sync = "load", "lsync"
    rows = []
    for _ in range(8):
        rows.append(streams.transfer(rng, name, PAIR, 0))
        rows += [streams.row(sync), streams.row(sync, gap=int(rng.integers(1, 60)))]
        rows += [streams.empty(rng, name), streams.row(sync, gap=int(rng.integers(1, 9)))]
    rows = [np.stack(rows), streams.row(sync)[None]]
    run = streams.check(rng, PAIR, rows)
    ends = run.end[0].tolist()
    assert len(set(ends)) < len(ends) - 8, "several in one cycle"


def too_many_pages(slots, config):
    slots[7] = GATHER_PAGES + 1


def pages_not_bursts_apart(slots, config):
    config[2] += 1


def pages_that_go_down(slots, config):
    config[2] = -PAIR.dram_burst_bytes


def pages_past_the_scratchpad(slots, config):
    slots[3] = PAIR.sram_bytes


def odd_table(slots, config):
    config[6] += 2


def table_past_the_scratchpad(slots, config):
    config[6] = PAIR.sram_bytes - 4 * slots[7] + 4


def table_before_the_scratchpad(slots, config):
    config[6] = -4


def page_past_the_window(slots, config):
    slots[7] = 12
    config[2], config[5] = 1 << 30, 0


def page_below_0(slots, config):
    config[6] = PAIR.sram_bytes // 2 + 4 * (streams.TABLE_ENTRIES + 1 - slots[7])


@pytest.mark.parametrize(
    ("cause", "damage"),
    [
        (5, too_many_pages),
        (4, pages_not_bursts_apart),
        (2, pages_that_go_down),
        (2, past_the_window),
        (2, before_the_window),
        (2, no_window),
        (3, pages_past_the_scratchpad),
        (4, odd_table),
        (3, table_past_the_scratchpad),
        (3, table_before_the_scratchpad),
        (2, page_past_the_window),
        (2, page_below_0),
    ],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_wrong_page_or_table_sends_and_writes_nothing(cause, damage, rng):
    streams.check_fault(rng, PAIR, "loadx", cause, damage, read_all=damage is not too_many_pages)


def test_pages_give_a_fragment_a_cycle(rng):
    """Pages of a burst: before them is nothing but the latency and a cycle for each entry."""
    burst, half = PAIR.dram_burst_bytes, PAIR.sram_bytes // 2
    rows = [
        streams.row("loadx", [0, 0, 0, 0, burst, 1, 1, pages], [0, 0, burst, 0, 0, burst, half])
        for pages in (1, 2, 3, streams.TABLE_ENTRIES)
    ]
    run = streams.check(rng, PAIR, [np.stack(rows), streams.row("lsync")[None]])
    took = (run.end[0] - run.start[0]).tolist()
    assert took == [6 + PAIR.dram_latency_cycles + 2 * n for n in (1, 2, 3, streams.TABLE_ENTRIES)]


def test_a_load_brings_the_table(rng):
    """Copies of the table in turn, each followed at once by a LOADX that reads its pages there."""
    burst, rows = PAIR.dram_burst_bytes, []
    for i in range(12):
        entries = int(rng.integers(1, 13))
        first = int(rng.integers(streams.TABLE_ENTRIES - entries + 1))
        size, place = 4 * entries, 256 * (i % 3)
        rows.append(streams.row("load", [0, 0, 4 * first, place, size, 1, 1, 1], [0] * 6))
        pitch = burst * int(rng.integers(1, 3))
        strides = [0, 0, pitch, 0, 0, burst + 1, place]
        rows.append(streams.row("loadx", [0, 2, 5, 1024, burst + 1, 1, 1, entries], strides))
    streams.check(rng, PAIR, [np.stack(rows), streams.row("lsync")[None]])


@pytest.mark.parametrize("name", ["nano", "micro", "m1"])
def test_it_elaborates_for_every_chip(name):
    assert rtlil(LoadEngine(load_chip(name)))
