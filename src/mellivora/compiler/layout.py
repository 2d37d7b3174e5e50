"""Where things lie: DRAM windows, the KV cache, the parameter memory. Shared by kernels, runtime
and reports.

KV cache: [slot][layer][key head][tile of 128 tokens][K part | V part]. K is kept as MATRIX wants
its B operand (token = column, blocks along the head dimension), V as rows of one token (k = token).
Blocks lie along the head dimension, a token at a time, so nothing is ever quantised across tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from mellivora.compiler.rounding import ceil_div

TILE_TOKENS = 128
"""KV tiles start at multiples of this on every chip: part of the result, not of a preset."""
TILE_SHIFT = TILE_TOKENS.bit_length() - 1
"""CONTROL divides positions by TILE_TOKENS with a shift."""


class Win(IntEnum):
    """Window numbers of a language-model program."""

    DECODE = 0
    PREFILL = 1
    TABLES = 2
    KV = 3
    HIDDEN = 4
    LOGITS = 5


@dataclass(frozen=True)
class KvLayout:
    """Sizes in bytes; s is the number of slices."""

    layers: int
    kv_heads: int
    head_dim: int
    slices: int
    context: int

    @property
    def tiles(self) -> int:
        """Tiles a head has; one more than needed, since kernels take two at a time."""
        return 2 * ceil_div(self.context, 2 * TILE_TOKENS)

    @property
    def k_block_bytes(self) -> int:
        """One block of 32 along the head dimension: slices and scales of all tokens of a tile."""
        return TILE_TOKENS * (32 * self.slices + 1)

    @property
    def k_bytes(self) -> int:
        return self.head_dim // 32 * self.k_block_bytes

    @property
    def v_scale_at(self) -> int:
        """Offset of V's scales in a tile."""
        return self.k_bytes + self.slices * TILE_TOKENS * self.head_dim

    @property
    def tile_bytes(self) -> int:
        return self.v_scale_at + TILE_TOKENS

    @property
    def head_units(self) -> int:
        """Units of 32 bytes of one head of one layer."""
        return self.tiles * self.tile_bytes // 32

    @property
    def slot_units(self) -> int:
        return self.layers * self.kv_heads * self.head_units

    def head_offset(self, layer: int, head: int) -> int:
        """Units of 32 bytes from the slot's base."""
        return (layer * self.kv_heads + head) * self.head_units


class PrefillParam(IntEnum):
    """Parameter memory of the prefill entry."""

    ROWS = 0
    POSITION = 1
    KV_BASE = 2
    HEAD_FIRST = 3
    HEAD_ROWS = 4
    TOKEN = 16


class DecodeParam(IntEnum):
    """Parameter memory of the decode entry; arrays have one value a sequence."""

    BATCH = 0
    POSITION = 16
    KV_BASE = 80
    TOKEN = 144


MAX_BATCH = 64


def prefill_parameters(chunk: int) -> dict[str, int]:
    """Names for the program file."""
    names = {p.name.lower(): int(p) for p in PrefillParam if p != PrefillParam.TOKEN}
    return names | {f"token.{i}": PrefillParam.TOKEN + i for i in range(chunk)}


def decode_parameters(batch: int) -> dict[str, int]:
    names = {"batch": int(DecodeParam.BATCH)}
    for part in (DecodeParam.POSITION, DecodeParam.KV_BASE, DecodeParam.TOKEN):
        names |= {f"{part.name.lower()}.{i}": part + i for i in range(batch)}
    return names
