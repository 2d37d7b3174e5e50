"""The faults of a VECTOR operation, found before it writes: in the order of `isa.footprint`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.modes import Deq, Func, Kind, Op, Reduce, Store
from mellivora.rtl.interfaces import ADDRESS_BITS, CAUSE_BITS, OPERATION, SHAPE_FAULT
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.region_check import RegionCheck
from mellivora.rtl.sharing import share
from mellivora.rtl.vector_control import BLOCK, MX_FORMATS, PACKED, SCALED, is_in, shape_of

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

REGIONS = 6
"""At most: VQUANT to MX3 reads two operands and writes scales and three planes."""
CHECK_CYCLES = 1 + 3
"""A region's registers, and the check itself."""


@dataclass
class Region:
    """present: 1 bit; the rest as `footprint._region` has it, word: FP32 alignment."""

    present: Value
    address: Value
    stride: Value
    row_bytes: Value
    word: Value = field(default_factory=lambda: C(1, 1))


class VectorCheck(wiring.Component):
    """bad: the cause of `op`, in the cycle in which it is found; 0 in all others.

    op stands still from `first` on, the cycle s + 1 of an operation. Region i is taken in s + 1 + i
    and its cause is there in s + 5 + i: that of VDEQ's last in s + 9, a cycle before its first
    write.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.module_name = f"vector_check_{chip.sram_bytes}_{chip.accumulator_bytes}"
        super().__init__({"op": In(OPERATION), "first": In(1), "bad": Out(CAUSE_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shape = shape_of(m, self.op, "op")
        m.submodules.check = share(check := RegionCheck(self.chip))
        later = Signal(REGIONS - 1)
        turn = Cat(self.first, later)  # one-hot: the region that goes to the check
        m.d.sync += later.eq(turn)
        wrong = register(m, self.first & self._wrong_shape(m, shape), "wrong_shape")
        taken = Signal(_REGION_BITS, reset_less=True)
        present = Signal()
        m.d.sync += present.eq(0)
        for condition, regions in self._regions(shape):
            with m.If(condition & shape.some):
                for i, region in enumerate(regions):
                    with m.If(turn[i]):
                        m.d.sync += [present.eq(region.present), taken.eq(_packed(region))]
        address, stride, row_bytes, word = _fields(taken)
        m.d.comb += [
            check.valid.eq(present),
            check.address.eq(address),
            check.stride.eq(stride),
            check.rows.eq(shape.rows),
            check.row_bytes.eq(row_bytes),
            check.word.eq(word),
            check.accumulators.eq(1),
            self.bad.eq(Mux(wrong, SHAPE_FAULT, Mux(check.checked, check.cause, 0))),
        ]
        return m

    def _wrong_shape(self, m: Module, shape: Any) -> Value:
        slots = self.op.slots
        function = shape.some & ((slots[6] < 0) | ((slots[6] >> 6) > Func.NEG))
        reduction = ~is_in(slots[4], tuple(Reduce))
        ragged = shape.cols[: (BLOCK - 1).bit_length()] != 0
        target, wide = slots[6][:3], slots[6][3]
        store = ~is_in(target, tuple(Store)) | ((target <= Store.MX3) & ~wide & ragged)
        deq = ~is_in(slots[5], tuple(Deq)) | (is_in(slots[5], SCALED) & ragged)
        cases = [
            (shape.vew, function),
            (shape.vred, reduction),
            (shape.vquant, store),
            (shape.vdeq, deq),
        ]
        wrong: Value = C(0, 1)
        for condition, fault in cases:
            wrong = wrong | (condition & fault)
        return wire(m, wrong, "wrong")

    def _regions(self, shape: Any) -> list[tuple[Value, list[Region]]]:
        slots, config = self.op.slots, self.op.config
        cols, four = shape.cols, shape.cols << 2
        one, word, byte = C(1, 1), C(1, 1), C(0, 1)

        def operand(used: Value, kind: Value, at: Value, stride: Value) -> Region:
            size = Mux(kind == Kind.ROW, 4, Mux(kind == Kind.E8M0, cols, four))
            present = used & (kind != Kind.CONST)
            return Region(present, at, stride, size, kind != Kind.E8M0)

        fn, kinds = slots[6], slots[7]
        vew = [
            Region(one, slots[1], config[1], four),
            operand(fn[:3] != Op.NONE, kinds[:2], slots[2], config[2]),
            operand(fn[3:6] != Op.NONE, kinds[2:4], slots[3], config[3]),
            Region(one, slots[0], config[0], four),
        ]
        vred = [
            Region(one, slots[1], config[1], four),
            Region(one, slots[0], config[0], C(4, 4)),
        ]
        mode = slots[6]
        target, wide = mode[:3], mode[3]
        narrow = target > Store.MX3
        scales = Mux(wide, 1, cols >> 5)
        vquant = [
            Region(one, slots[2], config[1], four),
            operand(mode[4], mode[5:7], slots[3], config[2]),
            Region(
                one,
                Mux(narrow, slots[0], slots[1]),
                Mux(narrow, config[0], config[3]),
                Mux(narrow, Mux(target == Store.INT8, cols, cols << 1), scales),
                byte,
            ),
            *(
                Region(~narrow & (target > j), slots[0] + j * config[4], config[0], cols, byte)
                for j in range(len(MX_FORMATS))
            ),
        ]
        fmt = slots[5][:4]
        size = Mux(is_in(fmt, (Deq.F16, Deq.BF16)), cols << 1, cols)
        size = Mux(fmt == Deq.INT32, four, Mux(is_in(fmt, PACKED), cols >> 1, size))
        blocks = cols >> 5
        beside = Mux(is_in(fmt, MX_FORMATS), blocks, Mux(fmt == Deq.Q4_1, blocks << 2, blocks << 1))
        planes = [one, is_in(fmt, (Deq.MX2, Deq.MX3)), fmt == Deq.MX3]
        vdeq = [
            *(
                Region(there, slots[1] + j * config[4], config[1], size, fmt == Deq.INT32)
                for j, there in enumerate(planes)
            ),
            Region(is_in(fmt, SCALED), slots[2], config[2], beside, byte),
            Region(one, slots[0], config[0], four, word),
        ]
        return [
            (shape.vew, vew),
            (shape.vred, vred),
            (shape.vquant, vquant),
            (shape.vdeq, vdeq),
        ]


_REGION_BITS = 3 * ADDRESS_BITS + 1


def _packed(region: Region) -> Value:
    """One word of registers: address, stride, row bytes, word."""
    wide = [Value.cast(part) for part in (region.address, region.stride, region.row_bytes)]
    return Cat(*(_extended(part) for part in wide), region.word)


def _extended(value: Value) -> Value:
    """In ADDRESS_BITS bits, its sign kept."""
    value = value if value.shape().signed else (value | C(0, ADDRESS_BITS))
    return (value + C(0, signed(ADDRESS_BITS)))[:ADDRESS_BITS]


def _fields(taken: Value) -> tuple[Value, Value, Value, Value]:
    n = ADDRESS_BITS
    return (
        taken[:n].as_signed(),
        taken[n : 2 * n].as_signed(),
        taken[2 * n : 3 * n],
        taken[3 * n],
    )
