"""When MATRIX does what: its one operation as phases, and the end.

An operation's first phase has no rows of A: it is as long as the first load of B. Then comes one
phase for each pass over each block. Whatever a phase streams was loaded in the phase before.
"""

from __future__ import annotations

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from mellivora.isa.latency import ACCUMULATE_CYCLES, MATRIX_FILL_CYCLES, OFFSET_FILL_CYCLES
from mellivora.isa.modes import B_DWORDS, BFormat
from mellivora.rtl.interfaces import OPERATION
from mellivora.rtl.matrix_lane import MEMORY_CYCLES, SOURCE_BITS, Source
from mellivora.rtl.matrix_operation import (
    MATMUL,
    PASS_BITS,
    PASS_KEY_BITS,
    load_cycles,
    operands,
    pass_of,
)
from mellivora.rtl.pipeline import wire
from mellivora.spec import ChipSpec

LOAD_INDEX_BITS = (max(B_DWORDS.values()) - 1).bit_length()

PHASE = data.StructLayout(
    {
        "next": 1,  # a phase with rows begins in the next cycle
        "a_slice": 2,  # its slice of A
        "last_of_block": 1,  # it is the last of its block
        "load": 1,  # a load begins with it: of the block after, if last_of_block
        "load_slice": 2,
    }
)
"""What is decided in the last cycle of a phase about the one after it."""

STEP = data.StructLayout(
    {
        "row": 1,  # a row of A is asked for
        "first": 1,  # the first of its phase
        "swap": 1,  # with it, the block of B that was loaded comes into use
        "a_slice": 2,
        "b_slice": 2,
        "source": SOURCE_BITS,
        "loading": 1,  # bytes of B are asked for
        "load_index": LOAD_INDEX_BITS,  # which cycle of its load
    }
)
"""What is asked of memory in this cycle."""


class MatrixSequencer(wiring.Component):
    """An operation started in cycle s asks for its first bytes of B in s + 1 and ends by `ends`.

    launch: a MATMUL starts in this cycle; in the next one `operation` is it, and `fresh` is 1.
    stop: a fault was found; nothing goes on, for ever.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec):
        self.chip = chip
        self.module_name = f"matrix_sequencer_{chip.columns}x{chip.accumulator_rows}"
        super().__init__(
            {
                "op": In(OPERATION),
                "start": In(1),
                "stop": In(1),
                "launch": Out(1),
                "fresh": Out(1),
                "operation": Out(OPERATION),
                "refill": Out(1),  # no blocks: rows are only rewritten
                "keep": Out(1),
                "phase": Out(PHASE),
                "step": Out(STEP),
                "busy": Out(1),
                "ends": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chip, phase, step = self.chip, self.phase, self.step
        held = Signal(OPERATION)
        new = operands(m, self.op, "new")
        row_bits = max(bits_for(chip.accumulator_rows), 6)

        running, draining = Signal(), Signal()
        m.d.comb += [
            self.launch.eq(self.start & (self.op.opcode == MATMUL.opcode)),
            self.operation.eq(held),
            self.busy.eq(running | draining),
        ]
        with m.If(self.start):
            m.d.sync += held.eq(self.op)
        fresh = Signal()
        m.d.sync += fresh.eq(self.launch)
        m.d.comb += self.fresh.eq(fresh)

        # Lengths of this operation's phases, and what they make of the step after them.
        least, long, short = (
            Signal(row_bits, name=name) for name in ("least", "long_phase", "short_phase")
        )
        # Narrow copies of what the phases need: simulations are slow to look into `held`.
        rows, load = Signal(row_bits, name="op_rows"), Signal(LOAD_INDEX_BITS + 1, name="op_load")
        accumulates, refill, key = Signal(), Signal(), Signal(PASS_KEY_BITS)
        m.d.comb += least.eq(_larger(rows, ACCUMULATE_CYCLES))
        with m.If(fresh):
            m.d.sync += [
                short.eq(least),
                long.eq(_larger(least, load)),
                self.keep.eq((least < MEMORY_CYCLES) & ~refill),
            ]

        left, rows_left = Signal(row_bits), Signal(row_bits)
        blocks_left = Signal(32)  # of the phase to come, as `key`
        final, is_long, loaded, started = Signal(), Signal(), Signal(), Signal()
        first, swap = Signal(), Signal()
        a_slice, b_slice, source = Signal(2), Signal(2), Signal(SOURCE_BITS)
        loading, load_index = Signal(), Signal(LOAD_INDEX_BITS)
        load_left = Signal(LOAD_INDEX_BITS + 1)

        to_come = pass_of(m, key)
        ending = wire(m, running & (left == 1), "ending")
        now_final = wire(m, to_come.last & (blocks_left == 1), "now_final")
        now_long = wire(m, to_come.last | (to_come.next_j != to_come.j), "now_long")
        m.d.comb += [
            phase.next.eq(ending & ~final),
            phase.a_slice.eq(to_come.i),
            phase.last_of_block.eq(to_come.last),
            phase.load.eq(phase.next & now_long & ~now_final),
            phase.load_slice.eq(to_come.next_j),
            self.refill.eq(refill),
        ]

        first_source = Mux(accumulates, Source.MEMORY, Source.ZERO)
        drain = Signal(range(MATRIX_FILL_CYCLES + OFFSET_FILL_CYCLES))
        with m.If(running):
            m.d.sync += left.eq(left - 1)
        with m.If(rows_left != 0):
            m.d.sync += rows_left.eq(rows_left - 1)
        with m.If(loading):
            m.d.sync += [load_index.eq(load_index + 1), load_left.eq(load_left - 1)]
            with m.If(load_left == 1):
                m.d.sync += loading.eq(0)
        m.d.sync += [first.eq(0), swap.eq(0)]
        with m.If(phase.next):
            m.d.sync += [
                left.eq(Mux(now_long, long, short)),
                rows_left.eq(rows),
                first.eq(1),
                swap.eq(loaded),
                final.eq(now_final),
                is_long.eq(now_long),
                started.eq(1),
                a_slice.eq(to_come.i),
                b_slice.eq(to_come.j),
                source.eq(Mux(started, Mux(is_long, _source(long), _source(short)), first_source)),
                key.eq(Mux(to_come.last, Cat(C(0, PASS_BITS), key[PASS_BITS:]), key + 1)),
                blocks_left.eq(blocks_left - to_come.last),
                loaded.eq(phase.load),
                loading.eq(phase.load),
            ]
            with m.If(phase.load):
                m.d.sync += [load_index.eq(0), load_left.eq(load)]
        with m.If(draining):
            m.d.sync += drain.eq(drain - 1)
            with m.If(drain == 0):
                m.d.sync += draining.eq(0)
                m.d.comb += self.ends.eq(~self.stop)
        with m.If(ending & final):
            m.d.sync += [running.eq(0), draining.eq(1)]

        has_rows, has_blocks = new.m > 0, wire(m, new.blocks > 0, "has_blocks")
        first_load = load_cycles(m, new, chip, "first_load")
        is_offset = new.format == BFormat.Q4_1
        fill = MATRIX_FILL_CYCLES - 2 + Mux(is_offset, OFFSET_FILL_CYCLES, 0)
        with m.If(self.launch):
            m.d.sync += [
                running.eq(has_rows),
                draining.eq(~has_rows),
                drain.eq(fill),
                left.eq(Mux(has_blocks, first_load, new.m)),
                rows_left.eq(Mux(has_blocks | ~has_rows, 0, new.m)),
                first.eq(~has_blocks & has_rows),
                swap.eq(~has_blocks & has_rows),
                final.eq(~has_blocks),
                refill.eq(~has_blocks),
                source.eq(Mux(new.accumulate, Source.MEMORY, Source.ZERO)),
                started.eq(0),
                a_slice.eq(0),
                b_slice.eq(0),
                key.eq(Cat(C(0, PASS_BITS), new.a_slices, new.b_slices)),
                rows.eq(new.m),
                load.eq(first_load),
                accumulates.eq(new.accumulate),
                blocks_left.eq(new.blocks),
                loaded.eq(1),
                loading.eq(has_blocks & has_rows),
                load_index.eq(0),
                load_left.eq(first_load),
            ]
        with m.If(self.stop):
            m.d.sync += [running.eq(0), draining.eq(0), rows_left.eq(0), loading.eq(0)]
        m.d.comb += [
            step.row.eq(rows_left != 0),
            step.first.eq(first),
            step.swap.eq(swap),
            step.a_slice.eq(a_slice),
            step.b_slice.eq(b_slice),
            step.source.eq(source),
            step.loading.eq(loading),
            step.load_index.eq(load_index),
        ]
        return m


def _larger(a: Value, b: Value | int) -> Value:
    return Mux(a > b, a, b)


def _source(distance: Value) -> Value:
    """Where the accumulator is that was written by the step `distance` cycles before."""
    kept = (distance - ACCUMULATE_CYCLES + Source.RESULT)[:SOURCE_BITS]
    return Mux(distance < MEMORY_CYCLES, kept, Source.MEMORY)
