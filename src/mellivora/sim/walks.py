"""Where the bursts of LOADs and STOREs are in DRAM, for a timing run that knows of banks.

A walk is what DMA makes of a transfer: pieces of contiguous bytes, after joining dimensions that
continue a piece on both sides, and the dimensions that are left. `native/timing_dram.hpp` goes
through it burst by burst, as `rtl.dma_walker` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mellivora.isa.encoding import DRAM_UNIT_BYTES, R_CONFIG, R_OPCODE, R_SLOT
from mellivora.isa.table import BY_NAME, TABLE

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

Rows = npt.NDArray[np.int64]

WALK = np.dtype(
    [("far", "<i8"), ("run", "<i8"), ("count", "<i8", 3), ("step", "<i8", 3), ("pages", "<u8")]
)
"""Same as `Walk` in native/timing_dram.hpp. far: DRAM address of the first byte. pages: address of
int64 offsets from it, one for each entry of the last dimension; 0 if that has a step."""
_MOVES = [row.opcode for row in TABLE if row.bursts]
_LOADX = BY_NAME["loadx"].opcode


def walks(
    rows: Rows, chip: ChipSpec, windows: Sequence[tuple[int, int]], pages: Rows
) -> tuple[npt.NDArray[np.void], Rows]:
    """Walks [n] of resolved rows [n, RESOLVED_FIELDS]; those of other instructions are empty.

    windows: (base, limit) bytes. pages: entries of the tables of all LOADXs, in their order.
    The second array is what the walks point into: keep it as long as they are used.
    """
    out = np.zeros(len(rows), WALK)
    out["count"] = 1
    pick = np.flatnonzero(np.isin(rows[:, R_OPCODE], _MOVES))
    some = rows[pick]
    slot, config = some[:, R_SLOT : R_SLOT + 8], some[:, R_CONFIG : R_CONFIG + 8]
    gathers = some[:, R_OPCODE] == _LOADX
    bases = np.array([base for base, _ in windows] or [0], np.int64)
    window = np.clip(slot[:, 0], 0, len(bases) - 1)
    run, single = slot[:, 4].copy(), np.ones(len(some), bool)
    count, step = np.empty((len(some), 3), np.int64), np.empty((len(some), 3), np.int64)
    for dim in range(3):
        number, stride, near = slot[:, 5 + dim], config[:, dim], config[:, 3 + dim]
        if dim == 2:
            near = np.where(gathers, 0, near)  # no page continues another
        joined = single & (stride == run) & (near == run)
        run = np.where(joined, run * number, run)
        count[:, dim] = np.where(joined, 1, number)
        step[:, dim] = stride
        single &= joined | (number == 1)
    mine = np.zeros(len(some), WALK)
    mine["far"] = bases[window] + slot[:, 1] * DRAM_UNIT_BYTES + slot[:, 2]
    mine["run"], mine["count"], mine["step"] = run, count, step
    offsets = _offsets(mine, slot, config, gathers, pages)
    out[pick] = mine
    return out, offsets


def _offsets(mine: npt.NDArray[np.void], slot: Rows, config: Rows, gathers: Rows, pages: Rows):
    """Fills `pages` of gathers; the offsets that they point to."""
    gathers = gathers & (slot[:, 4:8].min(axis=1, initial=1) > 0)
    sizes = np.where(gathers, slot[:, 7], 0)
    first = np.concatenate([[0], np.cumsum(sizes)])
    offsets = np.zeros(max(1, int(first[-1])), np.int64)
    for i in np.flatnonzero(gathers).tolist():
        span = slice(int(first[i]), int(first[i + 1]))
        offsets[span] = pages[span] * config[i, 2]
    mine["pages"][gathers] = offsets.ctypes.data + 8 * first[:-1][gathers]
    return offsets
