"""Modules and their places, and that a memory taken apart by port is the whole memory."""

from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl.banked_memory import BankedMemory
from mellivora.rtl.core import accumulators, scratchpad
from mellivora.rtl.hierarchy import hierarchy
from mellivora.rtl.pipeline import register
from mellivora.rtl.reduce_tree import ReduceTree
from mellivora.rtl.sharing import share
from mellivora.rtl.synth import synthesise
from mellivora.rtl.vector_lane import VectorLane
from mellivora.spec import load_chip
from mellivora.spec.area import memory_ports

TINY = Path(__file__).parents[1] / "data" / "tiny.lib"
CHIPS = [load_chip(name) for name in ("nano", "micro", "m1")]


class Leaf(wiring.Component):
    """q: a, a cycle later."""

    a: In(4)
    q: Out(4)
    module_name = "leaf"

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.q.eq(register(m, self.a, "held"))
        return m


class Two(wiring.Component):
    """The sum of two leaves, in a register."""

    a: In(4)
    q: Out(5)
    module_name = "two"

    def elaborate(self, platform):
        m = Module()
        leaves = [Leaf(), Leaf()]
        for i, leaf in enumerate(leaves):
            m.submodules[f"leaf_{i}"] = share(leaf)
            m.d.comb += leaf.a.eq(self.a)
        m.d.comb += self.q.eq(register(m, leaves[0].q + leaves[1].q, "sum"))
        return m


def totals(component):
    return {name: count for name, (_, count) in hierarchy(component).totals().items()}


def synthesised(part):
    return synthesise(part.text + part.around, top=part.name, liberty=TINY, boxes=part.boxes)


def test_places_are_multiplied_on_the_way_down():
    assert totals(Two()) == {"two": 1, "leaf": 2}
    assert totals(ReduceTree())["reduce_node"] == 31
    lane = totals(VectorLane())
    assert lane["binary_stage"] == lane["fp32_add"] == 2
    assert lane["vector_lane"] == lane["table_exp2"] == 1


def test_the_parts_are_the_whole():
    """Each module alone, times its places, has the registers and the area of all together."""
    parts = hierarchy(Two()).totals()
    alone = {name: synthesised(part) for name, (part, _) in parts.items()}
    whole = synthesise(Two(), liberty=TINY, keep=["leaf"])
    assert alone["two"].register_um2 == 5 * (whole.register_um2 / 13)
    for figure in ("area_um2", "register_um2"):
        parted = sum(getattr(alone[name], figure) * count for name, (_, count) in parts.items())
        assert parted == pytest.approx(getattr(whole, figure))
    assert "input to register" in alone["two"].paths  # from a leaf, which is a box


@pytest.mark.nightly
def test_the_ports_of_a_memory_are_the_memory():
    """Its registers are theirs: no port has any in common with another one."""
    widths = {"reads": {"a": 32, "b": 4}, "writes": {"c": 32, "d": 16}}
    memory = BankedMemory(1024, 32, banks=4, **widths)
    whole = synthesise(memory, liberty=TINY, recipes=("area",))
    found = [synthesised(part) for part, _ in hierarchy(memory).totals().values() if part.text]
    assert len(found) == 4
    assert sum(one.register_um2 for one in found) == whole.register_um2
    assert whole.memory_bits == 8 * 1024


@pytest.mark.parametrize("chip", CHIPS, ids=lambda chip: chip.name)
def test_the_area_model_knows_the_ports(chip):
    for name, made in (("scratchpad", scratchpad(chip)), ("accumulators", accumulators(chip))):
        made._MustUse__used = True  # asked for its ports, placed nowhere
        banks, reads, writes = memory_ports(chip)[name]
        assert banks == made.banks
        assert sorted(reads) == sorted(made.reads.values())
        assert sorted(writes) == sorted(made.writes.values())
