"""VECTOR's control: takes operations, walks over their beats, ends them in their cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from mellivora.isa import latency
from mellivora.isa.modes import Deq, Func, Kind
from mellivora.isa.table import BY_NAME
from mellivora.rtl.interfaces import END, OPERATION, engine_signature
from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.sharing import share
from mellivora.rtl.vector_check import VectorCheck
from mellivora.rtl.vector_control import (
    MX_FORMATS,
    SCALED,
    TOKEN,
    beats_a_block,
    blocks_a_beat,
    control_layout,
    decode,
    is_in,
    levels_of,
    shape_of,
)
from mellivora.rtl.vector_walker import walker

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

FILL_BITS = 7
READS = ("a", "b", "c", "d")
assert latency.SYNC_CYCLES == 1  # VSYNC ends in the cycle it starts in


class VectorSequencer(wiring.Component):
    """Engine handshake, the operation's registers, and for each beat a token and addresses.

    Start in cycle s: the first token in s + 1, one each cycle, the last in s + beats; `ends` in s +
    cost - 1. A fault, found by its `vector_check`, stops it for good.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.module_name = (
            f"vector_sequencer_{chip.lanes}_{chip.sram_bytes}_{chip.accumulator_bytes}"
        )
        reads = {f"{name}_address": Out(32) for name in READS}
        enables = {f"{name}_enable": Out(1) for name in READS}
        super().__init__(
            dict(engine_signature().members)
            | reads
            | enables
            | {
                "current": Out(OPERATION),
                "first": Out(1),  # cycle s + 1: `current` is new
                "control": Out(control_layout(chip)),
                "token": Out(TOKEN),
                "keep": Out(chip.lanes),  # two cycles after the token: lanes inside the mask
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = self.chip.lanes
        op = self.op
        incoming = shape_of(m, op, "in")
        current = Signal(OPERATION, reset_less=True)
        now = shape_of(m, current, "now")
        decode(m, current, now, self.control, lanes)
        m.d.comb += self.current.eq(current)

        busy, beating = Signal(), Signal()
        rest = Signal(FILL_BITS, reset_less=True)
        sync = wire(m, op.opcode == BY_NAME["vsync"].opcode, "sync")
        begin = wire(m, self.start & ~sync, "begin")
        faulty = Signal()
        m.d.comb += [self.ready.eq(~busy & ~faulty), self.active.eq(busy & ~faulty)]
        m.d.sync += self.first.eq(begin)
        # In here, and not beside: the check's way back would look like a loop of modules.
        m.submodules.check = share(check := VectorCheck(self.chip))
        m.d.comb += [check.op.eq(current), check.first.eq(self.first)]
        last_beat = self._beats(m, begin, incoming, beating, now)
        over = wire(m, busy & ~beating & (rest == 1) & ~faulty, "over")
        with m.If(begin):
            m.d.sync += [
                current.eq(op),
                busy.eq(1),
                beating.eq(incoming.some),
                rest.eq(self._fill(m, incoming)),
            ]
        with m.Elif(busy):
            with m.If(beating):
                m.d.sync += beating.eq(~last_beat)
            with m.Else():
                m.d.sync += rest.eq(rest - 1)
            with m.If(over):
                m.d.sync += busy.eq(0)
        with m.If((check.bad != 0) & ~faulty):
            m.d.sync += [
                faulty.eq(1),
                beating.eq(0),
                self.fault.valid.eq(1),
                self.fault.cause.eq(check.bad),
                self.fault.pc.eq(current.pc),
                self.fault.sequence.eq(current.sequence),
            ]
        end = self.ends[0]
        m.d.comb += end.valid.eq((self.start & sync) | over)
        for field in END.members:
            if field != "valid":
                m.d.comb += end[field].eq(Mux(busy, current[field], op[field]))
        self._mask(m, begin)
        return m

    def _fill(self, m: Module, shape: Any) -> Value:
        """Cycles of the operation beside its beats, less one."""
        func = self.op.slots[6][6:10]
        table = (func >= Func.EXP2) & (func <= Func.COS)
        vew = latency.VECTOR_FILL_CYCLES + Mux(table, latency.TABLE_FILL_CYCLES, 0)
        levels = Mux(shape.rows > 0, levels_of(shape.cols), 0)
        vred = latency.REDUCE_FILL_CYCLES + latency.VECTOR_FILL_CYCLES
        vred = vred + latency.MERGE_CYCLES * levels
        vquant = latency.VECTOR_FILL_CYCLES + latency.QUANT_FILL_CYCLES
        fill = Mux(shape.vquant, vquant, latency.VECTOR_FILL_CYCLES)
        fill = Mux(shape.vew, vew, Mux(shape.vred, vred, fill))
        return wire(m, fill - 1, "fill")[:FILL_BITS]

    def _beats(self, m: Module, begin: Value, incoming: Any, beating: Value, now: Any) -> Value:
        """Token, counters and addresses; gives whether this beat is the operation's last."""
        lanes, control, token = self.chip.lanes, self.control, self.token
        per_row = incoming.cols.as_unsigned() - 1 >> (lanes - 1).bit_length()
        beats, rows = Signal(32, reset_less=True), Signal(32, reset_less=True)  # left, less one
        row_beats = Signal(32, reset_less=True)
        second = Signal(reset_less=True)
        row_last = wire(m, beats == 0, "row_last")
        again = wire(m, control.wide & ~second, "again")
        within = beats_a_block(lanes)
        place = Signal(range(within + 1), reset_less=True)  # of the beat in its block
        block_end = wire(m, place == within - 1, "block_end")
        with m.If(begin):
            m.d.sync += [
                row_beats.eq(per_row),
                beats.eq(per_row),
                rows.eq(incoming.rows - 1),
                second.eq(0),
                place.eq(0),
            ]
        with m.Elif(beating):
            m.d.sync += [
                beats.eq(Mux(row_last, row_beats, beats - 1)),
                place.eq(Mux(row_last | block_end, 0, place + 1)),
            ]
            with m.If(row_last):
                m.d.sync += second.eq(again)
                with m.If(~again):
                    m.d.sync += rows.eq(rows - 1)
        m.d.comb += [
            token.valid.eq(beating),
            token.row_last.eq(row_last),
            token.block_last.eq(block_end | row_last),
            token.second.eq(second),
            token.high.eq(place >= within // 2 if within > 1 else 0),
        ]
        self._addresses(m, begin, beating, row_last, again, block_end, place)
        return wire(m, row_last & ~again & (rows == 0), "last_beat")

    def _addresses(
        self,
        m: Module,
        begin: Value,
        beating: Value,
        row_last: Value,
        again: Value,
        block_end: Value,
        place: Value,
    ) -> None:
        lanes, control, op = self.chip.lanes, self.control, self.op
        within, blocks = beats_a_block(lanes), blocks_a_beat(lanes)
        incoming_deq = op.opcode == BY_NAME["vdeq"].opcode
        incoming_quant = op.opcode == BY_NAME["vquant"].opcode
        slots, config = op.slots, op.config
        code, scale = slots[1], slots[2]
        planes = [code, (code + config[4])[:32], (code + (config[4] << 1))[:32]]
        offsets = (scale + (slots[4][5:] << 1))[:32]  # two bytes for each block
        deq, vdeq = control.deq, control.vdeq
        is_offset = slots[5][:4] == Deq.Q4_1
        starts = {
            "a": Mux(incoming_quant, slots[2], slots[1]),
            "b": Mux(
                incoming_deq,
                Mux(is_offset, offsets, planes[1]),
                Mux(incoming_quant, slots[3], slots[2]),
            ),
            "c": Mux(incoming_deq, planes[2], slots[3]),
            "d": scale,
        }

        def step(kind: Value) -> Value:
            return Mux(kind == Kind.TENSOR, 4 * lanes, Mux(kind == Kind.E8M0, lanes, 0))

        packed = C(lanes // 2, 12)
        if within > 1:  # the same bytes serve the lower and the upper nibbles
            packed = Mux(place == within // 2 - 1, lanes - 16, lanes)
        codes = Mux(is_in(deq, (Deq.F16, Deq.BF16)), 2 * lanes, lanes)
        codes = Mux(deq == Deq.INT32, 4 * lanes, Mux(control.packed, packed, codes))
        two = Mux(block_end, 2 * blocks, 0)
        one_or_two = Mux(block_end, Mux(is_in(deq, MX_FORMATS), blocks, 2 * blocks), 0)
        now_offset = deq == Deq.Q4_1
        steps = {
            "a": Mux(vdeq, codes, 4 * lanes),
            "b": Mux(vdeq, Mux(now_offset, two, lanes), step(control.b_kind)),
            "c": Mux(vdeq, lanes, step(control.c_kind)),
            "d": one_or_two,
        }
        now = self.current.config
        strides = {
            "a": now[1],
            "b": Mux(vdeq & ~now_offset, now[1], now[2]),
            "c": Mux(vdeq, now[1], now[3]),
            "d": now[2],
        }
        wanted = {
            "a": C(1, 1),
            "b": Mux(
                vdeq,
                is_in(deq, (Deq.MX2, Deq.MX3, Deq.Q4_1)),
                control.uses_b & (control.b_kind != Kind.CONST),
            ),
            "c": Mux(vdeq, deq == Deq.MX3, control.uses_c & (control.c_kind != Kind.CONST)),
            "d": vdeq & is_in(deq, SCALED),
        }
        for name in READS:
            address = walker(
                m,
                name,
                load=begin,
                start=starts[name],
                advance=beating & wanted[name],
                row_last=row_last,
                step=wire(m, steps[name], f"{name}_step"),
                stride=strides[name],
                again=again,
            )
            m.d.comb += [
                getattr(self, f"{name}_address").eq(address),
                getattr(self, f"{name}_enable").eq(beating & wanted[name]),
            ]

    def _mask(self, m: Module, begin: Value) -> None:
        """keep: -inf where not limit - window <= column < limit, limit = c4 + row % c5."""
        lanes, control, token, op = self.chip.lanes, self.control, self.token, self.op
        limit, modulo, window = (self.current.config[i] for i in (4, 5, 6))
        row_limit = Signal(signed(34), reset_less=True)
        room = Signal(signed(34), reset_less=True)  # limit - first column of the beat
        turn = Signal(32, reset_less=True)  # row % c5
        wraps = wire(m, (modulo <= 1) | (turn == (modulo - 1)[:32]), "wraps")
        after = wire(m, Mux(wraps, limit, row_limit + 1), "limit_after")
        moves = wire(m, token.valid & control.masked, "mask_moves")
        with m.If(begin):
            m.d.sync += [row_limit.eq(op.config[4]), room.eq(op.config[4]), turn.eq(0)]
        with m.Elif(moves):
            with m.If(token.row_last):
                m.d.sync += [
                    row_limit.eq(after),
                    room.eq(after),
                    turn.eq(Mux(wraps, 0, turn + 1)),
                ]
            with m.Else():
                m.d.sync += room.eq(room - lanes)

        def clamp(value: Value, name: str) -> Value:
            value = wire(m, value, f"{name}_room")
            return register(
                m, Mux(value < 0, 0, Mux(value > lanes, lanes, value))[: lanes.bit_length()], name
            )

        below = clamp(room, "keep_below")
        from_ = clamp(Mux(window > 0, room - window, 0), "keep_from")
        everything = ~control.masked
        keep = Cat((below > i) & (from_ <= i) | everything for i in range(lanes))
        m.d.comb += self.keep.eq(register(m, keep, "keep"))
