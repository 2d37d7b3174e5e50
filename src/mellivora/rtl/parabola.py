"""A function's table and the parabola through it: the common heart of the table functions."""

from collections.abc import Sequence

from amaranth.hdl import C, Module, Value, signed
from amaranth.lib.memory import Memory

from mellivora.numerics.function_tables import table
from mellivora.rtl.pipeline import register, wire

PARABOLA_STAGES = 3


def parabola(m: Module, name: str, index: Value, below: Value) -> Value:
    """c0 + (((c1 + ((c2 * (below >> (D - 15))) >> 15)) * below) >> D), D = len(below).

    name: of a table of `numerics.function_tables`. 3 cycles from index and below, which may be
    combinational, to a registered result: table read, two multiplications.
    """
    bits = len(below)
    columns = [column.tolist() for column in table(name)[:3]]
    c0, c1, c2 = (_rom(m, f"c{k}", column, index) for k, column in enumerate(columns))
    below_1 = register(m, below, "below_1")
    bend = wire(m, (c2 * below_1[bits - 15 :]) >> 15, "bend")
    slope_2 = register(m, c1 + bend, "slope_2")
    rise = wire(m, (slope_2 * register(m, below_1, "below_2")) >> bits, "rise")
    total = register(m, register(m, c0, "c0_2") + rise, "parabola_3")
    # All values are positive and below 2^31, so tests would see it if they were not.
    return total[:31]


def _rom(m: Module, name: str, column: Sequence[int], index: Value) -> Value:
    """The table's entry a cycle later."""
    low, high = min(column), max(column)
    bits = max(low.bit_length() if low >= 0 else (-low - 1).bit_length(), high.bit_length())
    shape = signed(bits + 1)
    depth = 1 << len(index)
    memory = Memory(shape=shape, depth=depth, init=[*column, *[0] * (depth - len(column))])
    m.submodules[name] = memory
    port = memory.read_port()
    m.d.comb += [port.addr.eq(index), port.en.eq(C(1, 1))]
    return port.data
