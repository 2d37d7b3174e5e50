"""VECTOR: elementwise operations, reductions and conversions on tiles of FP32, a beat a cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from mellivora.isa import latency
from mellivora.rtl.beat_quantise import BeatQuantise, quantise_stages
from mellivora.rtl.chunk_reduce import ChunkReduce
from mellivora.rtl.interfaces import READ_CYCLES, engine_signature, read_port, write_port
from mellivora.rtl.operand_select import OperandSelect, d_bytes
from mellivora.rtl.pipeline import wire
from mellivora.rtl.sharing import share
from mellivora.rtl.vector_control import OPERANDS_STAGE, TOKEN
from mellivora.rtl.vector_lane import (
    BINARY_STAGES,
    LANE_STAGES,
    TABLE_LANE_STAGES,
    VectorLane,
    only_if,
)
from mellivora.rtl.vector_sequencer import READS, VectorSequencer
from mellivora.rtl.vector_writer import VectorWriter, write_widths

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

FIRST_STAGE = OPERANDS_STAGE + BINARY_STAGES
PLAIN_STAGE = OPERANDS_STAGE + LANE_STAGES
TABLE_STAGE = OPERANDS_STAGE + TABLE_LANE_STAGES
assert PLAIN_STAGE + 1 == latency.VECTOR_FILL_CYCLES  # the last beat is written in the last cycle
assert TABLE_STAGE - PLAIN_STAGE == latency.TABLE_FILL_CYCLES


class VectorEngine(wiring.Component):
    """Engine of docs/design/0006-core-rtl.md: handshake, ports a, b, c, d and w0 to w3.

    Addresses from ACCUMULATOR_BASE on are accumulators; whoever places the engine sorts them.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip, lanes = chip, chip.lanes
        self.module_name = f"vector_engine_{lanes}_{chip.sram_bytes}_{chip.accumulator_bytes}"
        reads = {name: Out(read_port(4 * lanes)) for name in READS[:3]}
        reads["d"] = Out(read_port(d_bytes(lanes)))
        writes = {f"w{i}": Out(write_port(width)) for i, width in enumerate(write_widths(lanes))}
        super().__init__(dict(engine_signature().members) | reads | writes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chip, lanes = self.chip, self.chip.lanes
        m.submodules.sequencer = share(sequencer := VectorSequencer(chip))
        control, current = sequencer.control, sequencer.current
        m.d.comb += [
            sequencer.op.eq(self.op),
            sequencer.start.eq(self.start),
            self.ready.eq(sequencer.ready),
            self.ends.eq(sequencer.ends),
            self.fault.eq(sequencer.fault),
            self.active.eq(sequencer.active),
        ]
        for name in READS:
            port = getattr(self, name)
            m.d.comb += [
                port.address.eq(getattr(sequencer, f"{name}_address")),
                port.enable.eq(getattr(sequencer, f"{name}_enable")),
            ]
        quantised = FIRST_STAGE + quantise_stages(lanes)
        tokens = self._tokens(m, sequencer, max(TABLE_STAGE, quantised))
        firsts, q = self._lanes(m, control, tokens[READ_CYCLES], sequencer.keep)

        token = tokens[FIRST_STAGE]
        inside = wire(m, control.last_mask | ~token.row_last.replicate(lanes), "inside")
        m.submodules.reduce = share(reduce := ChunkReduce(chip))
        m.submodules.quantise = share(quantise := BeatQuantise(chip))
        m.submodules.writer = share(writer := VectorWriter(chip))
        m.d.comb += [
            reduce.take_max.eq(control.take_max),
            reduce.levels_used.eq(control.levels),
            reduce.valid.eq(token.valid & control.vred),
            reduce.block_last.eq(token.block_last & control.vred),
            reduce.row_last.eq(token.row_last & control.vred),
            reduce.inside.eq(only_if(control.vred, inside)),
            quantise.enable.eq(control.vquant),
            quantise.target.eq(control.target),
            quantise.wide.eq(control.wide),
            quantise.token.eq(only_if(control.vquant, _raw(token))),
            quantise.inside.eq(only_if(control.vquant, inside)),
            writer.control.eq(control),
            writer.current.eq(current),
            writer.first.eq(sequencer.first),
            writer.blocked.eq(sequencer.fault.valid),
            writer.reduced_valid.eq(reduce.q_valid),
            writer.reduced.eq(reduce.q),
            writer.codes.eq(quantise.codes),
            writer.narrow.eq(quantise.narrow),
            writer.scales.eq(quantise.scales),
        ]
        for i in range(lanes):
            m.d.comb += [
                reduce.x[i].eq(firsts[i]),
                quantise.x[i].eq(firsts[i]),
                writer.q[i].eq(q[i]),
            ]
        last = tokens[quantised]
        passes = control.vquant & (~control.wide | last.second)
        plain = Mux(control.table, _raw(tokens[TABLE_STAGE]), _raw(tokens[PLAIN_STAGE]))
        chosen = Signal(TOKEN, name="write_token")
        m.d.comb += chosen.eq(Mux(control.vquant, _raw(last), plain))
        m.d.comb += writer.token.eq(chosen)
        m.d.comb += writer.token.valid.eq(
            chosen.valid & ~control.vred & (~control.vquant | passes) & ~sequencer.first
        )
        for i in range(len(write_widths(lanes))):
            port, source = getattr(self, f"w{i}"), getattr(writer, f"w{i}")
            m.d.comb += [
                port.address.eq(source.address),
                port.enable.eq(source.enable),
                port.data.eq(source.data),
                port.mask.eq(source.mask),
            ]
        return m

    def _tokens(self, m: Module, sequencer: Any, stages: int) -> list[Any]:
        """The token of the beat in each stage; those of the operation before count no more."""
        tokens = [sequencer.token]
        for stage in range(1, stages + 1):
            later = Signal(TOKEN, name=f"token_{stage}")
            m.d.sync += later.eq(tokens[-1])
            if stage > 1:
                m.d.sync += later.valid.eq(tokens[-1].valid & ~sequencer.first)
            tokens.append(later)
        return tokens

    def _lanes(
        self, m: Module, control: Any, token: Any, keep: Value
    ) -> tuple[list[Value], list[Value]]:
        """Results of the first binary stage, and of the last stage, of every lane."""
        m.submodules.select = share(select := OperandSelect(self.chip))
        m.d.comb += [
            select.control.eq(control),
            select.valid.eq(token.valid),
            select.high.eq(token.high),
            select.keep.eq(keep),
            *(getattr(select, name).eq(getattr(self, name).data) for name in READS),
        ]
        firsts, results = [], []
        for i in range(self.chip.lanes):
            m.submodules[f"lane_{i}"] = share(lane := VectorLane())
            m.d.comb += [
                lane.t.eq(select.t[i]),
                lane.x1.eq(select.x1[i]),
                lane.x2.eq(select.x2[i]),
                lane.op1.eq(control.op1),
                lane.op2.eq(control.op2),
                lane.func.eq(control.func),
                lane.integer.eq(control.integer),
                lane.int32.eq(control.int32),
                lane.taps.eq(control.vred | control.vquant),
            ]
            firsts.append(lane.first)
            results.append(lane.q)
        return firsts, results


def _raw(token: Any) -> Value:
    return Value.cast(token)
