"""Place and route module by module: a small component with a child, a memory, the cache, limits."""

from __future__ import annotations

import json

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora import cli
from mellivora.rtl import fpga, primitive
from mellivora.rtl.banked_memory import BankedMemory
from mellivora.rtl.fpga import AVAILABLE, place_and_route
from mellivora.rtl.fpga_modules import Modules, place_modules
from mellivora.rtl.sharing import share


class Twice(wiring.Component):
    """Two conversions to bfloat16 one after another, the later one of the difference."""

    module_name = "twice"

    def __init__(self) -> None:
        super().__init__({"a": In(32), "q": Out(16)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, second = (primitive("to_bf16").create() for _ in range(2))
        m.submodules.first, m.submodules.second = share(first), share(second)
        kept = Signal(32, reset_less=True)
        difference = Signal(32, reset_less=True, name="kept[0]")  # as of a field of an array
        m.d.sync += [kept.eq(self.a ^ 1), difference.eq(kept - self.a)]
        m.d.comb += [first.x.eq(~kept), second.x.eq(first.q ^ difference), self.q.eq(second.q)]
        return m


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache of these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("MELLIVORA_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def twice(cache) -> Modules:
    return place_modules(Twice())


def test_each_module_has_its_own_clock(twice):
    """The child alone is what it is as a block; the parent's path is its subtraction."""
    assert twice.places == {"twice": 1, "to_bf16": 2}
    alone = place_and_route(primitive("to_bf16").create())
    assert twice.rows["to_bf16"].used == alone.used
    assert twice.rows["to_bf16"].fmax_mhz == pytest.approx(alone.fmax_mhz, rel=0.2)
    path = twice.rows["twice"].longest_path
    assert (path["from"], path["to"]) == ("kept", "kept.0")
    clocks = {name: row.fmax_mhz for name, row in twice.rows.items()}
    assert twice.slowest() == min(clocks, key=lambda name: clocks[name])


def test_the_total_is_that_of_all_places(twice):
    rows = twice.rows
    assert rows["twice"].used["FF"] == 64, "without its children's"
    assert rows["twice"].used["LUT"] >= 32 + 16, "a subtraction, and an exclusive or of ports"
    for kind in AVAILABLE:
        total = rows["twice"].used[kind] + 2 * rows["to_bf16"].used[kind]
        assert twice.used()[kind] == total
        assert twice.devices()[kind] == total / AVAILABLE[kind]


def test_what_was_placed_once_is_in_the_cache(twice, monkeypatch):
    def never(*_, **__):
        raise AssertionError("synthesised again")

    monkeypatch.setattr(fpga, "synthesise", never)
    assert place_modules(Twice()) == twice
    assert place_modules(Twice(), target_mhz=100) == twice, "as the command line gives it"
    with pytest.raises(AssertionError, match="again"):
        place_modules(Twice(), seed=2)
    monkeypatch.setattr(fpga, "tools", lambda: {"yosys": "0"})
    with pytest.raises(AssertionError, match="again"):
        place_modules(Twice())


def test_ports_of_a_memory_are_placed_and_its_banks_named(cache):
    """Two readers of one width are one module. A write port drives nothing but banks, and stays."""
    memory = BankedMemory(256, 4, banks=2, reads={"a": 1, "b": 1}, writes={"c": 1})
    memory._MustUse__used = True  # its ports are placed, itself nowhere
    found = place_modules(memory)
    assert found.places == {"read_port_32x2_1": 2, "write_port_32x2_1": 1}
    assert found.banks == [("bank_32x4x8_r2w1", 2)]
    writer = found.rows["write_port_32x2_1"]
    assert writer.used["FF"] >= 32 + 4 + 2 * 5, "a word, its mask, and two rows of 32"
    assert writer.fmax_mhz is None, "registers go to the banks"
    assert "2 banks of 32 x 32 bits with 2 read and 1 write ports" in found.facts()["banks"][0]


def test_a_module_over_the_time_is_named_and_tried_again_with_more(cache):
    block = primitive("e8m0_expand").create
    found = place_modules(block(), limit_s=0.01)
    assert "takes longer than 0.01 s" in found.not_placed()["e8m0_expand"]
    row = found.rows["e8m0_expand"]
    assert row.fmax_mhz is None
    assert row.used["FF"] > 0, "as mapped"
    assert place_modules(block()).not_placed() == {}


def test_a_module_over_the_device_is_named(cache, monkeypatch):
    monkeypatch.setitem(fpga.AVAILABLE, "FF", 5)
    found = place_modules(primitive("to_int8").create())
    used = found.rows["to_int8"].used["FF"]
    assert found.not_placed() == {"to_int8": f"{used} FF of 5"}
    assert found.slowest() is None


def test_the_command(cache, capsys):
    assert cli.main(["rtl", "fpga", "--block", "op_queue", "--modules", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["block"] == "op_queue"
    assert facts["tools"]["nextpnr"] == fpga.tools()["nextpnr"] != "none"
    (row,) = facts["modules"].values()
    assert facts["used"] == row["used"]
    assert facts["fmax_mhz"] == row["fmax_mhz"] > 10
    assert facts["not_placed"] == {}


@pytest.mark.nightly
def test_a_tree_is_placed_module_by_module():
    found = place_modules(primitive("reduce_tree").create())
    assert found.places == {"reduce_tree": 1, "reduce_node": 31}
    one = place_and_route(primitive("fp32_add").create())
    assert found.used()["LUT"] > 31 * one.used["LUT"]
    assert found.slowest() == "reduce_node"
