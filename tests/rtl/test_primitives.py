"""The list of primitives: their stages are the ISA's, each has its page, Amaranth loads late."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mellivora.isa import latency
from mellivora.rtl import PRIMITIVES, primitive
from mellivora.rtl.matrix_column import COLUMN_STAGES, Accumulate

ROOT = Path(__file__).resolve().parents[2]
READ_CYCLES = WRITE_CYCLES = 2  # of an engine's operands and results, beside the arithmetic
MODULES = sorted({place.split(":")[0] for place in PRIMITIVES.values()})


def stages(name: str) -> int:
    return primitive(name).stages


def test_stages_fill_the_engines_as_the_isa_says():
    around = READ_CYCLES + WRITE_CYCLES
    matrix = stages("dot32") + stages("scale_dot") + stages("fp32_add")
    assert matrix == stages("matrix_column") == latency.MATRIX_FILL_CYCLES - around
    assert stages("fp32_add") == stages("fp32_mul")
    assert 2 * stages("fp32_add") == latency.VECTOR_FILL_CYCLES - around
    for name in ("exp2", "log2", "recip", "rsqrt", "sin_turns", "cos_turns"):
        assert stages(f"table_{name}") == latency.TABLE_FILL_CYCLES
    assert stages("mx_quantise") == latency.QUANT_FILL_CYCLES
    assert stages("reduce_tree") == 5 * 2 == latency.REDUCE_FILL_CYCLES


def test_q4_1_takes_one_addition_more():
    longer = COLUMN_STAGES[Accumulate.OFFSET] - COLUMN_STAGES[Accumulate.SCALED]
    assert longer == latency.OFFSET_FILL_CYCLES == stages("fp32_add")


def test_terms_of_one_accumulator_lie_as_far_apart_as_the_adder_is_long():
    assert stages("fp32_add") == latency.ACCUMULATE_CYCLES


@pytest.mark.parametrize("name", PRIMITIVES)
def test_it_is_found_by_its_own_name(name):
    assert primitive(name).name == name


def test_each_component_has_one_test_file_and_one_page():
    sources = (ROOT / "src/mellivora/rtl").glob("*.py")
    modules = {p.stem for p in sources if "(wiring.Component)" in p.read_text("utf-8")}
    assert modules >= set(MODULES)
    pages = {path.stem for path in (ROOT / "docs/rtl").glob("*.md")}
    assert modules <= pages, f"without a page: {sorted(modules - pages)}"
    tests = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert modules <= tests, f"without a test file: {sorted(modules - tests)}"


def test_importing_mellivora_does_not_import_amaranth():
    code = "import sys, mellivora, mellivora.rtl, mellivora.cli; print('amaranth' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    assert done.stdout.strip() == "False"
