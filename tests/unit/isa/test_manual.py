"""The manual in docs/isa is what the table makes, and says enough to be used without the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mellivora.isa import TABLE
from mellivora.isa.encoding import SLOT_BITS
from mellivora.isa.manual import pages

ROOT = Path(__file__).parents[3]
PAGES = pages()


def test_docs_are_up_to_date() -> None:
    on_disk = {
        str(p.relative_to(ROOT)): p.read_text("utf-8") for p in (ROOT / "docs/isa").iterdir()
    }
    stale = [path for path, text in PAGES.items() if on_disk.get(path) != text]
    assert not stale, "run `make docs`"
    assert on_disk.keys() == PAGES.keys()


@pytest.mark.parametrize("path", PAGES)
def test_links_lead_to_pages(path: str) -> None:
    text = re.sub(r"```.*?```", "", PAGES[path], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)]*)\)", text):
        assert f"docs/isa/{target}" in PAGES


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_encoding_picture(row: object) -> None:
    """Fields cover bits 0 to 127 without gap or overlap, and every slot lies in its place."""
    assert isinstance(row, type(TABLE[0]))
    text = PAGES[f"docs/isa/{row.name}.md"]
    fields = re.findall(r"^ *(\d+) : (\d+) +(\S+)$", text, re.MULTILINE)
    assert [int(low) for _, low, _ in fields] == [0, *(int(high) + 1 for high, _, _ in fields[:-1])]
    assert fields[-1][0] == "127"
    assert fields[0] == ("7", "0", f"{row.opcode:#04x}")
    lows = {name: int(low) for _, low, name in fields}
    if row.name != "li":
        for index, name in enumerate(row.slots):
            assert lows[name] == 32 + SLOT_BITS * index


def test_every_cost_constant_is_given() -> None:
    for path, text in PAGES.items():
        for name in set(re.findall(r"\b[A-Z_]+_CYCLES\b", text)):
            assert re.search(rf"`{name}` = \d+", text), (path, name)
