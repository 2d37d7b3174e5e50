"""Figures that others measured or published: a value, a range and a source each, in TOML tables."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mellivora.errors import SpecError

UNITS = ("pJ", "W", "um2", "mm2", "1")


@dataclass(frozen=True)
class Figure:
    """One sourced figure: low <= value <= high, in `unit` for each thing that the name says."""

    value: float
    low: float
    high: float
    unit: str
    source: str


def load_figures(path: Path) -> dict[str, Figure]:
    """All figures by name ("int8_mac", "dram_bit.GDDR7"). Raises SpecError MV0190..MV0193, one
    fault at a time."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError("MV0190", "the table of figures cannot be read", where=str(path),
                        given=str(error),
                        hint="restore it, or correct the TOML") from error  # fmt: skip
    out: dict[str, Figure] = {}
    for name, entry in tree.items():
        entries = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
        if entries and "value" not in entries and "source" not in entries:
            for sub, figure in entries.items():
                out[f"{name}.{sub}"] = _figure(f"{name}.{sub}", figure, str(path))
        else:
            out[name] = _figure(name, entry, str(path))
    return out


def _figure(name: str, entry: Any, path: str) -> Figure:
    where = f"{path}: {name}"
    keys = set(Figure.__dataclass_fields__)
    table = cast("dict[str, Any]", entry) if isinstance(entry, dict) else {}
    given = set(table)
    if not table or given - keys or keys - {"source"} - given:
        raise SpecError("MV0191", "a figure has the wrong keys", where=where,
                        given=", ".join(sorted(given)) or str(cast("object", entry)),
                        allowed=", ".join(sorted(keys)),
                        hint="write all of them and no others")  # fmt: skip
    source: object = table.get("source", "")
    if not isinstance(source, str) or not source.strip():
        raise SpecError("MV0192", "a figure has no source", where=where, given=repr(source),
                        allowed="who measured or published it, and where",
                        hint="cite one: a figure without a source is a bug")  # fmt: skip
    numbers: list[Any] = [table[key] for key in ("low", "value", "high")]
    fine = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in numbers)
    if not fine or not 0 < numbers[0] <= numbers[1] <= numbers[2] or table["unit"] not in UNITS:
        raise SpecError("MV0193", "a figure is not a range", where=where,
                        given=f"low, value, high = {numbers}, unit {table['unit']!r}",
                        allowed="0 < low <= value <= high, unit " + " or ".join(UNITS),
                        hint="correct the numbers")  # fmt: skip
    low, value, high = (float(x) for x in numbers)
    return Figure(value, low, high, str(table["unit"]), source)
