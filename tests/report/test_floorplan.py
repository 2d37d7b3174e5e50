"""The floorplan: tiles have their areas, fill the die, and do not overlap."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import pytest

from mellivora import cli
from mellivora.report.floorplan import COLOURS, svg, tiles, treemap
from mellivora.spec import load_chip
from mellivora.spec.area import chip_area

CHIPS = ("nano", "micro", "m1", "predecessor")


def overlap(a, b):
    wide = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
    tall = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
    return max(0.0, wide) * max(0.0, tall)


@pytest.mark.parametrize("name", CHIPS)
def test_tiles_have_their_areas_and_fill_a_square(name):
    area = chip_area(load_chip(name))
    *cores, once = tiles(area)
    assert len(cores) == area.cores
    for core in cores:
        assert {t.name: pytest.approx(t.mm2) for t in core} == {
            part: one.value for part, one in area.core_mm2.items()
        }
    for part, one in area.once_mm2.items():
        assert sum(t.mm2 for t in once if t.name == part) == pytest.approx(one.value)
    every = [tile for group in (*cores, once) for tile in group]
    total = area.total_mm2.value
    assert sum(t.mm2 for t in every) == pytest.approx(total)
    side = total**0.5
    for tile in every:
        assert min(tile.x, tile.y) >= -1e-9
        assert max(tile.x + tile.width, tile.y + tile.height) <= side * (1 + 1e-9)
    for a, b in combinations(every, 2):
        assert overlap(a, b) < 1e-9 * total


def test_a_treemap_by_hand() -> None:
    """Two halves of a rectangle of 2 by 1 stand side by side."""
    left, right = treemap({"a": 1.0, "b": 1.0}, 0.0, 0.0, 2.0, 1.0)
    assert (left.x, left.width, left.height) == (0.0, 1.0, 1.0)
    assert (right.x, right.width, right.height) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("name", CHIPS)
def test_the_picture_is_xml_with_title_legend_and_figures(name):
    chip = load_chip(name)
    area = chip_area(chip)
    text = svg(chip, area)
    root = ET.fromstring(text)
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words[0].startswith(f"{name}: ")
    assert {*area.core_mm2, *area.once_mm2} <= set(words) & set(COLOURS)  # the legend
    assert f"{area.total_mm2.value:.3f}" in words


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "m1.svg"
    assert cli.main(["chip", "m1", "--floorplan", str(output)]) == 0
    out = capsys.readouterr().out
    assert "area, mm2" in out
    assert output.read_text("utf-8") == svg(load_chip("m1"))


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["m1", "--floorplan", "/no/such/folder/m1.svg"], "MV0830"),
        (["--floorplan", "all.svg"], "MV0818"),
    ],
)
def test_bad_input_has_a_code(words, code, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["chip", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error {code}")
    assert not list(tmp_path.iterdir())
