"""Does a region lie in its memory, and aligned? What `isa.footprint` asks, answered in hardware."""

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import ACCUMULATOR_BASE
from mellivora.rtl.interfaces import ADDRESS_BITS, ALIGNMENT_FAULT, CAUSE_BITS, SCRATCHPAD_FAULT
from mellivora.rtl.pipeline import register, wire
from mellivora.spec import ChipSpec

CHECK_CYCLES = 3
"""From a region to its cause."""
ROWS_MAX = (1 << 32) - 1
"""A region of more rows may be checked as one of so many: the cause is the same."""
"""Causes, as `isa.footprint` raises them; the first of them that holds."""


class RegionCheck(wiring.Component):
    """`cause` of the region whose first cycle was CHECK_CYCLES before: 0, or that of alignment or
    of a place outside.

    rows and row_bytes: not 0. word: FP32, address and stride are multiples of 4. accumulators: the
    region may lie there. checked: `valid`, as late as the cause; without it the cause is 0.
    A region each cycle.
    """

    valid: In(1)
    address: In(signed(ADDRESS_BITS))
    stride: In(signed(ADDRESS_BITS))
    rows: In(32)
    row_bytes: In(ADDRESS_BITS)
    word: In(1)
    accumulators: In(1)
    checked: Out(1)
    cause: Out(CAUSE_BITS)
    has_reset = True

    def __init__(self, chip: ChipSpec):
        self.sram_bytes, self.accumulator_bytes = chip.sram_bytes, chip.accumulator_bytes
        self.module_name = f"region_check_{self.sram_bytes}_{self.accumulator_bytes}"
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        """Where a memory has b bits of address, so have both factors, or the region is outside."""
        m = Module()
        bits = max(self.sram_bytes, self.accumulator_bytes).bit_length()
        low = bits // 2

        # Cycle 1: what is wrong at sight, both factors, the end of the memory.
        misaligned = self.word & (self.address | self.stride)[:2].any()
        negative = (self.address < 0) | (self.stride < 0)
        span = wire(m, (self.rows - 1)[: len(self.rows)], "span")
        huge = (span[bits:].any() & self.stride.any()) | (self.stride[bits:].any() & span.any())
        end = Mux(
            self.accumulators & (self.address >= ACCUMULATOR_BASE),
            Const(ACCUMULATOR_BASE + self.accumulator_bytes, signed(ADDRESS_BITS)),
            Const(self.sram_bytes, signed(ADDRESS_BITS)),
        )
        misaligned_1 = register(m, misaligned, "misaligned_1")
        outside_1 = register(m, negative | huge, "outside_1")
        span_1, stride_1 = register(m, span[:bits], "span_1"), register(m, self.stride, "stride_1")
        end_1, address_1 = register(m, end, "end_1"), register(m, self.address, "address_1")
        row_bytes_1 = register(m, self.row_bytes, "row_bytes_1")

        # Cycle 2: both halves of the product; what it may be at most.
        # One sum after the other: what makes a tree of three terms lets its carries ripple.
        past = wire(m, address_1 + row_bytes_1, "past")
        room = ~past + (end_1 + 1)
        misaligned_2, outside_2 = (
            register(m, misaligned_1, "misaligned_2"),
            register(m, outside_1 | (room < 0), "outside_2"),
        )
        room_2 = register(m, room[:bits], "room_2")
        near_2 = register(m, span_1 * stride_1[:low], "near_2")
        far_2 = register(m, span_1 * stride_1[low:bits], "far_2")

        # Cycle 3: the sum, and the verdict.
        outside = outside_2 | (near_2 + (far_2 << low) > room_2)
        valid_1, valid_2 = Signal(), Signal()
        m.d.sync += [
            valid_1.eq(self.valid),
            valid_2.eq(valid_1),
            self.checked.eq(valid_2),
            self.cause.eq(Mux(misaligned_2, ALIGNMENT_FAULT, Mux(outside, SCRATCHPAD_FAULT, 0))),
        ]
        with m.If(~valid_2):
            m.d.sync += self.cause.eq(0)
        return m
