"""What every row does, counted: multiply-accumulates, lane operations, bytes. Rooflines and
energy stand on it.

MATRIX and VECTOR counts are exact; bytes of the scratchpad are an estimate from operand sizes (a
hardware that reads whole rows of a bank moves more), good for energy, not for timing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mellivora.isa.encoding import R_OPCODE
from mellivora.isa.latency import dma_bytes, slot
from mellivora.isa.modes import B_DWORDS, B_SCALE_BYTES, BFormat, Kind, Reduce, passes
from mellivora.isa.table import BY_NAME

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

Rows = npt.NDArray[np.int64]

WORK = np.dtype(
    [
        (name, "<i8")
        for name in (
            "macs",  # 8-bit multiply-accumulates, every pass counted
            "scale_ops",  # FP32 scale and accumulate steps of MATRIX, one for 32 macs
            "vector_ops",  # FP32 operations on one element in a lane
            "read_bytes",  # asked of DRAM by LOAD, LOADM and LOADX
            "write_bytes",
            "sram_bytes",  # scratchpad bytes read and written
            "accumulator_bytes",
            "exchange_bytes",  # brought into this core by EXCH
        )
    ]
)
"""Work of one row on its core."""

_DEQ_BYTES = np.array(
    [2, 2, 1, 2, 3, 1, 1, 1, 4, 1], np.int64
)  # by modes.Deq; 4-bit codes rounded up
_STORE_BYTES = np.array([0, 1, 2, 3, 2, 2, 1, 0], np.int64)  # by modes.Store


def row_work(rows: Rows, chip: ChipSpec) -> npt.NDArray[np.void]:
    """Work [n] (dtype WORK) of resolved rows [n, RESOLVED_FIELDS]."""
    out = np.zeros(len(rows), WORK)
    opcode = rows[:, R_OPCODE]
    for name, count in _COUNTS.items():
        pick = np.flatnonzero(opcode == BY_NAME[name].opcode)
        if len(pick):
            some = rows[pick]
            for field, values in count(some, chip).items():
                out[field][pick] = values
    return out


def _load(rows: Rows, chip: ChipSpec) -> dict[str, Rows]:
    moved = np.maximum(dma_bytes(rows), 0)
    return {"read_bytes": moved, "sram_bytes": moved}


def _gather(rows: Rows, chip: ChipSpec) -> dict[str, Rows]:
    moved = np.maximum(dma_bytes(rows), 0)
    return {"read_bytes": moved, "sram_bytes": moved + 4 * slot(rows, 7) * (moved > 0)}


def _store(rows: Rows, chip: ChipSpec) -> dict[str, Rows]:
    moved = np.maximum(dma_bytes(rows), 0)
    return {"write_bytes": moved, "sram_bytes": moved}


def _exchange(rows: Rows, chip: ChipSpec) -> dict[str, Rows]:
    part = np.maximum(slot(rows, 2), 0) * np.maximum(slot(rows, 4), 0)
    return {"exchange_bytes": part * (chip.cores - 1), "sram_bytes": part * (1 + chip.cores)}


def _matmul(rows: Rows, chip: ChipSpec) -> dict[str, Rows]:
    m, blocks, n = (np.maximum(slot(rows, index), 0) for index in (4, 5, 6))
    modes = slot(rows, 7) & 255  # format and slices
    count, a_bytes, b_bytes = (np.zeros(len(rows), np.int64) for _ in range(3))
    for mode in np.unique(modes):
        fmt, pairs = BFormat(int(mode) & 15), passes(int(mode) >> 4 & 3, int(mode) >> 6 & 3)
        pick = modes == mode
        loads = sum(i == 0 or pairs[i][1] != pairs[i - 1][1] for i in range(len(pairs)))
        column = (32 if fmt == BFormat.ROWS else 4 * B_DWORDS[fmt]) + B_SCALE_BYTES[fmt]
        count[pick] = len(pairs)
        a_bytes[pick] = len(pairs) * 33
        b_bytes[pick] = loads * column
    steps = count * m * n * blocks
    return {
        "macs": 32 * steps,
        "scale_ops": steps,
        "sram_bytes": blocks * (a_bytes * m + b_bytes * n) * (m > 0),
        "accumulator_bytes": 8 * steps,
    }


def _vew(rows: Rows, chip: ChipSpec) -> dict[str, Rows]:
    size = np.maximum(slot(rows, 4), 0) * np.maximum(slot(rows, 5), 0)
    fn, kinds = slot(rows, 6), slot(rows, 7)
    first, second, last = fn & 7, fn >> 3 & 7, fn >> 6 & 15
    stages = (first > 0).astype(np.int64) + (second > 0) + (last > 0)
    tensors = ((first > 0) & (kinds & 3 == Kind.TENSOR)).astype(np.int64)
    tensors += (second > 0) & (kinds >> 2 & 3 == Kind.TENSOR)
    return {"vector_ops": size * np.maximum(stages, 1), "sram_bytes": 4 * size * (2 + tensors)}


def _vred(rows: Rows, chip: ChipSpec) -> dict[str, Rows]:
    m = np.maximum(slot(rows, 2), 0)
    size = m * np.maximum(slot(rows, 3), 0)
    return {
        "vector_ops": size * np.where(slot(rows, 4) == Reduce.SUMSQ, 2, 1),
        "sram_bytes": 4 * (size + m),
    }


def _vquant(rows: Rows, chip: ChipSpec) -> dict[str, Rows]:
    size = np.maximum(slot(rows, 4), 0) * np.maximum(slot(rows, 5), 0)
    mode = slot(rows, 6)
    product, wide = mode >> 4 & 1, mode >> 3 & 1
    read = 4 * (1 + (product & (mode >> 5 & 3 == Kind.TENSOR))) * (1 + wide)
    return {
        "vector_ops": size * (1 + product),
        "sram_bytes": size * (read + _STORE_BYTES[mode & 7]),
    }


def _vdeq(rows: Rows, chip: ChipSpec) -> dict[str, Rows]:
    size = np.maximum(slot(rows, 3), 0) * np.maximum(slot(rows, 4), 0)
    fmt = np.clip(slot(rows, 5), 0, len(_DEQ_BYTES) - 1)
    return {"vector_ops": size, "sram_bytes": size * (4 + _DEQ_BYTES[fmt])}


_COUNTS = {
    "load": _load,
    "loadm": _load,
    "loadx": _gather,
    "store": _store,
    "exch": _exchange,
    "matmul": _matmul,
    "vew": _vew,
    "vred": _vred,
    "vquant": _vquant,
    "vdeq": _vdeq,
}
