"""What VECTOR's parts know of the operation that runs, and of each beat of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amaranth.hdl import Cat, Module, Mux, Value
from amaranth.lib import data

from mellivora.isa.modes import Deq, Func, Op, Reduce, Store
from mellivora.isa.table import BY_NAME
from mellivora.rtl.pipeline import wire

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

BLOCK = 32

TOKEN = data.StructLayout(
    {
        "valid": 1,
        "row_last": 1,  # the last beat of the row, in this pass over it
        "block_last": 1,  # of a block or chunk of 32; of lanes >= 32 each, and row_last too
        "second": 1,  # of the two passes over a row (VQUANT, wide)
        "high": 1,  # upper nibbles (Q4_0, Q4_1; fewer than 32 lanes)
    }
)
"""A beat on its way through the stages; stage 0 is the cycle of its read addresses."""

OPERANDS_STAGE = 3
"""Read 2, selection 1: operands at the first binary stage."""


def beats_a_block(lanes: int) -> int:
    return max(1, BLOCK // lanes)


def blocks_a_beat(lanes: int) -> int:
    return max(1, lanes // BLOCK)


def control_layout(chip: ChipSpec) -> data.StructLayout:
    """Decoded from the operation's registers: stands still while it runs."""
    return data.StructLayout(
        {
            "vew": 1,
            "vred": 1,
            "vquant": 1,
            "vdeq": 1,
            "op1": 3,
            "op2": 3,
            "func": 4,
            "table": 1,
            "masked": 1,
            "b_kind": 2,
            "c_kind": 2,
            "uses_b": 1,
            "uses_c": 1,
            "b_const": 32,
            "c_const": 32,
            "square": 1,  # VRED: the second operand is the first
            "take_max": 1,
            "levels": 5,  # of the tree over chunks
            "target": 3,
            "wide": 1,
            "narrow": 1,  # VQUANT to F16, BF16, INT8
            "deq": 4,
            "integer": 1,  # VDEQ: operands of the first stage are integers
            "int32": 1,
            "packed": 1,  # Q4_0, Q4_1
            "last_mask": chip.lanes,  # lanes of the last beat of a row
        }
    )


@dataclass
class Shape:
    """rows and columns of an operation, 32 bits signed; which of the four it is."""

    vew: Value
    vred: Value
    vquant: Value
    vdeq: Value
    rows: Value
    cols: Value
    some: Value  # there is something to do


def shape_of(m: Module, op: Any, name: str) -> Shape:
    vew, vred, vquant, vdeq = (
        wire(m, op.opcode == BY_NAME[one].opcode, f"{name}_{one}")
        for one in ("vew", "vred", "vquant", "vdeq")
    )
    rows = Mux(vred, op.slots[2], Mux(vdeq, op.slots[3], op.slots[4])).as_signed()
    cols = Mux(vred, op.slots[3], Mux(vdeq, op.slots[4], op.slots[5])).as_signed()
    rows, cols = wire(m, rows, f"{name}_rows"), wire(m, cols, f"{name}_cols")
    any_op = vew | vred | vquant | vdeq
    some = wire(m, any_op & (rows > 0) & (cols > 0), f"{name}_some")
    return Shape(vew, vred, vquant, vdeq, rows, cols, some)


def is_in(value: Value, numbers: tuple[int, ...]) -> Value:
    return Cat(value == int(number) for number in numbers).any()


MX_FORMATS = (Deq.MX1, Deq.MX2, Deq.MX3)
SCALED = (*MX_FORMATS, Deq.Q8_0, Deq.Q4_0, Deq.Q4_1)
PACKED = (Deq.Q4_0, Deq.Q4_1)
INTEGERS = (*SCALED, Deq.INT8)
TABLE_FUNCTIONS = (Func.EXP2, Func.LOG2, Func.RECIP, Func.RSQRT, Func.SIN, Func.COS)


def levels_of(cols: Value) -> Value:
    """ceil(log2(chunks)) of that many columns; 0 for none."""
    above = (cols - 1)[5:32]  # chunks - 1
    found: Any = 0
    for bit in range(len(above)):
        found = Mux(above[bit], bit + 1, found)
    return Mux(cols > 0, found, 0)


def decode(m: Module, op: Any, shape: Shape, control: Any, lanes: int) -> None:
    """Drive a `control_layout` view from a registered operation."""
    slots = op.slots
    mode = slots[6]
    fn, kinds = slots[6], slots[7]
    deq = slots[5][:4]
    scaled_by_b = mode[4]
    reduce = slots[4]
    vew, vred, vquant, vdeq = shape.vew, shape.vred, shape.vquant, shape.vdeq
    is_deq = {one: vdeq & (deq == one) for one in Deq}
    integer = wire(m, vdeq & is_in(deq, INTEGERS), "integer")
    square = wire(m, vred & (reduce == Reduce.SUMSQ), "square")
    op1 = Mux(vew, fn[:3], Mux((vquant & scaled_by_b) | integer | square, Op.MUL, Op.NONE))
    op2 = Mux(vew, fn[3:6], Mux(is_deq[Deq.Q4_1], Op.ADD, Op.NONE))
    func = Mux(vew, fn[6:10], Func.ID)
    last_lane = wire(m, (shape.cols - 1)[: (lanes - 1).bit_length()], "last_lane")
    m.d.comb += [
        control.vew.eq(vew),
        control.vred.eq(vred),
        control.vquant.eq(vquant),
        control.vdeq.eq(vdeq),
        control.op1.eq(op1),
        control.op2.eq(op2),
        control.func.eq(func),
        control.table.eq(vew & is_in(fn[6:10], TABLE_FUNCTIONS)),
        control.masked.eq(Mux(vred, slots[5] != 0, vew & kinds[4])),
        control.b_kind.eq(Mux(vew, kinds[:2], mode[5:7])),
        control.c_kind.eq(kinds[2:4]),
        control.uses_b.eq(Mux(vew, fn[:3] != Op.NONE, vquant & scaled_by_b)),
        control.uses_c.eq(vew & (fn[3:6] != Op.NONE)),
        control.b_const.eq(Mux(vew, slots[2], slots[3])),
        control.c_const.eq(slots[3]),
        control.square.eq(square),
        control.take_max.eq(vred & (reduce == Reduce.MAX)),
        control.levels.eq(levels_of(shape.cols)),
        control.target.eq(mode[:3]),
        control.wide.eq(vquant & mode[3]),
        control.narrow.eq(vquant & (mode[:3] > Store.MX3)),
        control.deq.eq(deq),
        control.integer.eq(integer),
        control.int32.eq(is_deq[Deq.INT32]),
        control.packed.eq(vdeq & is_in(deq, PACKED)),
        control.last_mask.eq(Cat(last_lane >= i for i in range(lanes))),
    ]
