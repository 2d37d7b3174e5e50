"""The blocks of a core that are synthesised by name, and how often a core has each."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from mellivora.rtl import primitive
from mellivora.rtl.emit import rtlil
from mellivora.spec import ChipSpec


def _part(module: str, name: str, *arguments: str) -> Callable[[ChipSpec], Any]:
    """Makes a component of a module; arguments: fields of the chip, "" for the chip itself."""

    def make(chip: ChipSpec) -> Any:
        component = getattr(import_module(f"mellivora.rtl.{module}"), name)
        return component(*(getattr(chip, field) if field else chip for field in arguments))

    return make


def _primitive(name: str) -> Callable[[ChipSpec], Any]:
    return lambda chip: primitive(name).create()


BLOCKS: dict[str, tuple[Callable[[ChipSpec], Any], str]] = {
    "matrix_lane": (_part("matrix_lane", "MatrixLane"), "columns"),
    "matrix_column": (_primitive("matrix_column"), "columns"),
    "b_column": (_part("b_column", "BColumn"), "columns"),
    "dot32": (_primitive("dot32"), "columns"),
    "sum32": (_primitive("sum32"), ""),
    "control": (_part("control", "Control"), ""),
    "op_queue": (_part("op_queue", "OpQueue", "queue_depth"), "engines"),
    "semaphores": (_part("semaphores", "Semaphores", "outstanding_transfers"), ""),
    "region_check": (_part("region_check", "RegionCheck", ""), "checks"),
    "dma_issue": (_part("dma_issue", "DmaIssue", ""), "movers"),
    "dma_walker": (_part("dma_walker", "DmaWalker", ""), "movers"),
    "fp32_add": (_primitive("fp32_add"), "lanes"),
    "fp32_mul": (_primitive("fp32_mul"), "lanes"),
    "reduce_tree": (_primitive("reduce_tree"), ""),
    "mx_quantise": (_primitive("mx_quantise"), ""),
}
"""Name -> (maker, what a core has as many of: a field of the chip, a number below, or "": one)."""

COUNTS = {"": 1, "engines": 4, "checks": 2, "movers": 2}


def count(name: str, chip: ChipSpec) -> int:
    """How many of the block a core has."""
    by = BLOCKS[name][1]
    return COUNTS[by] if by in COUNTS else int(getattr(chip, by))


def shared_modules(component: Any) -> list[str]:
    """The modules that a component places with `share`: they stay apart in synthesis."""
    names = re.findall(r"(?m)^module \\(\S+)", rtlil(component))
    return [name for name in names if name != component.module_name and "." not in name]
