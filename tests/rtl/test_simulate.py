"""The harness itself: packing, widths, power-on, the cache, and that it can tell a wrong bit."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.errors import HostError
from mellivora.rtl import Primitive, host, objects, simulate
from mellivora.rtl.pipeline import register


class Counter(wiring.Component):
    """total + step after a cycle, and 40 bits of it upside down: state, and a wide port."""

    step: In(9)
    total: Out(40)
    inverse: Out(40)
    module_name = "counter_of_tests"

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.total.eq(self.total + self.step)
        m.d.comb += self.inverse.eq(~register(m, self.total, "late"))
        return m


COUNTER = Primitive(name="counter_of_tests", compute=np.cumsum, create=Counter, stages=1)


@pytest.mark.parametrize("bits", [1, 7, 9, 24, 31, 32])
def test_pack_and_unpack(bits, rng):
    values = rng.integers(-(1 << bits - 1), 1 << bits - 1, (50, 33))
    words = simulate.pack(values, bits)
    assert words.shape == (50, -(-33 * bits // 32))
    np.testing.assert_array_equal(simulate.unpack(words, bits, 33), values & (1 << bits) - 1)


def test_state_starts_at_power_on_each_run(simulation):
    sim = simulation(COUNTER)
    for _ in range(2):
        shown = sim.run(step=np.full(5, 511))
        assert simulate.unpack(shown["total"], 40, 1)[:, 0].tolist() == [511 * n for n in range(5)]
        late = simulate.unpack(shown["inverse"], 40, 1)[1:, 0]
        assert late.tolist() == [2**40 - 1 - 511 * n for n in (0, 0, 1, 2, 3)][1:]


def test_bits_above_a_port_are_dropped(simulation):
    shown = simulation(COUNTER).run(step=np.array([-1, 0]))
    assert shown["total"][1].tolist() == [511, 0]


def test_the_cache_is_used_and_named_by_content(tmp_path, monkeypatch):
    monkeypatch.setenv("MELLIVORA_CACHE", str(tmp_path))
    simulate.build(Counter())
    (first,) = (tmp_path / "rtl").glob("*.so")
    monkeypatch.setattr(objects, "_run", lambda *_: pytest.fail("compiled again"))
    simulate.build(Counter())
    assert list((tmp_path / "rtl").glob("*.so")) == [first]


def test_errors_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MELLIVORA_CACHE", str(tmp_path))
    monkeypatch.setattr(objects, "FLAGS", ("-no-such-flag",))
    with pytest.raises(HostError, match="MV0922"):
        simulate.build(Counter())
    assert not list((tmp_path / "rtl").glob("*.so"))
    host.compiler.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(HostError, match="MV0921"):
        simulate.build(Counter())
    host.compiler.cache_clear()
