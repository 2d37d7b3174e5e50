"""Static timing of netlists worked out by hand."""

from pathlib import Path

import pytest

from mellivora.errors import HostError
from mellivora.rtl.liberty import read_library
from mellivora.rtl.static_timing import analyse

TINY = Path(__file__).parents[1] / "data" / "tiny.lib"


def module(cells, ports, names):
    return {
        "cells": {
            name: {"type": kind, "connections": {pin: [net] for pin, net in pins.items()}}
            for name, (kind, pins) in cells.items()
        },
        "ports": {name: {"direction": way, "bits": [net]} for name, (way, net) in ports.items()},
        "netnames": {name: {"bits": [net]} for name, net in names.items()},
    }


def pipeline():
    """x -> DFF p -> INV -> NAND2 (with p itself) -> DFF q -> out"""
    return module(
        {
            "p": ("DFF", {"CLK": 2, "D": 3, "Q": 4}),
            "i": ("INV", {"A": 4, "Y": 5}),
            "n": ("NAND2", {"A": 4, "B": 5, "Y": 6}),
            "q": ("DFF", {"CLK": 2, "D": 6, "Q": 7}),
        },
        {"clk": ("input", 2), "x": ("input", 3), "out": ("output", 7)},
        {"first": 4, "last": 7},
    )


def test_paths_between_registers_and_to_outputs():
    paths = analyse(pipeline(), read_library(TINY)).paths
    inner = paths["register to register"]
    # p: 20 + 2 inputs of 1 fF; inverter: 5 + 2; NAND: 8 + 2; setup 6.
    assert inner.delay_ps == (20 + 4) + (5 + 2) + (8 + 2) + 6
    assert (inner.start, inner.end) == ("first", "last")
    assert [cell for cell, _, _ in inner.steps] == ["DFF", "INV", "NAND2"]
    assert paths["register to output"].delay_ps == 20  # no load


def test_the_longest_of_all():
    timing = analyse(pipeline(), read_library(TINY))
    assert timing.longest == timing.paths["register to register"]


def test_wires_load_every_fan_out():
    paths = analyse(pipeline(), read_library(TINY), wire_ff=1.0).paths
    assert paths["register to register"].delay_ps == (20 + 8) + (5 + 4) + (8 + 4) + 6


def test_a_loop_is_refused():
    loop = module(
        {"a": ("INV", {"A": 2, "Y": 3}), "b": ("NAND2", {"A": 3, "B": 3, "Y": 2})},
        {"out": ("output", 2)},
        {},
    )
    with pytest.raises(HostError) as error:
        analyse(loop, read_library(TINY))
    assert error.value.code == "MV0935"


def test_unate_arcs_keep_the_edges_apart():
    """A rise that comes late makes only a late fall behind an inverter."""
    library = read_library(TINY)
    chain = module(
        {"a": ("INV", {"A": 2, "Y": 3}), "b": ("INV", {"A": 3, "Y": 4})},
        {"x": ("input", 2), "out": ("output", 4)},
        {},
    )
    (path,) = analyse(chain, library).paths.values()
    assert path.delay_ps == (5 + 2) + 5


def test_paths_start_and_end_at_what_is_no_cell():
    """A box between two inverters: one path goes into it, the next one comes out of it."""
    around = module(
        {
            "a": ("INV", {"A": 2, "Y": 3}),
            "memory": ("ram", {"address": 3, "data": 4}),
            "b": ("INV", {"A": 4, "Y": 5}),
        },
        {"x": ("input", 2), "out": ("output", 5)},
        {},
    )
    around["cells"]["memory"]["port_directions"] = {"address": "input", "data": "output"}
    paths = analyse(around, read_library(TINY)).paths
    assert paths["input to box"].end == "memory.address"
    assert paths["input to box"].delay_ps == 5  # nothing known of what the box loads
    assert paths["input to output"].delay_ps == 5
