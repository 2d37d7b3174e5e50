"""What is wrong with a MATMUL, known before its first result: shape, then the bytes it reads.

All causes but shape are 3, so the order of regions does not matter, and of several slices the
first and the last tell all: between them lie the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value, ValueLike, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.latency import MATRIX_FILL_CYCLES
from mellivora.isa.modes import B_SCALE_BYTES, BFormat
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
    codes_bytes,
    is_one_of,
    operands,
)
from mellivora.rtl.pipeline import register, wire
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
TERMS = data.StructLayout(
    {name: signed(ADDRESS_BITS) for name in ("base", "offset", "part", "rest")}
)
CHECKED = 1 + REGIONS + 2 + CHECK_CYCLES
assert CHECKED + 1 < MATRIX_FILL_CYCLES, "no result is written before the verdict"


@dataclass(frozen=True)
class _Region:
    """A region as sums of two terms: address = base + offset, row_bytes = part + rest.

    mirrored: blocks that go down in memory; their mirror image goes up.
    """

    present: ValueLike
    base: Value
    rows: Value
    part: Value
    stride: Value
    offset: ValueLike = 0
    rest: ValueLike = 0
    mirrored: ValueLike = 0


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
        which, summed = (
            Signal(range(REGIONS + 1), init=REGIONS, name=n) for n in ("which", "summed")
        )
        m.d.sync += summed.eq(which)
        shape = wire(m, self._shape(op), "shape")
        any_bytes = (op.m > 0) & (op.n > 0) & (op.blocks > 0)
        regions = self._regions(m, op)

        # Cycle 1 of a region: its sums.
        terms = Signal(TERMS)
        with m.Switch(which):
            for index, region in enumerate(regions):
                with m.Case(index):
                    m.d.comb += [
                        getattr(terms, name).eq(getattr(region, name)) for name in TERMS.members
                    ]
        address = register(m, (terms.base + terms.offset)[:ADDRESS_BITS].as_signed(), "address")
        row_bytes = register(m, (terms.part + terms.rest)[:ADDRESS_BITS], "row_bytes")

        # Cycle 2: its mirror image, and all that is no sum.
        end = wire(m, (address + row_bytes)[:ADDRESS_BITS], "end")
        mirror = ~end + (self.chip.sram_bytes + 1)  # not of three terms: that would be a chain
        held = Signal(REGION)
        m.d.sync += [held.valid.eq(0), held.address.eq(address), held.row_bytes.eq(row_bytes)]
        with m.Switch(summed):
            for index, region in enumerate(regions):
                with m.Case(index):
                    m.d.sync += [
                        held.valid.eq(region.present),
                        held.rows.eq(region.rows),
                        held.stride.eq(region.stride),
                        held.address.eq(Mux(region.mirrored, mirror, address)),
                    ]
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

    def _shape(self, op: SimpleNamespace) -> Value:
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

    def _regions(self, m: Module, op: SimpleNamespace) -> list[_Region]:
        """The operands stand still from `fresh` on: what B's regions need takes the cycles before
        their turn, a register for each step."""
        rows = op.format == BFormat.ROWS
        scaled = ~is_one_of(op.format, UNSCALED)
        all_bytes = register(m, codes_bytes(m, op, "codes_bytes"), "all_bytes")
        scales = register(m, op.b + all_bytes, "scales")
        scale_bytes = by_format(m, op.format, B_SCALE_BYTES, "scale_bytes")
        four = wire(m, scale_bytes == 4, "four")
        width = wire(m, Mux(four, 2, scale_bytes)[:2], "width")  # 0, 1 or 2
        less = register(m, op.n - op.b_pitch, "less")
        down = wire(m, op.b_block < 0, "down")
        pace = register(m, Mux(down, -op.b_block, op.b_block), "pace")

        first = op.b_plane_or_first
        pitches = op.b_pitch * BLOCK
        last_plane = by_slice((op.b_slices - 1)[:2], first)
        blocks = {
            "rows": op.blocks,
            "stride": Mux(rows, pitches, pace),
            "mirrored": down & ~rows,
        }
        of_a = {"rows": op.m, "stride": op.a_stride, "part": op.blocks * BLOCK}
        return [
            _Region(1, op.a, **of_a),
            _Region(1, op.a, **of_a, offset=by_slice((op.a_slices - 1)[:2], op.a_plane)),
            _Region(scaled, op.a_scale, op.m, op.blocks, op.a_scale_stride),
            # A k-row of each block, then the 31 others: rows stay within 32 bits.
            _Region(
                1,
                op.b,
                offset=Mux(rows, 0, first << 2),
                part=Mux(rows, pitches, all_bytes),
                rest=Mux(rows, less, less << 2),
                **blocks,
            ),
            _Region(
                rows | scale_bytes.any(),
                Mux(rows, op.b, scales),
                offset=Mux(rows, last_plane, by_slice(width, first)),
                part=Mux(rows, pitches, Mux(four, 2 * op.b_pitch, 0)),
                rest=Mux(rows, less, by_slice(width, op.n)),
                **blocks,
            ),
        ]
