"""LOAD: what is wrong leaves no trace, what is empty or a sync keeps its place in the order."""

import numpy as np
import pytest
from tests.rtl import dma_streams as streams
from tests.rtl.test_memory_port import PAIR

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


@pytest.mark.parametrize("name", ["nano", "micro", "m1"])
def test_it_elaborates_for_every_chip(name):
    assert rtlil(LoadEngine(load_chip(name)))
