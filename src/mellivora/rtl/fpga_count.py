"""What a core needs of an FPGA, where it is too large to be placed: module by module.

Every distinct module is mapped once, without those it places, and counted as often as it is placed.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mellivora.rtl.core import Core
from mellivora.rtl.fpga import AVAILABLE, Cells, banks, synthesise
from mellivora.rtl.hierarchy import hierarchy
from mellivora.spec import ChipSpec


def core_cells(
    chip: ChipSpec, say: Callable[[str], None] | None = None
) -> tuple[Cells, dict[str, dict[str, int]]]:
    """The needs of a core, and of each module all places together: {module: LUT, FF, DSP, BRAM}.

    Banks are what block RAM cannot be; small memories are in the numbers. say: told what is mapped.
    Raises HostError MV0936, MV0933.
    """
    return component_cells(Core(chip), say)


def component_cells(
    component: Any, say: Callable[[str], None] | None = None
) -> tuple[Cells, dict[str, dict[str, int]]]:
    """The same of any component."""
    modules = [pair for pair in hierarchy(component).totals().values() if pair[0].text]
    total: Counter[str] = Counter(dict.fromkeys(AVAILABLE, 0))
    each: dict[str, dict[str, int]] = {}
    for i, (part, places) in enumerate(modules):
        if say:
            say(f"{i + 1}/{len(modules)} {part.name}")
        top = part.component.module_name
        with tempfile.TemporaryDirectory(prefix="mellivora-fpga-") as scratch:
            need = synthesise(Path(scratch), part.text + part.around, top, boxes=part.boxes)
        each[part.name] = {kind: places * count for kind, count in need.items()}
        total.update(each[part.name])
    return Cells(dict(total), banks(component)), each
