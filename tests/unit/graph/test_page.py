"""docs/graph.md is what the rows of ops.py say."""

from __future__ import annotations

from pathlib import Path

from mellivora.graph.ops import OPS
from mellivora.graph.page import pages


def test_the_page_is_fresh() -> None:
    root = Path(__file__).resolve().parents[3]
    for path, text in pages().items():
        assert (root / path).read_text("utf-8") == text, "run python -m mellivora.graph.page"
        assert all(f"\n| `{name}` |" in text for name in OPS)
