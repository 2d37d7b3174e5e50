"""Regenerates every generated page and compares. Run: tools/generated.py [--write]

To add one: a function without arguments that returns {path in the repository: text}, and a line in
GENERATORS. A generator owns the folders it names: files there that it does not make are refused.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Generator:
    """A function "module:name" returning {path: text}, and the folders that hold nothing else."""

    function: str
    owns: tuple[str, ...] = ()

    def pages(self) -> dict[str, str]:
        """What the files should be."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)()


GENERATORS = [
    Generator("tools.errors_page:pages"),
    Generator("mellivora.isa.manual:pages", owns=("docs/isa",)),
    Generator("mellivora.graph.page:pages"),
    Generator("tools.area_page:pages"),
    Generator("tools.fpga_page:pages"),
]


def differences(generators: list[Generator] | None = None, root: Path = ROOT) -> dict[str, str]:
    """{path: what is wrong}: files missing, stale, or in an owned folder by mistake."""
    wrong: dict[str, str] = {}
    for generator in GENERATORS if generators is None else generators:
        pages = generator.pages()
        for path, text in pages.items():
            file = root / path
            if not file.exists():
                wrong[path] = "missing"
            elif file.read_text("utf-8") != text:
                wrong[path] = "stale"
        for folder in generator.owns:
            for file in (root / folder).rglob("*"):
                path = str(file.relative_to(root))
                if file.is_file() and path not in pages:
                    wrong[path] = f"not made by {generator.function}"
    return wrong


def write(root: Path = ROOT) -> list[str]:
    """Write every page that differs; returns their paths."""
    written: list[str] = []
    wrong = differences(root=root)
    for generator in GENERATORS:
        for path, text in generator.pages().items():
            if path in wrong:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text, "utf-8")
                written.append(path)
    return written


def main() -> int:
    """Compare, or write with --write; status 1 if something differs and was not written."""
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    if "--write" in sys.argv[1:]:
        print("\n".join(f"wrote {path}" for path in write()) or "generated: nothing to write")
    wrong = differences()
    for path, why in wrong.items():
        print(f"{path}: {why}; run `make docs`")
    if not wrong:
        print("generated: all pages are up to date")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
