"""Sizes about an engine's tile, tiles in memory, and the bytes of DRAM that programs work on."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from mellivora.isa.encoding import ACCUMULATOR_BASE

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71)
FLOATS, SCALES, BYTES = "f", "e", "b"
"""What a stretch of memory is best read as; anything may be read as anything."""
INPUT_BYTES = 4096
MOST_PAGE = 11
TABLE_ENTRIES, WRONG_ENTRIES = 96, 32
"""INT32 page numbers behind the input: up to MOST_PAGE, then some of which a few are wrong."""
TABLE_BYTES = 4 * (TABLE_ENTRIES + WRONG_ENTRIES)
_SPECIAL = np.array(
    [0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 3e38, -3e38, 1, 0.5, 2**-126], np.float32
)


class Stretch(NamedTuple):
    """Written bytes in a row."""

    address: int
    size: int
    kind: str


def size(pick: random.Random, tile: int, most: int, *, none: float = 0.07) -> int:
    """A size of at most `most`: nothing, 1, about `tile`, a prime, or any."""
    chance = pick.random()
    if chance < none:
        return 0 if chance > none / 4 else -pick.choice((1, 2, tile, 1 << 31))
    prime = next((p for p in pick.sample(_PRIMES, 6) if tile + 1 < p <= most), 5)
    near = (1, tile - 1, tile, tile + 1, prime, pick.randint(1, 2 * tile))
    fits = [one for one in near if 0 < one <= most]
    return pick.choice(fits) if fits else 1


def input_bytes(seed: int) -> npt.NDArray[np.uint8]:
    """INPUT_BYTES for loads: FP32 of middling size, E8M0 scales, any bytes, special FP32."""
    rng = np.random.Generator(np.random.PCG64(seed))
    quarter = INPUT_BYTES // 4
    out = rng.integers(0, 256, INPUT_BYTES, np.uint8)
    floats = rng.standard_normal(quarter // 2).astype(np.float32)
    floats[::16] *= np.float32(2.0) ** rng.integers(-40, 40)
    out[:quarter] = floats[: quarter // 4].view(np.uint8)
    out[quarter : 2 * quarter] = out[quarter : 2 * quarter] % 14 + 120
    special = floats[quarter // 4 :]
    at = rng.integers(0, special.size, special.size // 3)
    special[at] = _SPECIAL[rng.integers(0, _SPECIAL.size, at.size)]
    out[3 * quarter :] = special.view(np.uint8)
    return out


def table_bytes(seed: int) -> npt.NDArray[np.uint8]:
    """TABLE_BYTES of page numbers; of the last WRONG_ENTRIES every fourth is no page."""
    rng = np.random.Generator(np.random.PCG64([seed, 1]))
    pages = rng.integers(0, MOST_PAGE + 1, TABLE_ENTRIES + WRONG_ENTRIES).astype("<i4")
    wrong = np.array([-1, -(1 << 31), (1 << 31) - 1, 1 << 16], "<i4")
    pages[TABLE_ENTRIES::4] = rng.permutation(np.resize(wrong, WRONG_ENTRIES // 4))
    return pages.view(np.uint8)


def input_kind(offset: int) -> str:
    """What the input's bytes at an offset are."""
    return (FLOATS, SCALES, BYTES, FLOATS)[min(max(offset, 0) * 4 // INPUT_BYTES, 3)]


class Room:
    """Where a program works: a part of the scratchpad, and the accumulators."""

    def __init__(self, chip: ChipSpec, pick: random.Random) -> None:
        self.chip, self.pick = chip, pick
        self.size = min(8192 * max(1, chip.columns // 16), chip.sram_bytes)
        spare = chip.sram_bytes - self.size
        self.first = pick.choice((0, spare, pick.randint(0, spare) & -4))
        self.stretches: list[Stretch] = []
        self.sums: list[Stretch] = []  # in the accumulators

    def note(self, address: int, size: int, kind: str) -> None:
        """Bytes in a row have been written."""
        some = self.sums if address >= ACCUMULATOR_BASE else self.stretches
        some.append(Stretch(address, size, kind))
        if len(some) > 24:
            del some[self.pick.randrange(4, 12)]

    def longest(self) -> int:
        return max(one.size for one in self.stretches)

    def source(
        self, extent: int, kind: str, *, align: int = 1, vector: bool = False, slack: int = 0
    ) -> int | None:
        """Where `extent` written bytes lie, with `slack` more after them."""
        pick, need = self.pick, extent + slack
        if vector and self.sums and pick.random() < 0.15:
            some = [one for one in self.sums if one.size >= need]
        else:
            some = [one for one in self.stretches if one.size >= need + align - 1]
            liked = [one for one in some if one.kind == kind]
            if liked and pick.random() < 0.85:
                some = liked
        if not some:
            return None
        one = pick.choice(some)
        at = one.address + pick.choice((0, pick.randint(0, one.size - need), one.size - need))
        down = at % align
        return at - down if at - down >= one.address else at + (align - down) % align

    def place(self, extent: int, *, align: int = 1, vector: bool = False) -> int | None:
        """Where `extent` bytes may be written."""
        first, total = self.first, self.size
        if vector and self.pick.random() < 0.15:
            first, total = ACCUMULATOR_BASE, self.chip.accumulator_bytes
        if extent > total:
            return None
        at = first + self.pick.choice((self.pick.randint(0, total - extent), total - extent))
        return at - at % align
