"""Buffers behind flip-flops: nothing drives more than it should, and no bit changes."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mellivora.rtl.fan_out import BUFFER_LOADS, FLOP_LOADS, buffered
from mellivora.rtl.gate_level import GateLevel
from mellivora.rtl.liberty import read_library
from mellivora.rtl.static_timing import Netlist, analyse

TINY = read_library(Path(__file__).parents[1] / "data" / "tiny.lib")
UNIT_FF = 1.0  # an input of the tiny inverter


def wide(sinks):
    """A flip-flop whose output goes to that many inverters, each an output."""
    cells = {"q": {"type": "DFF", "connections": {"CLK": [2], "D": [3], "Q": [4]}}}
    for i in range(sinks):
        cells[f"i{i}"] = {"type": "INV", "connections": {"A": [4], "Y": [5 + i]}}
    ports = {"clk": ("input", [2]), "d": ("input", [3]), "y": ("output", list(range(5, 5 + sinks)))}
    return {
        "cells": cells,
        "ports": {name: {"direction": way, "bits": bits} for name, (way, bits) in ports.items()},
        "netnames": {"unused": {"bits": [5000]}},
    }


def test_little_is_left_alone():
    module = wide(FLOP_LOADS)
    assert buffered(module, TINY) == 0
    assert module == wide(FLOP_LOADS)


@pytest.mark.parametrize("sinks", [FLOP_LOADS + 1, 100, 1000])
def test_nothing_drives_more_than_it_should(sinks):
    module = wide(sinks)
    added = buffered(module, TINY)
    assert added == len(module["cells"]) - sinks - 1 > 0
    net = Netlist(module, TINY)
    for bit, driver in net.driver.items():
        most = FLOP_LOADS if net.cells[driver][0].is_sequential else BUFFER_LOADS
        assert net.load[bit] <= most * UNIT_FF
    assert 5000 not in net.driver  # a net that has a name is nobody's new one


def test_bits_stay_and_delay_falls():
    before, after = wide(500), wide(500)
    buffered(after, TINY)
    rows = np.array([[0], [1]], bool)
    shown = []
    for module in (before, after):
        level = GateLevel(deepcopy(module), TINY)
        shown.append(level.run({"clk": rows * 0, "d": rows}, cycles=1)["y"])
    np.testing.assert_array_equal(*shown)
    assert not shown[0][1].any()
    slow, fast = (analyse(module, TINY).longest.delay_ps for module in (before, after))
    assert fast < slow / 2


def test_a_library_without_a_buffer_changes_nothing():
    bare = replace(TINY, cells={n: cell for n, cell in TINY.cells.items() if n != "BUF"})
    module = wide(100)
    assert buffered(module, bare) == 0
    assert module == wide(100)
