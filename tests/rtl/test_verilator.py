"""The emitted Verilog in a second tool: clean under -Wall, the same bits and cycles when it runs.

The build takes 20 s of Verilator and g++ at -O0, once; then 2,500 cycles a second.
"""

from __future__ import annotations

import numpy as np
import pytest

from mellivora.isa import assemble
from mellivora.rtl.chip_simulation import ChipSimulation
from mellivora.rtl.chip_text import chip_rtlil, top_name
from mellivora.rtl.cosim import cosim
from mellivora.rtl.emit import verilog_of
from mellivora.rtl.random_runs import run_seed
from mellivora.rtl.verilator import lint, verilated
from mellivora.spec import load_chip

NANO = load_chip("nano")

# Every engine, a loop, semaphores between all of them; in the end the scratchpad goes to DRAM.
EVERY_ENGINE = """
lcfg 64 0 0 64 0 0 0
scfg 64 0 0 64 0 0
vcfg 32 32 32 32 0 0 0
loop 6 6
load 0 0 0 256 64 10 1 1 !1 !4
vew 0 256 512 0 8 8 1 0 ?1 !2 !3
matmul 0 256 288 256 4 2 8 0x50 ?4 !5
store 0 512 0 0 64 2 1 1 ?2 !6
lsync ?3 ?5
vsync ?6
li r8 0x40000000
li r9 4096
vew r9 r8 r8 0 4 8 1 0 !2
li r9 8192
store 0 0 0 0 r9 1 1 1 ?2
halt
"""


@pytest.fixture(scope="module")
def text() -> str:
    """Verilog of `nano`."""
    return verilog_of(chip_rtlil(NANO), top_name(NANO))


@pytest.fixture(scope="module")
def machine(text: str) -> ChipSimulation:
    return verilated(NANO, text=text)


def test_the_whole_chip_is_clean(text):
    assert lint(text, "mellivora_nano") == []


def test_a_fault_is_seen():
    text = (
        "module m(input a, output q);\n  wire two;\n  assign two = a;\n  assign q = b;\nendmodule\n"
    )
    assert any("Error" in line or "IMPLICIT" in line for line in lint(text, "m"))


def test_every_engine_on_the_emitted_verilog(machine, rng):
    dram = rng.integers(0, 256, 1 << 15, dtype=np.uint8)
    before = dram.copy()
    code = assemble(EVERY_ENGINE)
    result = cosim(code, [0], chip=NANO, dram=dram, windows=[(0, dram.size)], rtl=machine)
    assert result.equal, result.report()
    assert result.cycles == result.rtl_cycles > 500
    counted = {name: int(values[0]) for name, values in result.rtl.registers.items()}
    for engine in ("load", "store", "matrix", "vector"):
        assert counted[f"{engine}_busy"] > 0
    np.testing.assert_array_equal(result.dram[:8192], result.rtl.scratchpads[0, :8192])
    assert result.rtl.accumulators.any()
    assert (result.dram[:8192] != before[:8192]).any()


@pytest.mark.parametrize("seed", [*range(12), 15])  # 15: a fault
def test_random_programs_on_the_emitted_verilog(machine, seed):
    _, result = run_seed(seed, NANO, rtl=machine)
    assert result.equal, f"seed {seed}: {result.report()}"


@pytest.mark.nightly
def test_wrong_operators_in_the_verilog_are_found(text):
    """The text that is given is what runs: minus for plus in an adder makes bits differ."""
    head, module, rest = text.partition("\nmodule fp32_add(")
    body, end, others = rest.partition("\nendmodule")
    assert body.count(" + ") > 1
    wrong = verilated(NANO, text=head + module + body.replace(" + ", " - ") + end + others)
    assert any(run_seed(seed, NANO, rtl=wrong)[1].differing_bits for seed in range(6))
