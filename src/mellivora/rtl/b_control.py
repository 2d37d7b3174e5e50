"""What the columns do with the bytes of B that memory shows: from the sequencer's step, two cycles
later."""

from __future__ import annotations

from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data

from mellivora.isa.modes import B_SCALE_BYTES, BFormat
from mellivora.numerics.formats import FORMATS
from mellivora.rtl.b_column import B_CONTROL
from mellivora.rtl.b_unpack import FLOATING, GROUPS, LANES, NIBBLES, SIX_GROUPS
from mellivora.rtl.interfaces import READ_CYCLES
from mellivora.rtl.matrix_column import SCALE_STAGE
from mellivora.rtl.matrix_operation import by_format, is_one_of, row_rates
from mellivora.rtl.pipeline import register

FRACTION_BITS = {
    BFormat.MX8: FORMATS["mxint8"].frac_bits,
    BFormat.MXFP6: FORMATS["mxfp6"].frac_bits,
    BFormat.MXFP4: FORMATS["mxfp4"].frac_bits,
}
SCALED = frozenset(fmt for fmt, count in B_SCALE_BYTES.items() if count)
HALF = frozenset(fmt for fmt, count in B_SCALE_BYTES.items() if count >= 2)


def b_control(
    m: Module,
    op: SimpleNamespace,
    step: data.View,
    *,
    is_scale: Value,
    refill: Value,
    columns: int,
) -> data.View:
    """B_CONTROL in the cycle in which memory shows what `step` asked for.

    op: holds from a cycle before the first load to the end.
    """
    assert READ_CYCLES == 2
    loading, swap, swap_2, scale_2 = (
        Signal(name=name) for name in ("loading_1", "swap_1", "swap_2", "scale_2")
    )
    m.d.sync += [
        loading.eq(step.loading),
        swap.eq(step.swap),
        swap_2.eq(swap),
    ]
    index = register(m, step.load_index, "load_index_1")
    scale_1 = register(m, is_scale, "is_scale_1")
    m.d.sync += scale_2.eq(loading & scale_1)

    slots = Signal(GROUPS * LANES)
    m.d.sync += slots.eq(Mux(loading & ~scale_1, _slots(m, op, index, columns), 0))
    part = len(SIX_GROUPS) // 2  # of MXFP6: a half block, dword by dword
    upper = index >= part
    six_upper = register(m, upper, "six_upper")
    six_carry = register(m, Mux(upper, index - part, index)[:2], "six_carry")

    is_six = op.format == BFormat.MXFP6
    one_byte = by_format(m, op.format, {**dict.fromkeys(BFormat, 0), **FRACTION_BITS}, "fraction")
    shift = register(m, one_byte + (step.b_slice << 3), "shift", stages=SCALE_STAGE)
    control = Signal(B_CONTROL)
    m.d.comb += [
        control.unpack.nibbles.eq(is_one_of(op.format, NIBBLES)),
        control.unpack.floating.eq(is_one_of(op.format, FLOATING)),
        control.unpack.six.eq(is_six),
        control.unpack.six_carry.eq(six_carry),
        control.unpack.six_upper.eq(six_upper),
        control.unpack.less_eight.eq(op.format == BFormat.Q4_0),
        control.unpack.signed_nibbles.eq(op.format != BFormat.Q4_1),
        control.rows.eq(op.format == BFormat.ROWS),
        control.slots.eq(slots),
        control.scale.eq(scale_2),
        control.half.eq(is_one_of(op.format, HALF) & ~refill),
        control.unit.eq(~is_one_of(op.format, SCALED) | refill),
        control.offset.eq(op.format == BFormat.Q4_1),
        control.is_signed.eq((step.b_slice == 0) & (op.format != BFormat.UINT8)),
        control.swap.eq(swap_2),
        control.swap_scale.eq(register(m, swap_2, "swap_scale", stages=SCALE_STAGE)),
        control.shift.eq(shift),
    ]
    return control


def _slots(m: Module, op: SimpleNamespace, index: Value, columns: int) -> Value:
    """Which codes of a block come in a load's cycle `index`, a bit each."""
    groups, lanes = Signal(GROUPS), Signal(LANES, init=(1 << LANES) - 1)
    four, two = row_rates(op.b_pitch, columns)
    is_rows, is_nibbles = op.format == BFormat.ROWS, is_one_of(op.format, NIBBLES)
    m.d.comb += groups.eq(1 << index[:3])
    with m.If(op.format == BFormat.MXFP6), m.Switch(index):
        for dword, completed in enumerate(SIX_GROUPS):
            with m.Case(dword):
                m.d.comb += groups.eq(sum(1 << group for group in completed))
    with m.Elif(is_nibbles):
        half = Signal(GROUPS // 2, name="half_groups")
        m.d.comb += [half.eq(1 << index[:2]), groups.eq(Cat(half, half))]
    with m.Elif(is_rows & ~four):
        with m.If(two):
            m.d.comb += [groups.eq(1 << index[1:4]), lanes.eq(Mux(index[0], 0b1010, 0b0101))]
        with m.Else():
            m.d.comb += [groups.eq(1 << index[2:5]), lanes.eq(1 << index[:2])]
    return Cat(groups[i // LANES] & lanes[i % LANES] for i in range(GROUPS * LANES))
