"""The issue of a LOAD or STORE: both sides are checked whole, contiguous dimensions are joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import DRAM_UNIT_BYTES
from mellivora.isa.latency import DMA_ISSUE_CYCLES
from mellivora.isa.table import BY_NAME, DMA_CONFIG, DMA_SLOTS
from mellivora.rtl.dma_walker import COUNT_BITS, LEVELS, job_layout, near_bits
from mellivora.rtl.interfaces import (
    ADDRESS_BITS,
    CAUSE_BITS,
    OPERATION,
    SCRATCHPAD_FAULT,
    WINDOW_FAULT,
)
from mellivora.rtl.pipeline import wire

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec


class DmaIssue(wiring.Component):
    """Takes `op` in cycle s = `start`; `busy` in s+1 .. s+5, `done` in s+5 with the verdict.

    empty: the transfer has no bytes; nothing is checked (s+1 .. s+5).
    cause: in s+5, 0 or that of `isa.footprint`. push: in s+5, `job` is a walker's. All these hold
    until the next start. stop: past the last byte in the window, from s+5 on; exact if cause is 0.
    base, limit: of the window with number `window`, which is held in s+1 .. s+5; due in s+4.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.module_name = f"dma_issue_{chip.name}"
        super().__init__(
            {
                "op": In(OPERATION),
                "start": In(1),
                "window": Out(range(chip.windows)),
                "base": In(ADDRESS_BITS),
                "limit": In(ADDRESS_BITS),
                "busy": Out(1),
                "done": Out(1),
                "empty": Out(1),
                "cause": Out(CAUSE_BITS),
                "push": Out(1),
                "stop": Out(signed(ADDRESS_BITS + 3)),
                "job": Out(job_layout(chip)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        slot = {name: self.op.slots[i] for i, name in enumerate(DMA_SLOTS)}
        config = {name: self.op.config[i] for i, name in enumerate(DMA_CONFIG)}
        step = Signal(DMA_ISSUE_CYCLES - 1)  # bit k in cycle s+1+k
        m.d.sync += step.eq(Cat(self.start, step[:-1]))
        m.d.comb += [self.busy.eq(step.any()), self.done.eq(step[-1])]

        def held(value: Value, name: str) -> Signal:
            signal = Signal(value.shape(), name=name, reset_less=True)
            with m.If(self.start):
                m.d.sync += signal.eq(value)
            return signal

        names = [f"n{k}" for k in range(1, LEVELS + 1)]
        n0 = held(slot["n0"][:COUNT_BITS], "n0")
        left = [held((slot[name] - 1)[:COUNT_BITS], f"left_{name}") for name in names]
        far_step = [held(config[f"d{k}"][:COUNT_BITS], f"d{k}") for k in range(1, LEVELS + 1)]
        near_step = [held(config[f"p{k}"][:COUNT_BITS], f"p{k}") for k in range(1, LEVELS + 1)]
        first = held(slot["offset"] * DRAM_UNIT_BYTES + slot["fine"], "first")
        pad = held(slot["pad"], "pad")
        multicast = held(self.op.opcode == BY_NAME["loadm"].opcode, "multicast")
        empty = held(Cat(slot[name] <= 0 for name in ("n0", *names)).any(), "empty")
        window = held(slot["window"], "window_number")
        negative = held(Cat(stride < 0 for stride in config.values()).any(), "negative")
        m.d.comb += [self.empty.eq(empty), self.window.eq(window)]

        # One multiplier a side: (n_k - 1) * stride_k in s+k, added up one cycle later.
        def pick(values: list[Signal], offset: int) -> Value:
            """values[k-1] in cycle s+k+offset, else 0."""
            chosen = Value.cast(0)
            for k, value in enumerate(values):
                chosen = chosen | Mux(step[k + offset], value, 0)
            return chosen

        count = wire(m, pick(left, 0), "count")

        def extent(steps: list[Signal], begin: Value, bits: int, name: str) -> tuple[Signal, ...]:
            """(product of the cycle before, sum, whether a product had more than `bits` bits).

            Complete in s+5. Such a product is past every limit, so its upper bits are dropped.
            """
            whole = wire(m, count * pick(steps, 0), f"{name}_whole")
            product = Signal(bits, name=f"{name}_product", reset_less=True)
            total = Signal(signed(max(bits, len(begin)) + 3), name=f"{name}_sum", reset_less=True)
            over = Signal(name=f"{name}_over", reset_less=True)
            with m.If(self.busy):
                m.d.sync += product.eq(whole)
                m.d.sync += over.eq(~step[0] & over | whole[bits:].any())
                m.d.sync += total.eq(Mux(step[0], begin + n0, total + product))
            return product, total, over

        near = near_bits(self.chip)
        far_product, stop, far_over = extent(far_step, first, ADDRESS_BITS, "far")
        _, near_stop, near_over = extent(near_step, pad, near, "near")

        # Dimension k joins the piece in s+k+1 if it continues it on both sides.
        run = Signal(near, reset_less=True)
        whole = Signal(reset_less=True)  # so far every dimension has joined or has one piece
        d, p, joins = Signal(COUNT_BITS), Signal(COUNT_BITS), Signal()
        m.d.comb += [
            d.eq(pick(far_step, 1)),
            p.eq(pick(near_step, 1)),
            joins.eq(whole & (d == run) & (p == run)),
        ]
        with m.If(step[0]):
            m.d.sync += [run.eq(n0), whole.eq(1)]
        with m.If(step[1 : LEVELS + 1].any()):
            m.d.sync += whole.eq(whole & (joins | ~pick(left, 1).any()))
            with m.If(joins):
                m.d.sync += run.eq(far_product + d)  # (n_k - 1) * d_k + d_k
        for k in range(LEVELS):
            with m.If(joins & step[k + 1]):
                m.d.sync += left[k].eq(0)

        far = Signal(ADDRESS_BITS, reset_less=True)
        m.d.sync += far.eq(self.base + first)  # from s+4 on, when `base` is due
        bad_window, bad_pad = Signal(), Signal()
        outside = (window < 0) | (window >= self.chip.windows) | negative
        m.d.comb += [
            bad_window.eq(outside | (first < 0) | far_over | (stop > self.limit)),
            bad_pad.eq((pad < 0) | near_over | (near_stop > self.chip.sram_bytes)),
            self.cause.eq(
                Mux(empty, 0, Mux(bad_window, WINDOW_FAULT, Mux(bad_pad, SCRATCHPAD_FAULT, 0)))
            ),
            self.push.eq(self.done & ~empty & (self.cause == 0)),
            self.stop.eq(stop),
            self.job.multicast.eq(multicast),
            self.job.paged.eq(0),
            self.job.far.eq(far),
            self.job.near.eq(pad),
            self.job.run.eq(run),
            *(self.job.left[k].eq(left[k]) for k in range(LEVELS)),
            *(self.job.far_step[k].eq(far_step[k]) for k in range(LEVELS)),
            *(self.job.near_step[k].eq(near_step[k]) for k in range(LEVELS)),
        ]
        return m
