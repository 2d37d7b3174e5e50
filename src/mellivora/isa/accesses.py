"""What every row of a launch touches, as indices into cut memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from mellivora.errors import IsaError
from mellivora.isa.encoding import R_OPCODE, R_SLOT
from mellivora.isa.footprint import DramRegion, Footprint, footprint
from mellivora.isa.listing import Listing
from mellivora.isa.overlaps import order_matters
from mellivora.isa.program import Window
from mellivora.isa.races import Index, Segments, Spans, dram_spans, pad_spans
from mellivora.isa.state import Fault
from mellivora.isa.table import BY_NAME
from mellivora.spec import ChipSpec

STORE_OPCODE = BY_NAME["store"].opcode
_CHUNK = 4096


def refuse(code: str, what: str, where: str, given: str, allowed: str, hint: str) -> NoReturn:
    """Raise an IsaError of the checker."""
    raise IsaError(code, what, where=where, given=given, allowed=allowed, hint=hint)


class Accesses:
    """Footprint of each row as segment indices; equal footprints are kept once.

    near: a row's number in `reads`, `writes` (None: nothing).
    far: for each core, row -> number in `far_index`; only of windows that something stores to.
    """

    def __init__(
        self, listings: Sequence[Listing], chip: ChipSpec, windows: Sequence[Window]
    ) -> None:
        self.chip, self.windows, self.listings = chip, windows, listings
        self.limits = [window.bytes for window in windows]
        self.bases = np.concatenate([[0], np.cumsum(self.limits, dtype=np.int64)]).tolist()
        stored: set[int] = set()
        for listing in listings:
            mine = listing.rows[listing.rows[:, R_OPCODE] == STORE_OPCODE]
            stored |= set(np.unique(mine[:, R_SLOT]).tolist())
        known: dict[Footprint, int] = {}
        far: dict[DramRegion, int] = {}
        self.near: list[list[int]] = []
        self.far: list[dict[int, int]] = []
        for listing in listings:
            near_of, far_of = list[int](), dict[int, int]()
            for start in range(0, len(listing), _CHUNK):
                for offset, row in enumerate(listing.rows[start : start + _CHUNK].tolist()):
                    at = start + offset
                    print_ = self._footprint(listing, at, row)
                    regions = print_.dram_writes or print_.dram_reads
                    if regions and regions[0][0] in stored:
                        far_of[at] = far.setdefault(regions[0], len(far))
                    key = Footprint(print_.reads, print_.writes)
                    near_of.append(known.setdefault(key, len(known)))
            self.near.append(near_of)
            self.far.append(far_of)
        read_spans = [pad_spans(p.reads) if p.reads else None for p in known]
        write_spans = [pad_spans(p.writes) if p.writes else None for p in known]
        self.pad = Segments(span for span in (*read_spans, *write_spans) if span)
        self.reads = [self._index(self.pad, span) for span in read_spans]
        self.writes = [self._index(self.pad, span) for span in write_spans]
        far_spans = [dram_spans(region, self.bases[region[0]]) for region in far]
        self.dram = Segments(far_spans)
        self.far_index = [self.dram.index(span) for span in far_spans]

    @staticmethod
    def _index(segments: Segments, span: Spans | None) -> Index | None:
        return None if span is None else segments.index(span)

    def _footprint(self, listing: Listing, at: int, row: list[int]) -> Footprint:
        try:
            found = footprint(row, self.chip, limits=self.limits)
        except Fault as fault:
            refuse(
                "MV0616",
                f"an access is not possible: {fault.what}",
                listing.text(at),
                fault.given,
                "addresses inside the window, scratchpad or accumulators; shapes the engine has",
                "correct the operands of this instruction",
            )
        if wrong := order_matters(row, found, core_id=listing.core, cores=len(self.listings)):
            refuse(
                "MV0627",
                f"the result depends on the order of bytes: {wrong}",
                listing.text(at),
                "an access that meets its own bytes",
                "a VEW in place on one FP32 tile, an EXCH into its own part; no other overlap",
                "give the result a place of its own",
            )
        if found.dram_writes and not self.windows[row[R_SLOT]].writable:
            window = self.windows[row[R_SLOT]]
            refuse(
                "MV0617",
                "a STORE goes to a window that may only be read",
                listing.text(at),
                f"window {row[R_SLOT]} ({window.name})",
                "a writable window",
                "store elsewhere, or make the window writable",
            )
        return found

    def place(self, byte: int) -> str:
        """A DRAM byte of the joined windows, as a window and an offset."""
        index = int(np.searchsorted(self.bases, byte, side="right")) - 1
        return f"{self.windows[index].name} + {byte - self.bases[index]:#x}"
