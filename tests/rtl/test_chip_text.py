"""A chip is elaborated once for its sources; what lies damaged in the cache is made again."""

import pytest

from mellivora.rtl import chip_text, emit
from mellivora.rtl.chip import Chip
from mellivora.spec import load_chip

NANO = load_chip("nano")


@pytest.fixture
def made(monkeypatch, tmp_path):
    """What has been elaborated, with an empty cache."""
    done = []

    def elaborate(design):
        design._MustUse__used = True
        done.append((design.chip.name, design.ecc))
        return f"module \\{design.module_name}"

    monkeypatch.setenv("MELLIVORA_CACHE", str(tmp_path))
    monkeypatch.setattr(emit, "rtlil", elaborate)
    return done


def test_the_second_time_comes_from_the_cache(made):
    first = chip_text.chip_rtlil(NANO)
    assert chip_text.chip_rtlil(NANO) == first == "module \\mellivora_nano"
    assert made == [("nano", False)]


def test_other_chips_and_sources_are_others(made, monkeypatch):
    chip_text.chip_rtlil(NANO)
    chip_text.chip_rtlil(NANO, ecc=True)
    chip_text.chip_rtlil(NANO.replace(queue_depth=4))
    monkeypatch.setattr(chip_text, "sources_hash", lambda: "changed")
    chip_text.chip_rtlil(NANO)
    assert made == [("nano", False), ("nano", True), ("nano", False), ("nano", False)]


@pytest.mark.parametrize("damage", [b"", b"no gzip", None], ids=["empty", "other", "cut"])
def test_a_damaged_file_is_made_again(made, tmp_path, damage):
    text = chip_text.chip_rtlil(NANO)
    (path,) = (tmp_path / "rtl").glob("*.il.gz")
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    assert chip_text.chip_rtlil(NANO) == text
    assert len(made) == 2


def test_the_top_has_the_name_that_the_chip_says():
    design = Chip(NANO)
    design._MustUse__used = True
    assert chip_text.top_name(NANO) == design.module_name
