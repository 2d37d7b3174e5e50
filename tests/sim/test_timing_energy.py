"""Energy: sourced figures only, and counts times figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mellivora.errors import SpecError
from mellivora.isa import assemble, resolve
from mellivora.isa.modes import BFormat, matmul_mode
from mellivora.sim.energy import TABLE, energy
from mellivora.sim.timing import simulate
from mellivora.spec import DRAM_KINDS, PASSES, load_chip
from mellivora.spec.area import chip_area
from mellivora.spec.figures import load_figures

NANO = load_chip("nano")
TEXT = f"""load 0 0 0 0 640 1 1 1 !1
matmul 0 0 0 0 20 4 8 {matmul_mode(BFormat.MX8, a_slices=2, b_slices=2)} ?1 !2
vew 0 0 0 0 8 8 1 2 ?2
halt"""


def test_every_figure_is_a_sourced_range() -> None:
    figures = load_figures(TABLE)
    assert {f"dram_bit.{kind}" for kind in DRAM_KINDS if kind != "none"} <= set(figures)
    for name, one in figures.items():
        assert 0 < one.low <= one.value <= one.high, name
        assert len(one.source) > 20, name


BAD = [
    ('[a]\nvalue=1\nlow=1\nhigh=1\nunit="pJ"\n', "MV0192"),
    ('[a]\nvalue=1\nlow=1\nhigh=1\nunit="pJ"\nsource=" "\n', "MV0192"),
    ('[a]\nvalue=1\nlow=2\nhigh=3\nunit="pJ"\nsource="x"\n', "MV0193"),
    ('[a]\nvalue=true\nlow=1\nhigh=3\nunit="pJ"\nsource="x"\n', "MV0193"),
    ('[a]\nvalue=1\nlow=1\nhigh=1\nunit="nJ"\nsource="x"\n', "MV0193"),
    ('[a]\nvalue=1\nlow=1\nunit="pJ"\nsource="x"\n', "MV0191"),
    ("a=1\n", "MV0191"),
    ("[a\n", "MV0190"),
]


@pytest.mark.parametrize(("text", "code"), BAD)
def test_bad_tables_are_refused(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "energy.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_figures(path)
    assert caught.value.code == code


def test_a_figure_stripped_of_its_source_is_refused(tmp_path: Path) -> None:
    lines = TABLE.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("source"))
    path = tmp_path / "energy.toml"
    path.write_text("\n".join(lines[:at] + lines[at + 1 :]))
    with pytest.raises(SpecError, match="no source"):
        load_figures(path)


def test_counts_times_figures() -> None:
    result = simulate([resolve(assemble(TEXT), [])], NANO)
    figures, got = load_figures(TABLE), energy(result)
    die = chip_area(NANO).total_mm2
    steps = PASSES[2] * 20 * 4 * 8  # passes, rows, blocks, columns
    expected = {
        "dram": 8 * 640 * figures["dram_bit.LPDDR5X"].value,
        "vector": 64 * figures["fp32_op"].value,
        "matrix": steps
        * (
            32 * figures["int8_mac"].value
            + figures["matrix_scale"].value
            + 8 * figures["accumulator_byte"].value
        ),
        "static": figures["static_mm2"].value * die.value * result.cycles * 1e-9 * 1e12,
        "exchange": 0.0,
    }
    for part, value in expected.items():
        # sums of products in another order: a few roundings of 2^-53
        assert np.isclose(got.by_part[part][0], value, rtol=1e-14, atol=0), part
    assert got.low_pj < got.pj < got.high_pj
    most = figures["static_mm2"].high * NANO.max_die_mm2 * result.cycles * 1e-9 * 1e12
    assert np.isclose(got.by_part["static"][2], most, rtol=1e-14, atol=0)
    assert np.isclose(sum(part[0] for part in got.by_part.values()), got.pj, rtol=1e-14, atol=0)


def test_another_process_widens_the_range() -> None:
    result = simulate([resolve(assemble(TEXT), [])], NANO)
    older = energy(result, NANO.replace(process_nm=14))
    for part in ("matrix", "vector", "sram"):
        value, low, high = energy(result).by_part[part]
        assert older.by_part[part] == (2 * value, low, 4 * high)
    assert older.by_part["dram"] == energy(result).by_part["dram"]
