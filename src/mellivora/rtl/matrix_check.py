"""What is wrong with a MATMUL, known before its first result: shape, then the bytes it reads.

All causes but shape are 3, so the order of regions does not matter, and of several slices the
first and the last tell all: between them lie the others.
"""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.latency import MATRIX_FILL_CYCLES
from mellivora.isa.modes import B_DWORDS, B_SCALE_BYTES, BFormat
from mellivora.numerics import BLOCK
from mellivora.rtl.interfaces import (
    ADDRESS_BITS,
    CAUSE_BITS,
    OPERATION,
    SCRATCHPAD_FAULT,
    SHAPE_FAULT,
)
from mellivora.rtl.matrix_operation import (
    UNSCALED,
    by_format,
    by_slice,
    is_one_of,
    operands,
)
from mellivora.rtl.pipeline import wire
from mellivora.rtl.region_check import CHECK_CYCLES, RegionCheck
from mellivora.spec import ChipSpec

INTEGERS = UNSCALED
MULTI_SLICE = (BFormat.MX8, BFormat.ROWS)

REGION = data.StructLayout(
    {
        "valid": 1,
        "address": signed(ADDRESS_BITS),
        "rows": 32,
        "row_bytes": ADDRESS_BITS,
        "stride": signed(ADDRESS_BITS),
    }
)
REGIONS = 5
"""A's first and last slice, A's scales, B's codes and scales (ROWS: first and last plane)."""
CHECKED = 1 + REGIONS + 1 + CHECK_CYCLES
assert CHECKED + 1 < MATRIX_FILL_CYCLES, "no result is written before the verdict"


class MatrixCheck(wiring.Component):
    """cause: of `operation`, CHECKED cycles after `fresh` at the latest; till then 0 or right."""

    has_reset = True

    def __init__(self, chip: ChipSpec):
        self.chip = chip
        self.module_name = f"matrix_check_{chip.columns}x{chip.accumulator_rows}_{chip.sram_bytes}"
        super().__init__({"operation": In(OPERATION), "fresh": In(1), "cause": Out(CAUSE_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        op = operands(m, self.operation, "op")
        m.submodules.check = check = RegionCheck(self.chip)
        which = Signal(range(REGIONS + 1), init=REGIONS)
        shape = wire(m, self._shape(op), "shape")
        any_bytes = (op.m > 0) & (op.n > 0) & (op.blocks > 0)
        region, regions = Signal(REGION), self._regions(m, op)
        with m.Switch(which):
            for index, value in enumerate(regions):
                with m.Case(index):
                    m.d.comb += region.eq(value)
        held = Signal(REGION)
        m.d.sync += held.eq(region)
        m.d.comb += [
            check.valid.eq(held.valid),
            check.address.eq(held.address),
            check.rows.eq(held.rows),
            check.row_bytes.eq(held.row_bytes),
            check.stride.eq(held.stride),
        ]
        cause = Signal(CAUSE_BITS)
        m.d.comb += self.cause.eq(cause)
        with m.If(which != REGIONS):
            m.d.sync += which.eq(which + 1)
        negative = (op.format != BFormat.ROWS) & (op.b_pitch < 0)
        with m.If(check.cause != 0):
            m.d.sync += cause.eq(check.cause)
        with m.If(self.fresh):
            m.d.sync += cause.eq(
                Mux(shape, SHAPE_FAULT, Mux(any_bytes & negative, SCRATCHPAD_FAULT, 0))
            )
            with m.If(~shape & any_bytes):
                m.d.sync += which.eq(0)
        return m

    def _shape(self, op: object) -> object:
        """As `isa.footprint` and `meaning.matmul_format` have it."""
        chip = self.chip
        unsigned, zero = op.format == BFormat.UINT8, op.b_zero
        integer = op.integer & (~is_one_of(op.format, INTEGERS) | (op.a_slices > 1))
        return Cat(
            op.n > chip.columns,
            op.m < 0,
            op.acc_row < 0,
            op.acc_row + op.m > chip.accumulator_rows,
            op.format > max(BFormat),
            op.a_slices == 0,
            op.b_slices == 0,
            (op.b_slices > 1) & ~is_one_of(op.format, MULTI_SLICE),
            op.more_mode.any(),
            integer,
            op.integer & ((op.a_zero < 0) | (op.a_zero > 256)),
            op.integer & Mux(unsigned, (zero < 0) | (zero > 255), (zero < -128) | (zero > 127)),
        ).any()

    def _regions(self, m: Module, op: object) -> list[data.View | object]:
        """The regions as values of REGION."""
        rows = wire(m, op.format == BFormat.ROWS, "rows")
        scaled = ~is_one_of(op.format, UNSCALED)
        dwords = by_format(m, op.format, B_DWORDS, "dwords")
        all_slices = wire(m, dwords * Mux(op.format == BFormat.MX8, op.b_slices, 1), "all_slices")
        scale_bytes = by_format(m, op.format, B_SCALE_BYTES, "scale_bytes")
        four = wire(m, scale_bytes == 4, "four")
        width = wire(m, Mux(four, 2, scale_bytes), "width")
        all_bytes = wire(m, 4 * all_slices * op.b_pitch, "all_bytes")

        last_a = op.a + by_slice((op.a_slices - 1)[:2], op.a_plane)
        a_bytes = (op.blocks * BLOCK).as_unsigned()
        last_plane = op.b + by_slice((op.b_slices - 1)[:2], op.b_plane_or_first)
        # A k-row of each block, then the 31 others: rows stay within 32 bits.
        plane_bytes = (op.b_pitch * (BLOCK - 1) + op.n).as_unsigned()
        planes = {"rows": op.blocks, "row_bytes": plane_bytes, "stride": op.b_pitch * BLOCK}

        code_at = wire(m, op.b + (op.b_plane_or_first << 2), "code_at")
        code_bytes = wire(m, all_bytes - 4 * op.b_pitch + 4 * op.n, "code_bytes")
        scale_at = wire(m, op.b + all_bytes + width * op.b_plane_or_first, "scale_at")
        scale_row = wire(m, width * op.n + Mux(four, 2 * op.b_pitch, 0), "scale_row")
        down = wire(m, op.b_block < 0, "down")
        pace = wire(m, Mux(down, -op.b_block, op.b_block), "pace")

        def of_blocks(address: object, row_bytes: object) -> dict[str, object]:
            """A region of every block. Blocks that go down: its mirror image, which goes up."""
            return {
                "address": Mux(down, self.chip.sram_bytes - address - row_bytes, address),
                "rows": op.blocks,
                "row_bytes": row_bytes[:ADDRESS_BITS],
                "stride": pace,
            }

        def region(name: str, valid: object, **fields: object) -> data.View:
            value = Signal(REGION, name=name)
            m.d.comb += [value.valid.eq(valid)] + [
                getattr(value, field).eq(number) for field, number in fields.items()
            ]
            return value

        def either(plane_at: object, at: object, row_bytes: object) -> dict[str, object]:
            blocks = of_blocks(at, row_bytes)
            planes_there = {"address": plane_at, **planes}
            return {name: Mux(rows, planes_there[name], blocks[name]) for name in blocks}

        a_rows = {"rows": op.m, "stride": op.a_stride, "row_bytes": a_bytes}
        scale_rows = {"rows": op.m, "stride": op.a_scale_stride, "row_bytes": op.blocks}
        return [
            region("a_first", 1, address=op.a, **a_rows),
            region("a_last", 1, address=last_a, **a_rows),
            region("a_scales", scaled, address=op.a_scale, **scale_rows),
            region("b_first", 1, **either(op.b, code_at, code_bytes)),
            region("b_last", rows | scale_bytes.any(), **either(last_plane, scale_at, scale_row)),
        ]
