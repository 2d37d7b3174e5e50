"""Modules of chips on an FPGA: places and routes them, writes the table of docs/rtl/fpga.md.

    python tools/fpga.py --write

Rows are kept in the cache by content: a second run takes a minute, an interrupted one goes on.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from mellivora.errors import HostError  # noqa: E402
from mellivora.rtl.chip import Chip  # noqa: E402
from mellivora.rtl.fpga_modules import LIMIT_S, place_modules  # noqa: E402
from mellivora.spec import load_chip  # noqa: E402

TABLE = ROOT / "docs" / "rtl" / "fpga.toml"
CHIPS = ("nano", "micro")


def table_text(chips: dict[str, dict[str, Any]], date: str) -> str:
    """The table as TOML, of the facts of `Modules` by chip: a line for each module."""
    first = next(iter(chips.values()))
    lines = [
        "# Modules of whole chips, placed and routed one by one, by tools/fpga.py; not by hand.",
        f"date = {_toml(date)}",
        *(f"{key} = {_toml(first[key])}" for key in ("device", "tools", "available")),
    ]
    for name, facts in chips.items():
        lines += ["", f"[chips.{name}]"]
        for key in ("used", "devices", "slowest", "fmax_mhz", "not_placed", "banks"):
            lines.append(f"{key} = {_toml(facts[key])}")
        lines += ["", f"[chips.{name}.places]"]
        lines += [f"{m} = {row['places']}" for m, row in sorted(facts["modules"].items())]
    rows = {name: row for facts in chips.values() for name, row in facts["modules"].items()}
    lines += ["", "[modules]"]
    for name, row in sorted(rows.items()):
        clock = {k: row[k] for k in ("fmax_mhz", "longest_path") if row[k] is not None}
        lines.append(f"{name} = {_toml(row['used'] | clock)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(v)}" for key, v in value.items()) + " }"
    return json.dumps(value)


def main() -> int:
    """Place what the cache does not have; status 2 if a tool is missing or fails."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--limit-s", type=float, default=LIMIT_S, metavar="S", help="for a module (default: 600)"
    )
    parser.add_argument("--write", action="store_true", help=f"replace {TABLE.name}")
    args = parser.parse_args()
    chips = {}
    try:
        for name in CHIPS:
            found = place_modules(
                Chip(load_chip(name)),
                limit_s=args.limit_s,
                say=lambda what, chip=name: print(chip, what, flush=True),
            )
            chips[name] = found.facts()
    except HostError as error:
        print(error, file=sys.stderr)
        return 2
    if args.write:
        text = table_text(chips, datetime.date.today().isoformat())
        TABLE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
