"""The way of transfers through DRAM and scratchpad: a core port's fragments a cycle, no bubble."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from mellivora.rtl.interfaces import ADDRESS_BITS
from mellivora.rtl.pipeline import wire

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


def place_layout(chip: ChipSpec) -> data.StructLayout:
    """Where the walk through a job is.

    far, near: of the next fragment's first byte; rest: bytes of the piece from there on.
    row_far, row_near: of the first byte of the piece, of its row, of its plane.
    """
    near = near_bits(chip)
    return data.StructLayout(
        {
            "far": ADDRESS_BITS,
            "near": near,
            "rest": near,
            "row_far": data.ArrayLayout(ADDRESS_BITS, LEVELS),
            "row_near": data.ArrayLayout(near, LEVELS),
            "left": data.ArrayLayout(COUNT_BITS, LEVELS),
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
    """Shows the next fragments of the oldest jobs; the first `take` of them go in the same cycle.

    A job pushed in cycle c shows its first fragment in cycle c+1 if nothing is before it. At most
    `outstanding_transfers` jobs at a time.
    count: fragments shown, up to the port's: all of multicasts, or all of the core's own transfers.
    pages: DRAM addresses of a paged job's next pages; next_pages: how many are taken in this cycle.
    """

    has_reset = True

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.ways = ways = chip.core_port_bursts
        self.module_name = f"dma_walker_{chip.name}"
        super().__init__(
            {
                "push": In(1),
                "job": In(job_layout(chip)),
                "count": Out(range(ways + 1)),
                "fragments": Out(data.ArrayLayout(fragment_layout(chip), ways)),
                "take": In(range(ways + 1)),
                "pages": In(data.ArrayLayout(ADDRESS_BITS, ways)),
                "next_pages": Out(range(ways + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        chip, ways, most = self.chip, self.ways, self.chip.outstanding_transfers
        jobs = [Signal(job_layout(chip), name=f"job{i}", reset_less=True) for i in range(most)]
        held = Signal(range(most + 1))
        at = Signal(place_layout(chip), reset_less=True)

        # Unrolled: where the walk is after k fragments, and how many jobs it has left behind.
        places: list[Value] = [at.as_value()]
        behind: list[Value] = [Value.cast(0)]
        turns: list[Value] = []
        shown: list[Value] = []
        for k in range(ways):
            job = self._job(m, jobs, behind[k], k, f"job_at_{k}")
            first = jobs[0]
            joins = first.multicast == job.multicast if k else 1
            shown.append(wire(m, (behind[k] < held) & joins & (shown[-1] if k else 1), f"shown{k}"))
            page = _picked(list(self.pages), sum(turns, Value.cast(0)), k)
            last, turn, further = self._step(m, job, places[k], page, k)
            following = self._begun(m, self._job(m, jobs, behind[k] + 1, k + 1, f"next_job{k}"), k)
            places.append(wire(m, Mux(last, following, further), f"place{k + 1}"))
            behind.append(wire(m, behind[k] + last, f"behind{k + 1}"))
            turns.append(turn)
        rest, through, to = Signal.like(held), Signal(range(ways + 1)), Signal.like(at)
        m.d.comb += [
            self.count.eq(sum(shown[1:], shown[0])),
            self.next_pages.eq(sum((turn & (self.take > k) for k, turn in enumerate(turns)), 0)),
            rest.eq(held - through),
        ]
        with m.Switch(self.take):
            for k in range(ways + 1):
                with m.Case(k):
                    m.d.comb += [through.eq(behind[k]), to.eq(places[k])]

        m.d.sync += held.eq(rest + self.push)
        with m.If((rest == 0) & self.push):
            m.d.sync += at.eq(self._begun(m, self.job, "pushed"))
        with m.Elif(self.take != 0):
            m.d.sync += at.eq(to)
        for i, job in enumerate(jobs):
            for k in range(1, min(ways, most - 1 - i) + 1):
                with m.If(through == k):
                    m.d.sync += job.eq(jobs[i + k])
            with m.If(self.push & (rest == i)):
                m.d.sync += job.eq(self.job)
        return m

    def _job(
        self, m: Module, jobs: list, index: Value, most: int, name: str
    ) -> data.View[data.StructLayout]:
        """The job of this index, at most `most`; past the last place any."""
        reachable = [job.as_value() for job in jobs[: most + 1]]
        chosen = _picked(reachable, index, len(reachable) - 1)
        return data.View(job_layout(self.chip), wire(m, chosen, name))

    def _begun(self, m: Module, job: data.View[data.StructLayout], name: object) -> Value:
        """The place of a job's first fragment."""
        place = Signal(place_layout(self.chip), name=f"begun_{name}")
        m.d.comb += [place.far.eq(job.far), place.near.eq(job.near), place.rest.eq(job.run)]
        for k in range(LEVELS):
            m.d.comb += [
                place.row_far[k].eq(job.far),
                place.row_near[k].eq(job.near),
                place.left[k].eq(job.left[k]),
            ]
        return place.as_value()

    def _step(
        self, m: Module, job: data.View[data.StructLayout], place: Value, page: Value, k: int
    ) -> tuple[Value, Value, Value]:
        """Shows fragment k; whether it is the job's last, whether it turns a page, what is next."""
        at = data.View(place_layout(self.chip), place)
        fragment, low, size = self.fragments[k], burst_bits(self.chip), self.chip.sram_bytes
        room = Signal(low + 1, name=f"room{k}")  # bytes to the burst's end
        piece_ends, last = Signal(name=f"piece_ends{k}"), Signal(name=f"last{k}")
        turn = Signal(name=f"turn{k}")
        to = Signal(place_layout(self.chip), name=f"to{k}")
        first = at.far[:low]
        m.d.comb += [
            room.eq(self.chip.dram_burst_bytes - first),
            piece_ends.eq(at.rest <= room),
            last.eq(piece_ends & ~Cat(left.any() for left in at.left).any()),
            fragment.multicast.eq(job.multicast),
            fragment.burst.eq(at.far[low:]),
            fragment.near.eq(at.near - first + Mux(at.near < first, size, 0)),
            fragment.first.eq(first),
            fragment.final.eq(Mux(piece_ends, first + at.rest[: low + 1] - 1, ~0)),
            fragment.last.eq(last),
            to.eq(at),
        ]
        with m.If(~piece_ends):
            m.d.comb += [
                to.far.eq((at.far[low:] + 1) << low),
                to.near.eq(at.near + room),
                to.rest.eq(at.rest - room),
            ]
        for level in range(LEVELS):  # the lowest dimension that has a piece left steps
            condition = piece_ends & at.left[level].any()
            for below in range(level):
                condition &= ~at.left[below].any()
            next_far = at.row_far[level] + job.far_step[level]
            next_near = at.row_near[level] + job.near_step[level]
            if level == LEVELS - 1:
                next_far = Mux(job.paged, page, next_far)
                m.d.comb += turn.eq(condition & job.paged)
            with m.If(condition):
                m.d.comb += [to.far.eq(next_far), to.near.eq(next_near), to.rest.eq(job.run)]
                m.d.comb += to.left[level].eq(at.left[level] - 1)
                for below in range(level):
                    m.d.comb += to.left[below].eq(job.left[below])
                for row in range(level + 1):
                    m.d.comb += [to.row_far[row].eq(next_far), to.row_near[row].eq(next_near)]
        return last, turn, to.as_value()


def _picked(values: list[Value], index: Value, most: int) -> Value:
    """values[index], where index is `most` at most."""
    chosen = Value.cast(values[0])
    for i in range(1, most + 1):
        chosen = Mux(index == i, values[i], chosen)
    return chosen
