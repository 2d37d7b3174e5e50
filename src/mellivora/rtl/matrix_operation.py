"""A resolved MATMUL as the parts of MATRIX read it: fields by name, formats and passes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value, ValueLike
from amaranth.lib import data

from mellivora.isa.modes import B_DWORDS, B_SCALE_BYTES, BFormat, passes
from mellivora.isa.table import BY_NAME
from mellivora.rtl.pipeline import wire
from mellivora.spec import ChipSpec

MATMUL = BY_NAME["matmul"]
MOST_SLICES = 3
PASS_BITS = 3
UNSCALED = frozenset((BFormat.INT8, BFormat.UINT8, BFormat.INT4))
"""A has no scales either."""


def operands(operation: data.View) -> SimpleNamespace:
    """Slots and configuration by their names in the table; `mode` taken apart."""
    named = {name: operation.slots[i] for i, name in enumerate(MATMUL.slots)}
    named |= {name: operation.config[i] for i, name in enumerate(MATMUL.config)}
    mode = named["mode"].as_unsigned()
    named |= {"format": mode[:4], "a_slices": mode[4:6], "b_slices": mode[6:8]}
    named |= {"accumulate": mode[8], "integer": mode[9], "more_mode": mode[10:]}
    return SimpleNamespace(**named)


def is_one_of(value: Value, numbers: Collection[int]) -> Value:
    """1 where the value is one of the numbers."""
    return Cat(value == int(number) for number in numbers).any()


def by_format(m: Module, fmt: Value, table: Mapping[BFormat, int], name: str) -> Value:
    """The table's number of a format."""
    found = Signal(max(table.values()).bit_length() or 1, name=name)
    with m.Switch(fmt):
        for one, number in table.items():
            with m.Case(int(one)):
                m.d.comb += found.eq(number)
    return found


def row_rates(pitch: Value, columns: int) -> tuple[Value, Value]:
    """(four, two): ROWS brings four k-rows a cycle, or at least two."""
    return pitch <= columns // 4, pitch <= columns // 2


LOAD_CYCLES = {fmt: B_DWORDS[fmt] + (B_SCALE_BYTES[fmt] > 0) for fmt in BFormat}


def load_cycles(m: Module, op: SimpleNamespace, chip: ChipSpec, name: str) -> Value:
    """Cycles to bring a block of one slice to the columns, as `isa.latency` has them."""
    four, two = row_rates(op.b_pitch, chip.columns)
    whole = LOAD_CYCLES[BFormat.ROWS]
    rows = Mux(four, whole // 4, Mux(two, whole // 2, whole))
    fixed = by_format(m, op.format, LOAD_CYCLES, f"{name}_fixed")
    return wire(m, Mux(op.format == BFormat.ROWS, rows, fixed), name)


def pass_of(m: Module, op: SimpleNamespace, index: Value) -> SimpleNamespace:
    """Pass `index` of an operation: slices i and j, whether it is the block's last, and the
    `next_j` of the pass after it (the last: of the next block's first)."""
    found = SimpleNamespace(
        i=Signal(2, name="pass_i"),
        j=Signal(2, name="pass_j"),
        next_j=Signal(2, name="pass_next_j"),
        last=Signal(1, name="pass_last"),
    )
    slices = range(1, MOST_SLICES + 1)
    with m.Switch(Cat(index, op.a_slices, op.b_slices)):
        for a_slices in slices:
            for b_slices in slices:
                pairs = passes(a_slices, b_slices)
                for at, (i, j) in enumerate(pairs):
                    number = at | a_slices << PASS_BITS | b_slices << PASS_BITS + 2
                    with m.Case(number):
                        values = {"i": i, "j": j, "next_j": pairs[(at + 1) % len(pairs)][1]}
                        values["last"] = int(at + 1 == len(pairs))
                        m.d.comb += [getattr(found, key).eq(val) for key, val in values.items()]
    return found


def by_slice(slice_index: Value, step: ValueLike) -> Value:
    """slice_index times step, for 0, 1 and 2."""
    step = Value.cast(step)
    return Mux(slice_index == 0, 0, Mux(slice_index == 1, step, step << 1))
