"""Where MATRIX reads: one walk over rows of A and their scales, one over a block of B."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.modes import B_DWORDS, BFormat
from mellivora.numerics import BLOCK
from mellivora.rtl.b_control import HALF, SCALED
from mellivora.rtl.interfaces import OPERATION
from mellivora.rtl.matrix_operation import (
    by_format,
    by_slice,
    codes_bytes,
    is_one_of,
    kept_operands,
    operands,
    row_rates,
)
from mellivora.rtl.matrix_sequencer import PHASE, STEP
from mellivora.rtl.pipeline import register, wire
from mellivora.spec import ChipSpec


class MatrixAddresses(wiring.Component):
    """Addresses from registers, in the cycle in which `step` asks for their bytes.

    b1 is 2 x columns bytes after b0; ROWS: two k-rows after it, or the same; scales: 2 x b_pitch
    after it, where Q4_1 has its offsets.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec):
        self.chip = chip
        self.module_name = f"matrix_addresses_{chip.columns}"
        super().__init__(
            {
                "op": In(OPERATION),
                "launch": In(1),
                "phase": In(PHASE),
                "step": In(STEP),
                "a": Out(32),
                "a_scale": Out(32),
                "b0": Out(32),
                "b1": Out(32),
                "b_is_scale": Out(1),  # scales are asked for, not codes
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        new, op = operands(m, self.op, "new"), kept_operands(m, self.op, self.launch)
        self._walk_a(m, new, op)
        self._walk_b(m, new, op)
        return m

    def _walk_a(self, m: Module, new: object, op: object) -> None:
        """Rows of the phase; `a_block` and `scale_block` are those of the phase to come."""
        phase = self.phase
        a, a_block = Signal(32), Signal(32)
        scale, scale_block = Signal(32), Signal(32)
        m.d.comb += [self.a.eq(a), self.a_scale.eq(scale)]
        with m.If(self.step.row):
            m.d.sync += [a.eq(a + op.a_stride), scale.eq(scale + op.a_scale_stride)]
        with m.If(phase.next):
            m.d.sync += [
                a.eq(a_block + by_slice(phase.a_slice, op.a_plane)),
                scale.eq(scale_block),
            ]
            with m.If(phase.last_of_block):
                m.d.sync += [a_block.eq(a_block + BLOCK), scale_block.eq(scale_block + 1)]
        with m.If(self.launch):
            m.d.sync += [a_block.eq(new.a), scale_block.eq(new.a_scale)]

    def _walk_b(self, m: Module, new: object, op: object) -> None:
        """Dwords of a block, then its scales; `block` is where the block's first dword lies."""
        phase, step, columns = self.phase, self.step, self.chip.columns
        b0, b1, block = Signal(32), Signal(32), Signal(32)
        m.d.comb += [self.b0.eq(b0), self.b1.eq(b1)]

        rows = wire(m, op.format == BFormat.ROWS, "rows")
        four, two = row_rates(op.b_pitch, columns)
        odd = rows & ~four & two & step.load_index[0]  # of two k-rows a cycle: 0 2, 1 3, 4 6, 5 7
        step_bytes = Mux(rows & ~four, Mux(odd, 3 * op.b_pitch, op.b_pitch), op.b_pitch << 2)

        dwords = by_format(m, op.format, B_DWORDS, "dwords")
        scaled = is_one_of(op.format, SCALED)
        m.d.comb += self.b_is_scale.eq(scaled & (step.load_index == dwords))
        to_scale = wire(m, scaled & (step.load_index == (dwords - 1)), "to_scale")
        # From a block's first dword to its scales: all dwords of all slices, less the first
        # column's dword, more its scale. Two steps, done before the first load is at its scales.
        all_bytes = register(m, codes_bytes(m, op, "codes_bytes")[:32], "all_bytes")
        first = op.b_plane_or_first
        less = register(m, first * Mux(is_one_of(op.format, HALF), 2, 3), "less")
        scale_at = register(m, (all_bytes - less)[:32], "scale_at")
        slice_bytes = wire(m, Mux(rows, op.b_plane_or_first, op.b_pitch << 5), "slice_bytes")
        block_bytes = wire(m, Mux(rows, op.b_pitch << 5, op.b_block), "block_bytes")

        base, delta = Signal(32), Signal(32)
        scale_next = wire(m, step.loading & to_scale & ~phase.load, "scale_next")
        m.d.comb += [
            base.eq(Mux(phase.load | scale_next, block, b0)),
            delta.eq(Mux(scale_next, scale_at, step_bytes)),
        ]
        with m.If(phase.load):
            to_block = by_slice(phase.load_slice, slice_bytes)
            m.d.comb += delta.eq(Mux(phase.last_of_block, block_bytes, to_block))
        twice = op.b_pitch << 1
        apart = Mux(scale_next, twice, Mux(rows, Mux(two, twice, 0), 2 * columns))
        at = wire(m, (base + delta)[:32], "at")
        with m.If(step.loading | phase.load):
            m.d.sync += [b0.eq(at), b1.eq(at + apart)]
        with m.If(phase.load & phase.last_of_block):
            m.d.sync += block.eq(at)

        new_rows = new.format == BFormat.ROWS
        _, new_two = row_rates(new.b_pitch, columns)
        new_apart = Mux(new_rows, Mux(new_two, new.b_pitch << 1, 0), 2 * columns)
        start = wire(m, (new.b + Mux(new_rows, 0, new.b_plane_or_first << 2))[:32], "start_at")
        with m.If(self.launch):
            m.d.sync += [block.eq(start), b0.eq(start), b1.eq(start + new_apart)]
