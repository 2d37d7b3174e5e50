"""Libraries made module by module: what designs have in common is compiled once, and is right."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.errors import HostError
from mellivora.rtl import objects, simulate
from mellivora.rtl.emit import rtlil, yosys
from mellivora.rtl.pipeline import register
from mellivora.rtl.sharing import share


class Adder(wiring.Component):
    """total + step; where it starts is a power-on value, so that it can be another module."""

    def __init__(self, start: int = 0) -> None:
        self.start = start
        self.module_name = f"adder_of_tests{'_' * (start > 0)}"
        super().__init__({"step": In(40), "total": Out(40)})

    def elaborate(self, platform):
        m = Module()
        total = register(m, self.total + self.step, "after")
        m.d.comb += self.total.eq(total + self.start)
        return m


class Chain(wiring.Component):
    """Adders in a row; `before` of them are of another kind and stand first."""

    def __init__(self, length: int, before: int = 0) -> None:
        self.length, self.before = length, before
        self.module_name = f"chain_of_tests_{length}_{before}"
        super().__init__({"step": In(40), "total": Out(40)})

    def elaborate(self, platform):
        m = Module()
        total = self.step
        for i in range(self.before + self.length):
            adder = Adder(i < self.before)
            m.submodules += share(adder)
            m.d.comb += adder.step.eq(total)
            total = adder.total
        m.d.comb += self.total.eq(total)
        return m


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Each module an object of its own, in an empty cache; gives what is there."""
    monkeypatch.setenv("MELLIVORA_CACHE", str(tmp_path))
    monkeypatch.setattr(objects, "OWN_OBJECT_CHARS", 0)
    return lambda: {path.name: path.stat().st_ino for path in tmp_path.glob("rtl/objects-*/*.o")}


def expected(steps: np.ndarray, starts: list[int]) -> np.ndarray:
    signal = steps
    for start in starts:
        state, out = 0, []
        for step in signal.tolist():
            out.append(state + start)
            state += start + step
        signal = np.array(out)
    return signal % 2**40


def test_designs_share_what_they_have_in_common(cache, rng):
    steps = rng.integers(0, 2**31, 30)
    found, counts = {}, []
    for chain in (Chain(2), Chain(3), Chain(1, before=1)):
        shown = simulate.build(chain).run(step=np.stack([steps, 0 * steps], axis=1))
        starts = [1] * chain.before + [0] * chain.length
        total = simulate.unpack(shown["total"], 40, 1)[:, 0]
        np.testing.assert_array_equal(total, expected(steps, starts))
        assert all(cache()[name] == inode for name, inode in found.items()), "none made again"
        counts.append(len(cache()) - len(found))
        found = cache()
    assert counts == [2, 1, 2], "an adder and its chain; a chain; another adder and a chain"


def parts(component) -> dict:
    text = yosys(
        f"read_rtlil <<rtlil\n{rtlil(component)}\nrtlil\n"
        f"hierarchy -check -top {component.module_name}\nwrite_cxxrtl -g0 -noflatten"
    )
    return objects._parts(text)


def test_a_module_has_the_same_text_wherever_it_stands():
    alone, behind = parts(Chain(1)), parts(Chain(1, before=1))
    (adder,) = alone.keys() - {"p_chain__of__tests__1__0"}
    assert alone[adder] == behind[adder]
    assert adder in alone["p_chain__of__tests__1__0"].cells


def test_numbers_given_by_the_tools_do_not_matter_and_names_do():
    first = "value<4> i_procmux_24_12__Y;\n// cell $12\ntmp_7 = i_procmux_24_12__Y + tmp_8;\n"
    later = "value<4> i_procmux_24_99__Y;\n// cell $99\ntmp_3 = i_procmux_24_99__Y + tmp_5;\n"
    swapped = later.replace("tmp_3 = ", "tmp_5 = ")
    assert [*objects._renumbered(first)] == [*objects._renumbered(later)]
    assert [*objects._renumbered(first)] != [*objects._renumbered(swapped)]


def test_an_object_that_does_not_compile_leaves_nothing(cache, monkeypatch, tmp_path):
    simulate.build(Chain(1))
    before = cache()
    monkeypatch.setattr(objects, "_functions", lambda *_: "this is no C++")
    with pytest.raises(HostError, match="MV0922"):
        simulate.build(Chain(2))
    assert cache() == before
    assert not list(tmp_path.glob("rtl/objects-*/*.cc"))
    assert not list(tmp_path.glob("rtl/build-*"))
    assert not list(tmp_path.glob("rtl/chain_of_tests_2*.so"))
