"""Energy of what switches, on a netlist worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Value
from amaranth.lib.wiring import In
from tools.switching import BLOCKS, CYCLES, ROWS, switched_fj

from mellivora.rtl import primitive
from mellivora.rtl.liberty import read_library
from mellivora.rtl.synth import synthesise

TINY = Path(__file__).parents[1] / "data" / "tiny.lib"
TEXT = "module t(input clk, a, output reg q); always @(posedge clk) q <= ~a; endmodule"


@pytest.mark.parametrize("every", [1, 2, CYCLES])
def test_each_change_of_a_net_charges_or_discharges_its_pins(every):
    """An inverter's pin and a flip-flop's change every so many cycles; its clock pin always."""
    library = read_library(TINY)
    result = synthesise(TEXT, top="t", liberty=TINY)
    assert result.cells == {"DFF": 1, "INV": 1}
    level = (np.arange(CYCLES + 1) // every % 2).astype(bool)
    operands = {"a": np.broadcast_to(level[:, None, None], (CYCLES + 1, ROWS, 1))}
    inverter, flop = library.cells["INV"].inputs["A"], library.cells["DFF"].inputs
    changes = CYCLES // every / CYCLES
    want = changes / 2 * (inverter + flop["D"]) + flop["CLK"]
    found = switched_fj(result, library, operands)
    assert found == pytest.approx(want * library.volts**2)


@pytest.mark.parametrize("name", BLOCKS)
def test_operands_fit_the_ports(name):
    operands, operations = BLOCKS[name]
    component = primitive(name).create()
    component._MustUse__used = True  # asked for its ports alone
    inputs = {"__".join(map(str, path)): len(Value.cast(value))
              for path, member, value in component.signature.flatten(component)
              if member.flow == In}  # fmt: skip
    found = operands(np.random.default_rng(0))
    assert {port: bits.shape[2] for port, bits in found.items()} == inputs
    assert all(bits.shape[:2] == (CYCLES + 1, ROWS) for bits in found.values())
    assert operations >= 1
