"""The way of a transfer through DRAM and scratchpad: one fragment a cycle, without a bubble."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from mellivora.rtl.interfaces import ADDRESS_BITS

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

COUNT_BITS = 31
LEVELS = 3
"""Dimensions above the piece."""


def burst_bits(chip: ChipSpec) -> int:
    """Bits of a place within a burst."""
    return bits_for(chip.dram_burst_bytes - 1)


def near_bits(chip: ChipSpec) -> int:
    """Bits of 0 .. sram_bytes."""
    return bits_for(chip.sram_bytes)


def job_layout(chip: ChipSpec) -> data.StructLayout:
    """A transfer whose checks are done and whose contiguous dimensions are joined.

    left: pieces of each dimension after the first one; 0 in joined ones.
    paged: the last dimension goes from page to page, not by its far_step.
    """
    near = near_bits(chip)
    return data.StructLayout(
        {
            "multicast": 1,
            "paged": 1,
            "far": ADDRESS_BITS,  # of the first byte in DRAM
            "near": near,
            "run": near,  # bytes of a piece
            "left": data.ArrayLayout(COUNT_BITS, LEVELS),
            "far_step": data.ArrayLayout(COUNT_BITS, LEVELS),
            "near_step": data.ArrayLayout(near, LEVELS),
        }
    )


def fragment_layout(chip: ChipSpec) -> data.StructLayout:
    """What a piece has in one burst: bytes first .. final of it.

    near: scratchpad address of the burst's byte 0, modulo its size, were that byte wanted.
    """
    return data.StructLayout(
        {
            "multicast": 1,
            "burst": ADDRESS_BITS - burst_bits(chip),  # DRAM address in bursts
            "near": bits_for(chip.sram_bytes - 1),
            "first": burst_bits(chip),
            "final": burst_bits(chip),
            "last": 1,  # of its transfer
        }
    )


class DmaWalker(wiring.Component):
    """Shows the next fragment of the oldest job; `take` in the same cycle goes on to the next one.

    A job pushed in cycle c shows its first fragment in cycle c+1 if nothing is before it. At most
    `outstanding_transfers` jobs at a time.
    page: DRAM address of the next page of a paged job; next_page: it is taken in this cycle.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.module_name = f"dma_walker_{chip.name}"
        super().__init__(
            {
                "push": In(1),
                "job": In(job_layout(chip)),
                "valid": Out(1),
                "fragment": Out(fragment_layout(chip)),
                "take": In(1),
                "page": In(ADDRESS_BITS),
                "next_page": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job = Signal(job_layout(self.chip), reset_less=True)
        incoming = Signal(job_layout(self.chip))
        m.submodules.waiting = waiting = fifo.SyncFIFO(
            width=job_layout(self.chip).size, depth=max(2, self.chip.outstanding_transfers - 1)
        )
        finish, free = Signal(), Signal()
        m.d.comb += [
            finish.eq(self.valid & self.take & self.fragment.last),
            free.eq(~self.valid | finish),
            incoming.eq(Mux(waiting.r_rdy, waiting.r_data, self.job.as_value())),
            waiting.r_en.eq(free),
            waiting.w_data.eq(self.job),
            waiting.w_en.eq(self.push & (~free | waiting.r_rdy)),
        ]
        far = Signal(ADDRESS_BITS, reset_less=True)  # of the fragment's first byte
        near = Signal(near_bits(self.chip), reset_less=True)
        rest = Signal(near_bits(self.chip), reset_less=True)  # of the piece, from there on
        row_far = [Signal(ADDRESS_BITS, name=f"row_far{k}", reset_less=True) for k in range(LEVELS)]
        row_near = [Signal.like(near, name=f"row_near{k}") for k in range(LEVELS)]
        left = [Signal(COUNT_BITS, name=f"left{k}", reset_less=True) for k in range(LEVELS)]
        place = burst_bits(self.chip)
        room = Signal(place + 1)  # bytes to the burst's end
        piece_ends = Signal()
        m.d.comb += [
            room.eq(self.chip.dram_burst_bytes - far[:place]),
            piece_ends.eq(rest <= room),
            self.fragment.multicast.eq(job.multicast),
            self.fragment.burst.eq(far[place:]),
            self.fragment.near.eq(
                near - far[:place] + Mux(near < far[:place], self.chip.sram_bytes, 0)
            ),
            self.fragment.first.eq(far[:place]),
            self.fragment.final.eq(Mux(piece_ends, far[:place] + rest[: place + 1] - 1, ~0)),
            self.fragment.last.eq(piece_ends & ~(left[0].any() | left[1].any() | left[2].any())),
        ]
        with m.If(free):
            m.d.sync += self.valid.eq(waiting.r_rdy | self.push)
            with m.If(waiting.r_rdy | self.push):
                m.d.sync += [job.eq(incoming), far.eq(incoming.far), near.eq(incoming.near)]
                m.d.sync += [rest.eq(incoming.run)]
                for k in range(LEVELS):
                    m.d.sync += [
                        row_far[k].eq(incoming.far),
                        row_near[k].eq(incoming.near),
                        left[k].eq(incoming.left[k]),
                    ]
        with m.Elif(self.take):
            with m.If(~piece_ends):
                m.d.sync += [
                    far.eq((far[place:] + 1) << place),
                    near.eq(near + room),
                    rest.eq(rest - room),
                ]
            for k in range(LEVELS):  # the lowest dimension that has a piece left steps
                condition = piece_ends & left[k].any()
                for below in range(k):
                    condition &= ~left[below].any()
                next_far, next_near = row_far[k] + job.far_step[k], row_near[k] + job.near_step[k]
                if k == LEVELS - 1:
                    next_far = Mux(job.paged, self.page, next_far)
                    m.d.comb += self.next_page.eq(condition & job.paged)
                with m.If(condition):
                    m.d.sync += [far.eq(next_far), near.eq(next_near), rest.eq(job.run)]
                    m.d.sync += [left[k].eq(left[k] - 1)]
                    for below in range(k):
                        m.d.sync += left[below].eq(job.left[below])
                    for level in range(k + 1):
                        m.d.sync += [row_far[level].eq(next_far), row_near[level].eq(next_near)]
        return m
