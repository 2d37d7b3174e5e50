"""Holds the arrows of the design: which part of Mellivora may import which. Run: tools/layering.py

Reads imports from the syntax tree, those inside functions too; runs nothing.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "mellivora"

# part -> parts it may import, besides itself and errors. Everything points down this list.
# fmt: off
_CHIP = {"spec", "numerics", "isa"}
_BELOW_RUNTIME = _CHIP | {"native", "graph", "frontends", "compiler", "sim"}
ALLOWED: dict[str, set[str]] = {
    "errors":    set(),
    "spec":      set(),
    "numerics":  set(),
    "isa":       {"spec", "numerics"},
    "native":    {"numerics", "isa"},                  # C++; its headers are made from these two
    "graph":     {"numerics"},                         # knows nothing of the chip
    "frontends": {"numerics", "graph"},                # knows nothing of the chip
    "compiler":  _CHIP | {"native", "graph"},          # the only one that knows both
    "sim":       _CHIP | {"native"},                   # never the compiler
    "rtl":       _CHIP | {"native", "sim"},            # never the compiler; `sim` for co-simulation
    "runtime":   _BELOW_RUNTIME,
    "report":    _BELOW_RUNTIME | {"runtime"},
    "serve":     _BELOW_RUNTIME | {"runtime"},
    "explore":   _BELOW_RUNTIME | {"runtime", "report"},
    "testing":   _BELOW_RUNTIME | {"runtime"},
    "doctor":    {"native"},
    "commands":  _BELOW_RUNTIME | {"runtime", "report", "serve", "explore", "doctor", "rtl"},
    "cli":       {"commands"},
    "__init__":  _BELOW_RUNTIME | {"runtime"},         # the public face
    "__main__":  {"cli"},
}
# fmt: on


def part_of(module: str) -> str | None:
    """The part a dotted name belongs to: "mellivora.isa.table" -> "isa"; None if not ours."""
    words = module.split(".")
    if words[0] != "mellivora":
        return None
    return words[1] if len(words) > 1 else "__init__"


def imports(tree: ast.AST, module: str, *, is_package: bool = False) -> list[tuple[int, str]]:
    """(line, part) of each import of ours in the syntax tree of `module`."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative: climb from this module's package
                stem = module.split(".")[: None if is_package else -1]
                stem = stem[: len(stem) - node.level + 1]
                base = ".".join([*stem, *base.split(".")]).rstrip(".")
            whole_package = base == "mellivora"  # `from mellivora import spec` names the part
            names = [f"{base}.{alias.name}" for alias in node.names] if whole_package else [base]
        for name in names:
            part = part_of(name)
            if part and part.startswith("__version"):
                continue  # a string, not a part
            if part:
                found.append((node.lineno, part))  # type: ignore[attr-defined]
    return found


def violations(package: Path = PACKAGE) -> list[str]:
    """One line for each import against the arrows, and for each part that has no arrows yet."""
    faults: list[str] = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        module = ".".join(["mellivora", *inside.with_suffix("").parts])
        if inside.name == "__init__.py" and len(inside.parts) > 1:
            module = module.removesuffix(".__init__")
        part = part_of(module) or ""
        if part not in ALLOWED:
            faults.append(f"{inside}: part {part!r} is not in tools/layering.py; give it arrows")
            continue
        tree = ast.parse(path.read_text("utf-8"), str(path))
        is_package = inside.name == "__init__.py"
        for line, target in imports(tree, module, is_package=is_package):
            if target not in ALLOWED[part] | {part, "errors"}:
                faults.append(f"{inside}:{line}: {part} must not import {target}")
    return faults


def main() -> int:
    """Print the violations; status 1 if there are any."""
    faults = violations()
    print("\n".join(faults) or "layers: every import points down")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
