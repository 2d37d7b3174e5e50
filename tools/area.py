"""Area and delay of our own blocks: synthesises them and writes the table that `spec` reads.

    python tools/area.py --liberty FILE [--liberty FILE] [--chip nano --chip m1] --write

Every distinct module of a core is mapped once, with the modules inside it left out, and counted as
often as it is placed. Results are kept in the cache by content: a second run takes seconds. A run
replaces the rows of its libraries and chips and leaves the others.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import hashlib
import json
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from mellivora.errors import HostError  # noqa: E402
from mellivora.native.build import cache_dir  # noqa: E402
from mellivora.rtl import synth  # noqa: E402
from mellivora.rtl.core import Core  # noqa: E402
from mellivora.rtl.exchange import Exchange  # noqa: E402
from mellivora.rtl.hierarchy import Part, hierarchy  # noqa: E402
from mellivora.rtl.liberty import read_library  # noqa: E402
from mellivora.rtl.memory_port import MemoryPort  # noqa: E402
from mellivora.rtl.synthesis_tool import tool_package, tool_version  # noqa: E402
from mellivora.rtl.watchdog import Watchdog  # noqa: E402
from mellivora.spec import ChipSpec, load_chip  # noqa: E402
from mellivora.spec.area_table import PARTS, TABLE, Module  # noqa: E402

RECIPES = ("area", "speed")
"""Of `synth.RECIPES`: the second for blocks that miss the clock by the first."""
FLOW = 1
"""Part of what the cache goes by: one more when `synth`, or what it calls, makes other cells."""
CHIPS = ("nano", "m1")
PART_OF = {
    "Front": "control",
    "ControlPort": "control",
    "LoadEngine": "dma",
    "StoreEngine": "dma",
    "MatrixEngine": "matrix",
    "VectorEngine": "vector",
}


@functools.cache
def places(chip: ChipSpec) -> dict[str, list[tuple[Part, int]]]:
    """{part: [(module, places)]} of a core, and of what a chip has once (`chip`)."""
    known: dict[str, Part] = {}
    core = hierarchy(Core(chip), known)
    core.name = f"core_{chip.name}"  # not by its fingerprint
    found: dict[str, list[tuple[Part, int]]] = {"core": [(core, 1)]}
    for child, count in core.inside:
        part = PART_OF.get(type(child.component).__name__)
        part = part or ("scratchpad" if "scratchpad" not in found else "accumulators")
        found.setdefault(part, []).extend(
            (module, count * number) for module, number in child.totals().values() if module.text
        )
    shared = [Watchdog(chip.cores), Exchange(chip)]
    if chip.dram_slots:
        shared.append(MemoryPort(chip))
    found["chip"] = [pair for one in shared for pair in hierarchy(one, known).totals().values()]
    return found


def kept(part: Part, liberty: Path, clock_ps: float, recipes: Sequence[str]) -> Path:
    """Where the cache has the module's row, by all that decides it."""
    facts = [FLOW, tool_version(), clock_ps, [synth.RECIPES[name] for name in recipes]]
    words = [(part.text + part.around).encode(), liberty.read_bytes(), repr(facts).encode()]
    digest = hashlib.sha256(b"\0".join(words)).hexdigest()
    return cache_dir() / "area" / f"{digest[:32]}.json"


def measure(
    part: Part,
    liberty: Path,
    clock_ps: float = synth.CLOCK_PS,
    recipes: Sequence[str] = RECIPES,
) -> Module:
    """The module alone in cells, from the cache if it was ever synthesised like this."""
    file = kept(part, liberty, clock_ps, recipes)
    if file.exists():
        return Module(**json.loads(file.read_text("utf-8")))
    text = part.text + part.around
    result = synth.synthesise(
        text,
        top=part.component.module_name,
        liberty=liberty,
        boxes=part.boxes,
        clock_ps=clock_ps,
        recipes=recipes,
    )
    path = result.longest
    row = Module(
        area_um2=round(result.area_um2 or 0.0, 3),
        register_um2=round(result.register_um2 or 0.0, 3),
        longest_path_ps=round(path.delay_ps, 1) if path else 0.0,
        path_from=path.start if path else "",
        path_to=path.end if path else "",
        memory_bits=result.memory_bits,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(vars(row)), "utf-8")
    return row


def table_text(tree: dict[str, Any]) -> str:
    """The table as TOML, in a fixed order."""
    lines = [
        "# Area and delay of our own blocks in cells, by tools/area.py; not written by hand.",
        "# um2 of cells, no wires; longest path in ps; memory bits are not in the area.",
    ]
    for name, row in sorted(tree["libraries"].items()):
        lines += ["", f"[libraries.{name}]", *(f"{key} = {_toml(v)}" for key, v in row.items())]
    for group in ("modules", "places"):
        for name, rows in sorted(tree[group].items()):
            if group == "modules":
                lines += ["", f"[modules.{name}]"]
                for module, row in sorted(rows.items()):
                    body = ", ".join(f"{key} = {_toml(value)}" for key, value in row.items())
                    lines.append(f"{module} = {{ {body} }}")
            else:
                for part in PARTS:
                    lines += ["", f"[places.{name}.{part}]"]
                    lines += [f"{m} = {count}" for m, count in sorted(rows[part].items())]
    return "\n".join(lines) + "\n"


def _toml(value: str | float | int) -> str:
    return json.dumps(value)


def write_table(liberty: Path, chip: str, rows: dict[str, Module], where: Path = TABLE) -> None:
    """Replace rows of a library and the places of a chip; drop modules placed nowhere."""
    tree: dict[str, Any] = {"libraries": {}, "modules": {}, "places": {}}
    if where.exists():
        tree |= tomllib.loads(where.read_text("utf-8"))
    tree["places"][chip] = {
        part: dict(total(modules)) for part, modules in places(load_chip(chip)).items()
    }
    if rows:
        library = read_library(liberty)
        name = library_name(liberty)
        tree["libraries"][name] = {
            "corner": library.corner,
            "tool": f"{tool_version()} ({tool_package()})",
            "date": datetime.date.today().isoformat(),
            "flip_flop_um2": round(flip_flop_um2(liberty), 5),
        }
        tree["modules"].setdefault(name, {}).update({m: vars(row) for m, row in rows.items()})
    placed = {m for parts in tree["places"].values() for ms in parts.values() for m in ms}
    for library, old in tree["modules"].items():
        tree["modules"][library] = {m: row for m, row in old.items() if m in placed}
    where.write_text(table_text(tree), "utf-8")


def total(modules: list[tuple[Part, int]]) -> Counter[str]:
    """Places by module."""
    found: Counter[str] = Counter()
    for module, count in modules:
        found[module.name] += count
    return found


def library_name(liberty: Path) -> str:
    """As the table has it."""
    return liberty.name.split(".")[0]


def flip_flop_um2(liberty: Path) -> float:
    """Area of the flip-flop that synthesis takes."""
    text = "module r(input clk, d, output reg q); always @(posedge clk) q <= d; endmodule"
    return synth.synthesise(text, top="r", liberty=liberty).register_um2 or 0.0


def main() -> int:
    """Synthesise what is asked for; status 2 if a library or yosys is missing."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--liberty", action="append", type=Path, required=True)
    parser.add_argument("--chip", action="append", choices=CHIPS, help="(default: all)")
    parser.add_argument(
        "--count", action="store_true", help="places alone: synthesise nothing that is not cached"
    )
    parser.add_argument(
        "--missing", action="store_true", help="only modules that the table has no row of"
    )
    parser.add_argument(
        "--clock-ps", type=float, default=synth.CLOCK_PS, metavar="PS", help="aim (default: 1000)"
    )
    parser.add_argument(
        "--recipe", action="append", choices=synth.RECIPES, help="(default: area, speed)"
    )
    parser.add_argument("--write", action="store_true", help=f"replace rows of {TABLE.name}")
    args = parser.parse_args()
    try:
        for liberty in args.liberty:
            for name in args.chip or CHIPS:
                rows = _measure_all(liberty, name, args)
                if args.write:
                    write_table(liberty, name, rows)
    except HostError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _measure_all(liberty: Path, name: str, args: argparse.Namespace) -> dict[str, Module]:
    clock_ps, recipes = args.clock_ps, args.recipe or RECIPES
    rows: dict[str, Module] = {}
    modules = {m.name: m for ms in places(load_chip(name)).values() for m, _ in ms}
    if args.missing:
        there = tomllib.loads(TABLE.read_text("utf-8"))["modules"].get(library_name(liberty), {})
        modules = {module: part for module, part in modules.items() if module not in there}
    for module, part in sorted(modules.items(), key=lambda m: len(m[1].text)):
        started = time.perf_counter()
        if args.count and not kept(part, liberty, clock_ps, recipes).exists():
            continue
        rows[module] = row = measure(part, liberty, clock_ps, recipes)
        print(
            f"{library_name(liberty)} {name} {len(rows)}/{len(modules)} {module}: "
            f"{row.area_um2:.1f} um2, {row.longest_path_ps:.0f} ps, "
            f"{row.memory_bits} bits, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    sys.exit(main())
