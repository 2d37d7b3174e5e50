"""Bits of the scratchpad that flip while a program runs: single ones, mostly where they are read.

flips = random_flips(rows, chip, count=100, cycles=1000, seed=1)     for ChipSimulation.run
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mellivora.isa.encoding import ACCUMULATOR_BASE
from mellivora.isa.footprint import footprint, intervals
from mellivora.rtl.secded import CODE_BITS
from mellivora.spec import ChipSpec


def random_flips(
    rows: Sequence[npt.NDArray[np.int64]], chip: ChipSpec, *, count: int, cycles: int, seed: int
) -> npt.NDArray[np.int64]:
    """int64 [count, 4]: cycle below `cycles`, core, byte, bit of its SECDED code.

    rows: of each core, resolved. No byte has two. Three of four are in bytes that an operation
    reads, as far as there are so many: elsewhere a flip is seen by nobody.
    """
    rng = np.random.default_rng(seed)
    read = np.zeros((chip.cores, chip.sram_bytes), bool)
    for core, table in enumerate(rows):
        for row in table.tolist():
            for region in footprint(row, chip).reads:
                for low, high in intervals(region):
                    if low < ACCUMULATOR_BASE:
                        read[core, low:high] = True
    among = rng.permutation(np.flatnonzero(read))[: 3 * count // 4]
    others = np.setdiff1d(np.arange(read.size), among)
    places = np.concatenate([among, rng.choice(others, count - len(among), replace=False)])
    return np.stack(
        [
            rng.integers(0, cycles, count),
            places // chip.sram_bytes,
            places % chip.sram_bytes,
            rng.integers(0, CODE_BITS, count),
        ],
        axis=1,
    )
