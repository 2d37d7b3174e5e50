"""A resolved MATMUL as the parts of MATRIX read it: fields by name, formats and passes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value, ValueLike, signed
from amaranth.lib import data

from mellivora.isa.modes import B_DWORDS, B_SCALE_BYTES, BFormat, passes
from mellivora.isa.table import BY_NAME
from mellivora.rtl.interfaces import ADDRESS_BITS
from mellivora.rtl.pipeline import wire
from mellivora.spec import ChipSpec

MATMUL = BY_NAME["matmul"]
MOST_SLICES = 3
PASS_BITS = 3
PASS_KEY_BITS = PASS_BITS + 2 + 2
UNSCALED = frozenset((BFormat.INT8, BFormat.UINT8, BFormat.INT4))
"""A has no scales either."""


def operands(m: Module, operation: data.View, name: str) -> SimpleNamespace:
    """Slots and configuration by their names in the table; `mode` taken apart."""
    return _named({key: wire(m, value, f"{name}_{key}") for key, value in _fields(operation)})


def kept_operands(m: Module, operation: data.View, launch: Value) -> SimpleNamespace:
    """The operands of the operation that was launched last, from the cycle after `launch` on.

    Registers of their own, which merge with others of the kind: cutting fields out of an operation
    is slow in a simulation.
    """
    kept = {key: Signal(value.shape(), name=f"op_{key}") for key, value in _fields(operation)}
    with m.If(launch):
        m.d.sync += [kept[key].eq(value) for key, value in _fields(operation)]
    return _named(kept)


def _fields(operation: data.View) -> list[tuple[str, Value]]:
    slots = [(field, operation.slots[i]) for i, field in enumerate(MATMUL.slots)]
    return slots + [(field, operation.config[i]) for i, field in enumerate(MATMUL.config)]


def _named(fields: dict[str, Value]) -> SimpleNamespace:
    mode = fields["mode"].as_unsigned()
    parts = {"format": mode[:4], "a_slices": mode[4:6], "b_slices": mode[6:8]}
    parts |= {"accumulate": mode[8], "integer": mode[9], "more_mode": mode[10:]}
    return SimpleNamespace(**fields, **parts)


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


def codes_bytes(m: Module, op: SimpleNamespace, name: str) -> Value:
    """4 * b_pitch for each dword of a block in all its slices: one sum, for no format's number of
    dwords has more than two ones. ROWS has its k-rows elsewhere: any number.
    """
    high, low = (Signal(signed(ADDRESS_BITS), name=f"{name}_{part}") for part in ("high", "low"))
    with m.Switch(Cat(op.format, op.b_slices)):
        for fmt, dwords in B_DWORDS.items():
            several = range(1, MOST_SLICES + 1) if fmt == BFormat.MX8 else [None]
            for slices in several:
                count = 4 * dwords * (slices or 1)
                power = 1 << count.bit_length() - 1
                assert (count - power).bit_count() < 2
                with m.Case(("--" if slices is None else f"{slices:02b}") + f"{fmt:04b}"):
                    m.d.comb += high.eq(op.b_pitch << power.bit_length() - 1)
                    if count > power:
                        m.d.comb += low.eq(op.b_pitch << (count - power).bit_length() - 1)
    return wire(m, (high + low)[:ADDRESS_BITS].as_signed(), name)


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


def pass_of(m: Module, key: Value) -> SimpleNamespace:
    """A pass of an operation: slices i and j, whether it is the block's last, and the `next_j` of
    the pass after it (the last: of the next block's first).

    key: its number in the block, PASS_BITS, then the slices of A and of B, 2 bits each.
    """
    found = Signal(7, name="found_pass")
    slices = range(1, MOST_SLICES + 1)
    with m.Switch(key):
        for a_slices in slices:
            for b_slices in slices:
                pairs = passes(a_slices, b_slices)
                for at, (i, j) in enumerate(pairs):
                    next_j, last = pairs[(at + 1) % len(pairs)][1], at + 1 == len(pairs)
                    with m.Case(at | a_slices << PASS_BITS | b_slices << PASS_BITS + 2):
                        m.d.comb += found.eq(i | j << 2 | next_j << 4 | int(last) << 6)
    return SimpleNamespace(i=found[:2], j=found[2:4], next_j=found[4:6], last=found[6])


def by_slice(slice_index: Value, step: ValueLike) -> Value:
    """slice_index times step, for 0, 1 and 2."""
    step = Value.cast(step)
    return Mux(slice_index == 0, 0, Mux(slice_index == 1, step, step << 1))
