"""Verilog of every primitive: complete, without a second copy of anything, the same each time."""

import re

import pytest

from mellivora.rtl import PRIMITIVES, primitive
from mellivora.rtl.emit import verilog

MODULE = re.compile(r"^module (\w+)\(([^)]*)\);", re.MULTILINE)
INSTANCE = re.compile(r"^  (?:\(\*.*\*\)\s*)?(\w+) (\S+) +\(\n    \.", re.MULTILINE)


@pytest.mark.parametrize("name", PRIMITIVES)
def test_each_module_once_and_all_that_it_uses(name):
    component = primitive(name).create()
    text = verilog(component)
    defined = [found for found, _ in MODULE.findall(text)]
    assert len(defined) == len(set(defined))
    used = {module for module, _ in INSTANCE.findall(text)}
    assert set(defined) - used == {name}, "one top"
    assert used <= set(defined)
    ports = {port.strip().lstrip("\\") for port in dict(MODULE.findall(text))[name].split(",")}
    assert ports == {
        "clk",
        *("__".join(map(str, path)) for path, *_ in component.signature.flatten(component)),
    }


def test_what_is_placed_often_is_written_once():
    text = verilog(primitive("reduce_tree").create())
    assert text.count("\nmodule ") == 4  # tree, node, adder, comparator
    assert len([1 for module, _ in INSTANCE.findall(text) if module == "reduce_node"]) == 31


def test_the_same_text_twice():
    assert verilog(primitive("matrix_column").create()) == verilog(
        primitive("matrix_column").create()
    )
