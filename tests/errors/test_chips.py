"""Wrong chip descriptions and the whole message each gets; see README.md to renew them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mellivora.errors import SpecError
from mellivora.spec import parse_chip

CASES = sorted((Path(__file__).parent / "chips").glob("*.toml"))


def test_there_are_cases() -> None:
    assert len(CASES) >= 10


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_message(path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        parse_chip(path.read_text("utf-8"), where=path.name)
    message = str(caught.value) + "\n"
    expected = path.with_suffix(".txt")
    if os.environ.get("UPDATE_SNAPSHOTS"):
        expected.write_text(message, "utf-8")
    assert message == expected.read_text("utf-8")
