"""Liberty files as we read them: units, functions, tables, flip-flops; and what is refused."""

from pathlib import Path

import pytest

from mellivora.errors import HostError
from mellivora.rtl.liberty import Table, parse, read_library

TINY = Path(__file__).parents[1] / "data" / "tiny.lib"


@pytest.fixture(scope="module")
def tiny():
    return read_library(TINY)


def test_cells_have_area_function_and_capacitance(tiny):
    nand = tiny.cells["NAND2"]
    assert (nand.area_um2, nand.inputs) == (2.0, {"A": 1.0, "B": 1.0})
    assert nand.truth("Y") == (1, 1, 1, 0)
    assert tiny.cells["NOR2"].truth("Y") == (1, 0, 0, 0)  # a function with a quote
    assert tiny.cells["XOR2"].truth("Y") == (0, 1, 1, 0)
    assert tiny.corner == "process 1, 0.7 V, 25 C"


def test_flip_flop(tiny):
    flop = tiny.cells["DFF"]
    assert flop.is_sequential
    assert flop.clock == "CLK"
    assert flop.state == ("IQ", "IQN", "D")
    assert flop.setup["D"]["rise_constraint"](10, 10) == 6


def test_full_adder_is_found_by_what_it_computes(tiny):
    cell, carry, total, inverted = tiny.full_adder()
    assert (cell.name, carry, total, inverted) == ("FA", "CN", "SN", True)


def test_tables_are_linear_between_and_beyond_their_points():
    table = Table((10.0, 20.0), (0.0, 10.0), ((1.0, 2.0), (3.0, 6.0)))
    assert table(10, 5) == 1.5
    assert table(15, 0) == 2.0
    assert table(20, 20) == 9.0


def test_units_of_the_file_become_ours():
    """Nanoseconds and picofarads, and a table over (load, slew)."""
    text = TINY.read_text("utf-8").replace('"1ps"', '"1ns"').replace("(1, ff)", "(1, pf)")
    path = TINY.parent / "tiny.lib"
    assert parse(text).text("time_unit") == "1ns"
    nand = read_library(path).cells["NAND2"].arcs["Y"][0].tables["cell_rise"]
    assert nand(10, 10) == 28.0


def test_a_missing_semicolon_is_forgiven():
    group = parse('library (x) {\n  time_unit : "1ps"\n  cell (A) {\n    area : 2\n  }\n}')
    assert group.text("time_unit") == "1ps"
    assert group.of("cell")[0].text("area") == "2"


@pytest.mark.parametrize("text", ["", "no liberty", "module m; endmodule"])
def test_what_is_no_library_is_refused(text, tmp_path):
    path = tmp_path / "x.lib"
    path.write_text(text)
    with pytest.raises(HostError) as error:
        read_library(path)
    assert error.value.code == "MV0931"
