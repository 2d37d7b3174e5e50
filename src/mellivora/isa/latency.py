"""Engine time of every instruction, in cycles, as a function of its resolved fields and the chip
alone.

One formula an instruction, vectorised over rows; the timing simulator, the manual and (through
tests) the RTL use these and no other. DRAM time is not here: LOAD and STORE give their bursts,
`sim.timing` shares them out.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mellivora.isa.encoding import DRAM_UNIT_BYTES, R_CONFIG, R_SLOT
from mellivora.isa.modes import B_DWORDS, B_SCALE_BYTES, BFormat, Func, passes

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

Rows = npt.NDArray[np.int64]
Cost = Callable[[Rows, "ChipSpec"], Rows]

DISPATCH_CYCLES = 1
SYNC_CYCLES = 1
DMA_ISSUE_CYCLES = 6
MATRIX_FILL_CYCLES = 14
"""Operand read 2, multiply and tree 4, convert and scale 3, FP32 add 3, accumulator write 2."""
OFFSET_FILL_CYCLES = 3
"""Q4_1: one FP32 addition more, of scale and offset part."""
ACCUMULATE_CYCLES = 3
"""Stages of the FP32 adder: terms of one accumulator lie so far apart."""
VECTOR_FILL_CYCLES = 10
"""Operand read 2, two binary stages of 3, write 2."""
TABLE_FILL_CYCLES = 6
"""Table read, two multiplications, normalise, round."""
REDUCE_FILL_CYCLES = 10
"""Five levels of the tree within a chunk of 32, FP32 adders of 2 cycles."""
MERGE_CYCLES = 2
"""One level of the tree over chunks of a row; they come while it streams, the last at its end."""
QUANT_FILL_CYCLES = 6
"""Largest exponent of the block, scale, round."""
PORT_READ_CYCLES, PORT_WRITE_CYCLES = 2, 5
"""Of DRAM's latency, what passes on the chip: from the memory port's grant to the bus (a read's
address, a write's address and data), and a cycle behind the answer."""


def port_rows_in_flight(chip: ChipSpec) -> int:
    """Cycles with reads, and as many with writes, between grant and answer: enough for each to
    have grants; four at least, for FIFOs have addresses."""
    return max(4, 1 << (chip.dram_latency_cycles + 1).bit_length())


def slot(rows: Rows, index: int) -> Rows:
    return rows[:, R_SLOT + index]


def config(rows: Rows, index: int) -> Rows:
    return rows[:, R_CONFIG + index]


def ceil_div(a: Rows, b: Rows | int) -> Rows:
    return -(-a // b)


def fixed(cycles: int) -> Cost:
    """A cost that does not depend on the fields."""
    return lambda rows, chip: np.full(len(rows), cycles, np.int64)


def dma(rows: Rows, chip: ChipSpec) -> Rows:
    """Issue: the whole access is checked and its contiguous dimensions are joined meanwhile."""
    return np.full(len(rows), DMA_ISSUE_CYCLES, np.int64)


def gather(rows: Rows, chip: ChipSpec) -> Rows:
    """Issue of LOADX: one entry of the table a cycle comes on top; of no bytes: none is read."""
    counts = rows[:, R_SLOT + 4 : R_SLOT + 8]
    return dma(rows, chip) + np.where(counts.min(axis=1) > 0, slot(rows, 7), 0)


def unpaged(rows: Rows) -> Rows:
    """LOADXs as if all pages were one: d3 of 0, which continues no piece."""
    same = rows.copy()
    same[:, R_CONFIG + 2] = 0
    return same


def gather_bursts(rows: Rows, chip: ChipSpec) -> Rows:
    """As if all pages were one: all begin at the same place of a burst, and none joins another."""
    return dma_bursts(unpaged(rows), chip)


def dma_bursts(rows: Rows, chip: ChipSpec) -> Rows:
    """DRAM bursts of a LOAD or STORE: what each piece touches of the aligned bursts of its window.

    A piece is n0 bytes; a dimension whose strides on both sides continue it makes it longer.
    Windows begin at a burst. Every piece asks for its bursts by itself.
    """
    size = chip.dram_burst_bytes
    run, counts, strides = joined_pieces(rows)
    pieces = counts.prod(axis=1)
    start = (slot(rows, 1) * DRAM_UNIT_BYTES + slot(rows, 2)) % size
    # Pieces begin at different places of their bursts.
    odd = ((counts > 1) & (strides % size != 0)).any(axis=1)
    bursts = pieces * ((start + run - 1) // size + 1)
    for at in np.flatnonzero(odd & (run > 0) & (pieces > 0)).tolist():
        key = tuple(zip(counts[at].tolist(), (strides[at] % size).tolist()))
        bursts[at] = _odd_bursts(int(start[at]), int(run[at]), key, size)
    least = np.min(rows[:, R_SLOT + 4 : R_SLOT + 8], axis=1)
    return np.where(least > 0, bursts, 0)


def joined_pieces(rows: Rows) -> tuple[Rows, Rows, Rows]:
    """Bytes of a piece [n], and of the dimensions above it counts [n, 3] and DRAM strides [n, 3].

    A dimension whose strides on both sides continue the piece makes it longer; its count is then 1.
    """
    run, single = slot(rows, 4).copy(), np.ones(len(rows), bool)
    counts, strides = rows[:, R_SLOT + 5 : R_SLOT + 8].copy(), rows[:, R_CONFIG : R_CONFIG + 3]
    for dim in range(3):
        joins = single & (strides[:, dim] == run) & (config(rows, 3 + dim) == run)
        run = np.where(joins, run * counts[:, dim], run)
        counts[joins, dim] = 1
        single &= counts[:, dim] == 1
    return run, counts, strides


@functools.lru_cache(maxsize=4096)
def _odd_bursts(start: int, run: int, steps: tuple[tuple[int, int], ...], size: int) -> int:
    """Bursts of pieces that begin at different places: how many begin at each, times its bursts."""
    begins = np.zeros(size, np.int64)
    begins[start] = 1
    for count, stride in steps:
        period = size // math.gcd(stride, size)
        begins = sum(
            np.roll(begins, i * stride) * (count // period + (i < count % period))
            for i in range(min(period, count))
        )
    return int((begins * ((np.arange(size) + run - 1) // size + 1)).sum())


def dma_bytes(rows: Rows) -> Rows:
    """Bytes that a LOAD or STORE moves."""
    return slot(rows, 4) * slot(rows, 5) * slot(rows, 6) * slot(rows, 7)


def exchange(rows: Rows, chip: ChipSpec) -> Rows:
    """After the last core arrives: the network's latency, then every row of every part."""
    row = ceil_div(np.maximum(slot(rows, 2), 0), chip.exchange_bytes_per_cycle)
    return chip.exchange_latency_cycles + chip.cores * np.maximum(slot(rows, 4), 0) * row


def barrier(rows: Rows, chip: ChipSpec) -> Rows:
    return np.full(len(rows), chip.exchange_latency_cycles, np.int64)


def _load_cycles(fmt: BFormat, pitch: Rows, chip: ChipSpec) -> Rows:
    """Cycles to bring a block of one slice to the columns; ROWS: up to four k-rows a cycle."""
    if fmt == BFormat.ROWS:
        return np.where(4 * pitch <= chip.columns, 8, np.where(2 * pitch <= chip.columns, 16, 32))
    return np.full(len(pitch), B_DWORDS[fmt] + (1 if B_SCALE_BYTES[fmt] else 0), np.int64)


def matmul(rows: Rows, chip: ChipSpec) -> Rows:
    """The longer of two: weights of the next block come in while rows of this one stream."""
    cycles = np.full(len(rows), MATRIX_FILL_CYCLES, np.int64)
    modes = slot(rows, 7) & 255
    for mode in np.unique(modes):
        pick = np.flatnonzero(modes == mode)
        m, blocks = slot(rows, 4)[pick], slot(rows, 5)[pick]
        load = _load_cycles(BFormat(mode & 15), config(rows, 3)[pick], chip)
        pairs = passes(int(mode) >> 4 & 3, int(mode) >> 6 & 3)
        block, previous = np.zeros(len(pick), np.int64), -1
        for _, j in pairs:
            block += np.maximum(np.maximum(m, ACCUMULATE_CYCLES), load if j != previous else 0)
            previous = j
        if mode & 15 == BFormat.Q4_1:
            cycles[pick] += OFFSET_FILL_CYCLES
        stream = np.where(blocks > 0, load + blocks * block, m)  # none: m rows are only rewritten
        cycles[pick] += np.where(m > 0, stream, 0)
    return cycles


def _beats(rows: Rows, chip: ChipSpec, row_slot: int, col_slot: int) -> Rows:
    beats = ceil_div(np.maximum(slot(rows, col_slot), 0), chip.lanes)
    return np.maximum(slot(rows, row_slot), 0) * beats


def vew(rows: Rows, chip: ChipSpec) -> Rows:
    func = slot(rows, 6) >> 6 & 15
    table = (func >= int(Func.EXP2)) & (func <= int(Func.COS))
    return VECTOR_FILL_CYCLES + np.where(table, TABLE_FILL_CYCLES, 0) + _beats(rows, chip, 4, 5)


def vred(rows: Rows, chip: ChipSpec) -> Rows:
    """The chunk results of a row are merged in pairs: one more level for each doubling."""
    chunks = np.where(slot(rows, 2) > 0, np.maximum(ceil_div(slot(rows, 3), 32), 1), 1)
    levels = np.ceil(np.log2(chunks)).astype(np.int64)
    fill = VECTOR_FILL_CYCLES + REDUCE_FILL_CYCLES
    return fill + MERGE_CYCLES * levels + _beats(rows, chip, 2, 3)


def vquant(rows: Rows, chip: ChipSpec) -> Rows:
    """A block as wide as the row is read twice: once for its scale, once to be rounded."""
    wide = (slot(rows, 6) >> 3 & 1) + 1
    return VECTOR_FILL_CYCLES + QUANT_FILL_CYCLES + wide * _beats(rows, chip, 4, 5)


def vdeq(rows: Rows, chip: ChipSpec) -> Rows:
    return VECTOR_FILL_CYCLES + _beats(rows, chip, 3, 4)
