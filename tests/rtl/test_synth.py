"""Synthesis keeps the bits, counts what is placed, and times what it made."""

from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from tests.rtl.test_matrix_column import operands_of, signed_bytes

from mellivora.errors import HostError
from mellivora.rtl.blocks import shared_modules
from mellivora.rtl.dot32 import DOT32, pair_sums
from mellivora.rtl.gate_level import GateLevel
from mellivora.rtl.liberty import read_library
from mellivora.rtl.matrix_column import COLUMN_STAGES, MATRIX_COLUMN, Accumulate
from mellivora.rtl.matrix_lane import MatrixLane
from mellivora.rtl.pipeline import register
from mellivora.rtl.sharing import share
from mellivora.rtl.synth import CLOCK_PS, find_liberty, modules_of, synthesise

TINY = Path(__file__).parents[1] / "data" / "tiny.lib"
LIBRARY = find_liberty() or TINY


class Sums(wiring.Component):
    """Every kind of term: products of all signs, added and taken off, with a constant."""

    a: In(signed(5))
    b: In(4)
    c: In(signed(6))
    q: Out(signed(12))
    module_name = "sums"

    def elaborate(self, platform):
        m = Module()
        total = self.a * self.b - self.a * self.c + self.b * self.b - self.c + 37
        m.d.comb += self.q.eq(register(m, total, "total"))
        return m


class Choice(wiring.Component):
    """Right factors of which no two have the same bit; left factors of two widths."""

    a: In(signed(4))
    b: In(signed(4))
    both: In(signed(5))
    x: In(signed(3))
    y: In(signed(3))
    q: Out(signed(9))
    module_name = "choice"

    def elaborate(self, platform):
        m = Module()
        x, y = self.x, self.y
        factors = [(self.a, x & ~y), (self.b, y & ~x), (self.both, x & y)]
        terms = [left * right.as_signed() for left, right in factors]
        m.d.comb += self.q.eq(register(m, terms[0] + terms[1] + terms[2], "total"))
        return m


class Pair(wiring.Component):
    """Two places of one shared module, and a memory."""

    a: In(signed(5))
    b: In(4)
    c: In(signed(6))
    address: In(3)
    q: Out(signed(13))
    held: Out(10)
    module_name = "pair"

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=10, depth=8, init=[])
        write, read = memory.write_port(), memory.read_port()
        m.d.comb += [write.addr.eq(self.address), write.data.eq(self.a), write.en.eq(1)]
        m.d.comb += [read.addr.eq(self.address), self.held.eq(read.data)]
        one, two = Sums(), Sums()
        m.submodules.one, m.submodules.two = share(one), share(two)
        for part in (one, two):
            m.d.comb += [part.a.eq(self.a), part.b.eq(self.b), part.c.eq(self.c)]
        m.d.comb += self.q.eq(one.q + two.q)
        return m


class Twice(wiring.Component):
    """Two places of one shared module, one behind the other."""

    a: In(signed(5))
    b: In(4)
    c: In(signed(6))
    q: Out(signed(12))
    module_name = "twice"

    def elaborate(self, platform):
        m = Module()
        one, two = Sums(), Sums()
        m.submodules.one, m.submodules.two = share(one), share(two)
        for part in (one, two):
            m.d.comb += [part.b.eq(self.b), part.c.eq(self.c)]
        m.d.comb += [one.a.eq(self.a), two.a.eq(one.q ^ self.a), self.q.eq(two.q)]
        return m


def to_bits(values, width):
    values = np.asarray(values).reshape(len(values), -1)
    bits = values[:, :, None] >> np.arange(width) & 1
    return bits.astype(bool).reshape(len(values), -1)


def to_int(bits):
    value = (bits.astype(np.int64) << np.arange(bits.shape[1])).sum(axis=1)
    return np.where(bits[:, -1], value - (1 << bits.shape[1]), value)


def run(result, library, cycles, **operands):
    rows = len(next(iter(operands.values())))
    clock = np.zeros((rows, 1), bool)
    return GateLevel(result.netlist, read_library(library)).run(
        {"clk": clock, **operands}, cycles=cycles
    )


@pytest.fixture(scope="module")
def sums():
    return synthesise(Sums(), liberty=TINY)


def test_sums_of_products_keep_their_bits(sums):
    """All 2^15 operands through cells with inverted full adders."""
    a, b, c = (x.reshape(-1) for x in np.meshgrid(range(-16, 16), range(16), range(-32, 32)))
    out = run(sums, TINY, 1, a=to_bits(a, 5), b=to_bits(b, 4), c=to_bits(c, 6))["q"]
    np.testing.assert_array_equal(to_int(out), a * b - a * c + b * b - c + 37)
    assert sums.cells["FA"] > 10


def test_products_that_share_rows_keep_their_bits():
    """All operands: the rows are as wide as the widest left factor."""
    grid = np.meshgrid(range(-8, 8), range(-8, 8), range(-4, 4), range(-4, 4))
    a, b, x, y = (one.reshape(-1) for one in grid)
    result = synthesise(Choice(), liberty=TINY)
    out = run(result, TINY, 1, a=to_bits(a, 4), b=to_bits(b, 4), both=to_bits(a + b, 5),
              x=to_bits(x, 3), y=to_bits(y, 3))["q"]  # fmt: skip
    np.testing.assert_array_equal(to_int(out), a * x + b * y)


def test_area_is_the_sum_over_the_cells(sums):
    cells = read_library(TINY).cells
    assert sums.area_um2 == sum(cells[kind].area_um2 * n for kind, n in sums.cells.items())
    assert sums.register_um2 == 12 * cells["DFF"].area_um2
    assert sums.longest.end == "q[11]"


def test_what_is_kept_apart_is_mapped_once_and_counted_twice(sums):
    pair = synthesise(Pair(), liberty=TINY, keep=["sums"])
    assert pair.by_module["sums"][1] == 2
    own, count = pair.by_module["pair"]
    assert count == 1
    assert pair.area_um2 == pytest.approx(own + 2 * pair.by_module["sums"][0])
    assert pair.memory_bits == 80
    assert "DFF" in pair.cells  # the memory's are none of them
    assert pair.longest.end.startswith("q$")  # of one of the two


def test_a_module_is_mapped_by_the_first_recipe_that_is_fast_enough():
    """If none is, the whole is as fast as by any of them; the bits stay."""
    order = ["shallow", "area"]

    def twice(clock_ps, recipes):
        return synthesise(Twice(), liberty=TINY, keep=["sums"], clock_ps=clock_ps, recipes=recipes)

    loose, tight = twice(1e6, order), twice(100, order)
    assert loose.recipes == {"twice": "shallow", "sums": "shallow"}
    assert tight.longest_path_ps <= min(twice(100, [one]).longest_path_ps for one in order)
    a, b, c = (x.reshape(-1) for x in np.meshgrid(range(-16, 16), range(16), range(-32, 32)))
    once = a * b - a * c + b * b - c + 37
    first = (once ^ a) & 31
    first -= (first & 16) << 1
    for result in (loose, tight):
        out = run(result, TINY, 2, a=to_bits(a, 5), b=to_bits(b, 4), c=to_bits(c, 6))["q"]
        np.testing.assert_array_equal(to_int(out), first * b - first * c + b * b - c + 37)


def test_a_register_is_found_in_the_modules_around_it():
    modules = {"top": {"cells": {"one": {"type": "part"}}},
               "part": {"cells": {"inner": {"type": "leaf"}, "gate": {"type": "AND"}}},
               "leaf": {"cells": {}}}  # fmt: skip
    assert modules_of(modules, "top", "q[3]") == {"top"}
    assert modules_of(modules, "top", "one.q[3]") == {"top", "part"}
    assert modules_of(modules, "top", "$flatten\\one.\\inner.$auto$1") == {"top", "part", "leaf"}


def test_without_a_library_gates_are_counted():
    result = synthesise(Sums())
    assert result.area_um2 is None
    assert result.corner == "generic gates"
    assert result.cell_count > 100
    assert not result.paths


def test_verilog_of_others_is_read():
    text = "module twice(input clk, a, output reg q); always @(posedge clk) q <= ~a; endmodule"
    result = synthesise(text, top="twice", liberty=TINY)
    assert result.cells == {"DFF": 1, "INV": 1}
    assert result.paths["input to register"].delay_ps == (5 + 2) + 6
    assert result.longest_path_ps == 20  # the flip-flop's own


def test_bad_verilog_is_an_error_with_yosys_words():
    with pytest.raises(HostError, match="yosys") as error:
        synthesise("module x(; endmodule", top="x", liberty=TINY)
    assert error.value.code == "MV0933"
    assert "syntax error" in error.value.given


@pytest.fixture(scope="module")
def column():
    """Flat modules of one recipe: quick, and all kinds of sums are in it."""
    create = MATRIX_COLUMN.create
    return synthesise(create(), liberty=LIBRARY, keep=shared_modules(create()), recipes=["shallow"])


def test_dot32_keeps_its_bits_and_its_clock(rng):
    """In ASAP7 where its library is found, else in the tiny one."""
    result = synthesise(DOT32.create(), liberty=LIBRARY)
    a, b = rng.integers(-256, 256, (640, 32)), rng.integers(-128, 128, (640, 32))
    offset = a.sum(axis=1) * rng.integers(-128, 129, 640)
    a[0], b[0], offset[0] = -256, -128, 128 * 256 * 32
    out = run(result, LIBRARY, DOT32.stages, a=to_bits(a, 9), b=to_bits(b, 8),
              pairs=to_bits(pair_sums(a), 10), offset=to_bits(offset, 23))["dot"]  # fmt: skip
    np.testing.assert_array_equal(to_int(out), (a * b).sum(axis=1) + offset)
    if LIBRARY is not TINY:
        assert result.longest_path_ps <= CLOCK_PS


@pytest.mark.parametrize("mode", Accumulate, ids=lambda mode: mode.name)
def test_a_column_keeps_its_bits(mode, column, corners, rng):
    """Booth's digits, sums with signs and carries, shared rows: 640 steps. Operands are held for as
    long as an OFFSET step takes, since what registers begin with may be one."""
    operands = operands_of(640, corners, rng)
    b, offset = signed_bytes(operands["a"], operands["b"])
    words = {name: operands[name].view(np.uint32) for name in ("acc", "sa", "sb", "minimum")}
    shown = run(
        column,
        LIBRARY,
        COLUMN_STAGES[Accumulate.OFFSET],
        mode=to_bits(np.full(640, mode), 2),
        a=to_bits(operands["a"], 9),
        pairs=to_bits(pair_sums(operands["a"]), 10),
        b=to_bits(b, 8),
        offset=to_bits(offset, 23),
        a_sum=to_bits(operands["a"].sum(axis=1), 14),
        **{name: to_bits(word.astype(np.int64), 32) for name, word in words.items()},
    )["q"]
    expected = MATRIX_COLUMN.compute(mode, **operands)
    np.testing.assert_array_equal(to_int(shown).astype(np.uint32), expected)


FULL = find_liberty("asap7_rvt_tt_full_slim")


@pytest.mark.nightly
@pytest.mark.skipif(FULL is None, reason="2026-11-26: ASAP7's cells are not in the repository")
def test_a_column_with_all_its_own_is_small_and_fast_enough():
    """65 um2 for each of 32 products, at 1 GHz: operand B's registers and past results in it."""
    lane = MatrixLane()
    result = synthesise(lane, liberty=FULL, keep=shared_modules(lane))
    assert result.longest_path_ps <= CLOCK_PS
    assert result.area_um2 <= 65 * 32
