"""MATRIX: one MATMUL at a time, bit for bit `isa.meaning.matmul`, in the cycles of `isa.latency`.

Stages of a row of A, counted from the cycle of its address:

    0  address                              3  codes at the columns
    2  bytes from memory, to 9-bit codes   10  its accumulators are due (Q4_1: 13)
                                           13  they are written         (Q4_1: 16)

B goes the same way: address, bytes two cycles later, in the columns' next block after that.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out
from amaranth.utils import bits_for, ceil_log2

from mellivora.isa.encoding import MATRIX
from mellivora.isa.latency import OFFSET_FILL_CYCLES
from mellivora.isa.modes import BFormat
from mellivora.isa.table import SYNC_OPCODE
from mellivora.numerics import BLOCK
from mellivora.numerics.formats import E8M0_BIAS
from mellivora.rtl.b_control import FRACTION_BITS, b_control
from mellivora.rtl.b_unpack import LANES, SIX_ORDER
from mellivora.rtl.dot32 import (
    B_BITS,
    CODE_BITS,
    FACTOR_BITS,
    OFFSET_STAGE,
    PAIR_BITS,
    PAIRS,
    SUM32,
    Sum32,
)
from mellivora.rtl.e8m0 import E8m0Expand
from mellivora.rtl.interfaces import READ_CYCLES, engine_signature, read_port, write_port
from mellivora.rtl.matrix_addresses import MatrixAddresses
from mellivora.rtl.matrix_check import MatrixCheck
from mellivora.rtl.matrix_column import (
    ACC_STAGE,
    COLUMN_STAGES,
    SCALE_STAGE,
    SUM_STAGE,
    Accumulate,
)
from mellivora.rtl.matrix_lane import MatrixLane, Source
from mellivora.rtl.matrix_operation import UNSCALED, is_one_of, kept_operands, operands, row_rates
from mellivora.rtl.matrix_sequencer import MatrixSequencer
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.sharing import share
from mellivora.spec import ChipSpec

CODES_AT = READ_CYCLES + 1
"""From a row's address to its codes at the columns."""
DUE_AT = CODES_AT + ACC_STAGE[Accumulate.SCALED]
WRITE_AT = CODES_AT + COLUMN_STAGES[Accumulate.SCALED]
"""Q4_1: OFFSET_FILL_CYCLES later."""
assert SUM32.stages == CODES_AT - READ_CYCLES + OFFSET_STAGE


@dataclass(frozen=True)
class _OperandA:
    """A row of A as the columns take it, each part when it is due there."""

    codes: Value
    pairs: Value
    scale: Value
    total: Value
    offset: Value


class MatrixEngine(wiring.Component):
    """The contract is docs/design/0006-core-rtl.md, "MATRIX"."""

    has_reset = True

    def __init__(self, chip: ChipSpec):
        self.chip = chip
        self.module_name = f"matrix_engine_{chip.columns}x{chip.accumulator_rows}_{chip.sram_bytes}"
        columns = chip.columns
        super().__init__(
            {
                **engine_signature(1).members,
                "a": Out(read_port(BLOCK)),
                "a_scale": Out(read_port(1)),
                "b0": Out(read_port(2 * columns)),
                "b1": Out(read_port(2 * columns)),
                "acc_read": Out(read_port(4 * columns)),
                "acc_write": Out(write_port(4 * columns)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sequencer, addresses = MatrixSequencer(self.chip), MatrixAddresses(self.chip)
        check = MatrixCheck(self.chip)
        m.submodules.sequencer, m.submodules.addresses = share(sequencer), share(addresses)
        m.submodules.check = share(check)
        operation, step = sequencer.operation, sequencer.step
        op = kept_operands(m, self.op, sequencer.launch)
        m.d.comb += [
            sequencer.op.eq(self.op),
            sequencer.start.eq(self.start),
            sequencer.stop.eq(self.fault.valid),
            check.operation.eq(operation),
            check.fresh.eq(sequencer.fresh),
            addresses.op.eq(self.op),
            addresses.launch.eq(sequencer.launch),
            addresses.phase.eq(sequencer.phase),
            addresses.step.eq(step),
        ]
        self._handshake(m, sequencer, check)

        mode = Signal(Accumulate)
        new = operands(m, self.op, "new")
        with m.If(sequencer.launch):
            is_offset = (new.format == BFormat.Q4_1) & (new.blocks > 0)
            scaled = Mux(is_offset, Accumulate.OFFSET, Accumulate.SCALED)
            m.d.sync += mode.eq(Mux(new.integer, Accumulate.INTEGER, scaled))
        unscaled_fetch = step.row & ~sequencer.refill
        m.d.comb += [
            self.b0.address.eq(addresses.b0),
            self.b1.address.eq(addresses.b1),
            self.b0.enable.eq(step.loading),
            self.b1.enable.eq(step.loading),
            self.a.enable.eq(unscaled_fetch),
            self.a_scale.enable.eq(unscaled_fetch & ~is_one_of(op.format, UNSCALED)),
        ]
        control = b_control(
            m,
            op,
            step,
            is_scale=addresses.b_is_scale,
            refill=sequencer.refill,
            columns=self.chip.columns,
        )
        # The sum of a (b - zero) is that of a b, less zero times the sum of a: for all columns.
        zero = Mux(op.integer, op.b_zero[:CODE_BITS], 0).as_signed()
        factor = Signal(signed(FACTOR_BITS), reset_less=True)
        with m.If(control.swap):
            shown_less = Mux(control.is_signed, 0, 1 << B_BITS - 1)
            m.d.sync += factor.eq(Mux(sequencer.refill, 0, shown_less - zero))
        a = self._operand_a(m, op, sequencer, addresses, factor)
        source = self._accumulators(m, op, step, mode)
        results = []
        for column, (dword, rows, half_scale, half_minimum) in enumerate(self._operand_b(m, op)):
            lane = MatrixLane()
            m.submodules[f"lane_{column}"] = share(lane)
            m.d.comb += [
                lane.mode.eq(mode),
                lane.control.eq(control),
                lane.dword.eq(dword),
                lane.rows.eq(rows),
                lane.half_scale.eq(half_scale),
                lane.half_minimum.eq(half_minimum),
                lane.a.eq(a.codes),
                lane.pairs.eq(a.pairs),
                lane.offset.eq(a.offset),
                lane.sa.eq(a.scale),
                lane.a_sum.eq(a.total),
                lane.source.eq(source),
                lane.keep.eq(sequencer.keep),
                lane.acc.eq(self.acc_read.data.word_select(column, 32)),
            ]
            results.append(lane.q)
        m.d.comb += self.acc_write.data.eq(Cat(results))
        return m

    def _handshake(self, m: Module, sequencer: MatrixSequencer, check: MatrixCheck) -> None:
        """MSYNC ends in the cycle in which it starts."""
        sync = self.start & (self.op.opcode == SYNC_OPCODE[MATRIX])
        m.d.comb += [
            self.ready.eq(~sequencer.busy & ~self.fault.valid),
            self.active.eq(sequencer.busy & ~self.fault.valid),
            self.ends[0].valid.eq(sync | sequencer.ends),
            self.fault.valid.eq(check.cause != 0),
            self.fault.cause.eq(check.cause),
            self.fault.pc.eq(sequencer.operation.pc),
            self.fault.sequence.eq(sequencer.operation.sequence),
        ]
        for name in ("post0", "post1", "pc", "sequence"):
            own = getattr(sequencer.operation, name)
            m.d.comb += getattr(self.ends[0], name).eq(Mux(sync, getattr(self.op, name), own))

    def _operand_a(
        self,
        m: Module,
        op: SimpleNamespace,
        sequencer: MatrixSequencer,
        addresses: MatrixAddresses,
        factor: Value,
    ) -> _OperandA:
        """Of the row that was asked for CODES_AT cycles before.

        Refilling multiplies 0 by a scale of -1: a term of -0, which changes no accumulator.
        """
        step, refill = sequencer.step, sequencer.refill
        early_slice = register(m, step.a_slice, "a_slice", stages=READ_CYCLES - 1)
        a_slice = register(m, early_slice, "a_slice")
        row = register(m, step.row, "row", stages=READ_CYCLES)
        # What changes all bytes is ready in registers when they come.
        shifted_zero = op.integer & (op.a_zero != 0)
        unsigned = register(m, (early_slice != 0) | shifted_zero, "unsigned")
        zero = register(m, Mux(shifted_zero, op.a_zero - 1, 0)[:CODE_BITS].as_signed(), "a_zero")
        # MXFP6 comes to the columns in another order of groups; see b_unpack.
        bits = 8 * LANES
        groups = [self.a.data.word_select(g, bits) for g in range(len(SIX_ORDER))]
        six = [groups[SIX_ORDER.index(g)] for g in range(len(SIX_ORDER))]
        is_six = register(m, op.format == BFormat.MXFP6, "a_is_six")
        held = wire(m, Mux(is_six, Cat(six), Cat(groups)), "a_bytes")
        codes, values, bytes_of_a = [], [], []
        for i in range(BLOCK):
            byte = held.word_select(i, 8)
            code = Signal(CODE_BITS, name=f"a_{i}", reset_less=True)
            bytes_of_a.append(wire(m, Cat(byte, byte[7] & ~unsigned).as_signed(), f"byte_{i}"))
            value = (bytes_of_a[-1] - zero)[:CODE_BITS]
            values.append(wire(m, Mux(refill, 0, value)[:CODE_BITS].as_signed(), f"value_{i}"))
            with m.If(row):
                m.d.sync += code.eq(values[-1])
            codes.append(code)
        pairs = Signal(PAIRS, reset_less=True)
        with m.If(row):
            sums = [x + y for x, y in zip(values[::2], values[1::2])]
            m.d.sync += pairs.as_value().eq(Cat(one[:PAIR_BITS] for one in sums))
        m.submodules.a_power = power = E8m0Expand()
        unit = is_one_of(op.format, UNSCALED) | refill
        shift = FRACTION_BITS[BFormat.MX8] + (a_slice << 3)
        m.d.comb += [
            self.a.address.eq(addresses.a),
            self.a_scale.address.eq(addresses.a_scale),
            power.code.eq(Mux(unit, E8M0_BIAS, self.a_scale.data)),
            power.shift.eq(Mux(unit, 0, shift)),
        ]
        m.submodules.a_sum = a_sum = Sum32()
        m.d.comb += [a_sum.a.eq(Cat(bytes_of_a)), a_sum.zero.eq(zero), a_sum.factor.eq(factor)]
        early = CODES_AT - READ_CYCLES  # the sum begins with what the codes' registers take
        return _OperandA(
            codes=Cat(codes),
            pairs=pairs,
            scale=register(m, Cat(power.q[:31], refill), "sa", stages=SCALE_STAGE),
            total=register(m, a_sum.total, "a_total", stages=SUM_STAGE - SUM32.stages + early),
            offset=a_sum.offset,
        )

    def _operand_b(self, m: Module, op: SimpleNamespace) -> list[tuple[Value, Value, Value, Value]]:
        """For each column: its dword, its bytes of k-rows, scale and offset in half precision.

        ROWS: two k-rows from each port, b_pitch apart, if four come a cycle; else the same twice.
        """
        columns = self.chip.columns
        four, _ = row_rates(op.b_pitch, columns)
        most = columns // LANES
        apart = Signal(range(most + 1))
        m.d.sync += apart.eq(Mux(four, op.b_pitch, 0))
        near = [port.data[: 8 * columns] for port in (self.b0, self.b1)]
        reach = 8 * (columns + most)
        far = [
            wire(m, (port.data[:reach] >> (apart << 3))[: 8 * columns], f"far_{i}")
            for i, port in enumerate((self.b0, self.b1))
        ]
        whole = Cat(self.b0.data, self.b1.data)
        lanes = (near[0], far[0], near[1], far[1])
        return [
            (
                whole.word_select(c, 32),
                Cat(lane.word_select(c, 8) for lane in lanes),
                self.b0.data.word_select(c, 16),
                self.b1.data.word_select(c, 16),
            )
            for c in range(columns)
        ]

    def _accumulators(self, m: Module, op: SimpleNamespace, step: data.View, mode: Signal) -> Value:
        """Reads and writes rows; gives the source of the accumulator that is due in this cycle."""
        chip = self.chip
        row_bits, shift = bits_for(chip.accumulator_rows - 1), ceil_log2(4 * chip.columns)
        # One line of what was asked for, a place each cycle; an OFFSET step enters it later.
        entry = Cat(step.row, step.first, step.source)
        late = register(m, entry, "late_entry", stages=OFFSET_FILL_CYCLES)
        entry = wire(m, Mux(mode == Accumulate.OFFSET, late, entry), "entry")
        line = Signal(len(entry) * WRITE_AT)
        m.d.sync += line.eq(Cat(entry, line))

        def at(cycles: int) -> tuple[Value, Value, Value]:
            """(row, first, source) of what entered the line so many cycles ago."""
            place = line.word_select(cycles - 1, len(entry))
            return place[0], place[1], place[2:]

        any_columns = op.n > 0
        for name, port, (row, first, source) in (
            ("read", self.acc_read, at(DUE_AT - READ_CYCLES)),
            ("write", self.acc_write, at(WRITE_AT)),
        ):
            after = Signal(row_bits, name=f"{name}_row_after")
            index = wire(m, Mux(first, op.acc_row[:row_bits], after), f"{name}_row")
            with m.If(row):
                m.d.sync += after.eq(index + 1)
            m.d.comb += port.address.eq(index << shift)
            enable = row & any_columns & ~self.fault.valid
            if name == "read":
                enable &= source == Source.MEMORY
            m.d.comb += port.enable.eq(enable)
        mask = Signal(chip.columns)
        m.d.sync += mask.eq(Cat(op.n > column for column in range(chip.columns)))
        m.d.comb += self.acc_write.mask.eq(Cat(bit.replicate(4) for bit in mask))
        return at(DUE_AT)[2]
