"""The table of synthesis results (`area.toml`): area and delay of our own blocks in cells.

Written by tools/area.py and read here; nothing in it is written by hand.
"""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from mellivora.errors import SpecError

TABLE = Path(__file__).with_name("area.toml")
PARTS = ("control", "dma", "matrix", "vector", "scratchpad", "accumulators", "core", "chip")
"""Of a core, all but the last: what a chip has once. scratchpad, accumulators: their crossbars."""


@dataclass(frozen=True)
class Module:
    """One module in cells, without the modules that it places and that have rows of their own.

    area_um2: of that register_um2 in flip-flops. longest_path_ps: from path_from to path_to.
    memory_bits: bits of its memories, not in the area.
    """

    area_um2: float
    register_um2: float
    longest_path_ps: float
    path_from: str
    path_to: str
    memory_bits: int


@dataclass(frozen=True)
class Library:
    """What a library's rows were made with. corner: as its file says; date: of the last row."""

    corner: str
    tool: str
    date: str
    flip_flop_um2: float


@dataclass(frozen=True)
class AreaTable:
    """modules: {library: {module: ...}}. places: {chip: {part: {module: places in a core}}}."""

    libraries: dict[str, Library]
    modules: dict[str, dict[str, Module]]
    places: dict[str, dict[str, dict[str, int]]]

    def has(self, library: str, chip: str) -> bool:
        """Whether every module of the chip has a row of the library."""
        rows = self.modules.get(library, {})
        named = [name for modules in self.places.get(chip, {}).values() for name in modules]
        return bool(named) and all(name in rows for name in named)

    def part(self, library: str, chip: str, part: str) -> Module:
        """Areas and bits of a part, all places together, with its longest path."""
        rows = [
            (self.modules[library][name], count)
            for name, count in self.places[chip].get(part, {}).items()
        ]
        slowest = max((row for row, _ in rows), key=lambda row: row.longest_path_ps)
        return Module(
            area_um2=sum(row.area_um2 * count for row, count in rows),
            register_um2=sum(row.register_um2 * count for row, count in rows),
            longest_path_ps=slowest.longest_path_ps,
            path_from=slowest.path_from,
            path_to=slowest.path_to,
            memory_bits=sum(row.memory_bits * count for row, count in rows),
        )


def family(module: str) -> str:
    """The name without the sizes of one chip: "op_queue_32" -> "op_queue"."""
    return re.sub(r"(_(nano|m1|\d+(x\d+)*))+$", "", module)


def load_table(path: Path = TABLE) -> AreaTable:
    """The table. Raises SpecError MV0194 if it is not what tools/area.py writes."""
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
        table = AreaTable(
            {name: Library(**row) for name, row in tree["libraries"].items()},
            {
                library: {name: Module(**row) for name, row in rows.items()}
                for library, rows in tree["modules"].items()
            },
            {
                chip: {part: dict(modules) for part, modules in parts.items()}
                for chip, parts in tree["places"].items()
            },
        )
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise SpecError(
            "MV0194",
            "the table of areas cannot be read",
            where=str(path),
            given=f"{type(error).__name__}: {error}",
            allowed="what tools/area.py writes",
            hint="restore it, or write it anew: python tools/area.py --liberty FILE --write",
        ) from error
    return table


@functools.cache
def standard() -> AreaTable:
    """The committed table."""
    return load_table()
