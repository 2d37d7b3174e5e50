"""Where the bursts of LOADs and STOREs are in DRAM, for a timing run that knows of banks.

A walk is what DMA makes of a transfer: pieces of contiguous bytes, after joining dimensions that
continue a piece on both sides, and the dimensions that are left. `native/timing_dram.hpp` goes
through it burst by burst, as `rtl.dma_walker` does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mellivora.isa.encoding import DRAM_UNIT_BYTES, R_CONFIG, R_OPCODE, R_SLOT
from mellivora.isa.latency import joined_pieces, unpaged
from mellivora.isa.table import BY_NAME, TABLE

Rows = npt.NDArray[np.int64]

WALK = np.dtype(
    [("far", "<i8"), ("run", "<i8"), ("count", "<i8", 3), ("step", "<i8", 3), ("pages", "<u8")]
)
"""Same as `Walk` in native/timing_dram.hpp. far: DRAM address of the first byte. pages: address of
int64 offsets from it, one for each entry of the last dimension; 0 if that has a step."""
_MOVES = [row.opcode for row in TABLE if row.bursts]
_LOADX = BY_NAME["loadx"].opcode


def walks(
    rows: Rows, windows: Sequence[tuple[int, int]], pages: Rows
) -> tuple[npt.NDArray[np.void], Rows]:
    """Walks [n] of resolved rows [n, RESOLVED_FIELDS]; those of other instructions are empty.

    windows: (base, limit) bytes. pages: entries of the tables of all LOADXs, in their order.
    The second array is what the walks point into: keep it as long as they are used.
    """
    out = np.zeros(len(rows), WALK)
    out["count"] = 1
    pick = np.flatnonzero(np.isin(rows[:, R_OPCODE], _MOVES))
    some = rows[pick]
    gathers = some[:, R_OPCODE] == _LOADX
    pitch = some[:, R_CONFIG + 2].copy()
    some[gathers] = unpaged(some[gathers])
    bases = np.array([base for base, _ in windows] or [0], np.int64)
    slot = some[:, R_SLOT : R_SLOT + 8]
    mine = np.zeros(len(some), WALK)
    mine["far"] = bases[np.clip(slot[:, 0], 0, len(bases) - 1)]
    mine["far"] += slot[:, 1] * DRAM_UNIT_BYTES + slot[:, 2]
    mine["run"], mine["count"], mine["step"] = joined_pieces(some)
    sizes = _table_sizes(some)
    first = np.concatenate([[0], np.cumsum(sizes)])
    offsets = pages[: first[-1]] * np.repeat(pitch, sizes)
    has = sizes > 0
    mine["pages"][has] = offsets.ctypes.data + 8 * first[:-1][has]
    out[pick] = mine
    return out, offsets


def gathered(rows: Rows) -> int:
    """Entries that the tables of all LOADXs of resolved rows have together."""
    return int(_table_sizes(rows).sum())


def _table_sizes(rows: Rows) -> Rows:
    """Entries of each row's table; 0 if it has none, or moves no bytes."""
    moves = rows[:, R_SLOT + 4 : R_SLOT + 8].min(axis=1, initial=1 << 31) > 0
    return np.where((rows[:, R_OPCODE] == _LOADX) & moves, rows[:, R_SLOT + 7], 0)
