"""The emitted Verilog in a second tool: clean under Verilator's -Wall, and lint does see faults."""

from mellivora.rtl.chip_text import chip_rtlil, top_name
from mellivora.rtl.emit import verilog_of
from mellivora.rtl.verilator import lint
from mellivora.spec import load_chip


def test_the_whole_chip_is_clean():
    chip, top = load_chip("nano"), top_name(load_chip("nano"))
    assert lint(verilog_of(chip_rtlil(chip), top), top) == []


def test_a_fault_is_seen():
    text = (
        "module m(input a, output q);\n  wire two;\n  assign two = a;\n  assign q = b;\nendmodule\n"
    )
    assert any("Error" in line or "IMPLICIT" in line for line in lint(text, "m"))
