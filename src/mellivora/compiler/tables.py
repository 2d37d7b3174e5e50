"""The TABLES window: rotary tables, zeros, and the embedding's rows.

A rotary table has the row [cos of head_dim/2 | sin of head_dim/2] for each position, one table for
each (theta, divisor) that the model's layers use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mellivora import numerics
from mellivora.compiler.pack import B_FORMAT, SLICES, Bytes, Weights, row_table
from mellivora.compiler.plan import DecoderPlan
from mellivora.compiler.rounding import round_up
from mellivora.errors import CompileError


@dataclass
class Tables:
    """Offsets (bytes) in the TABLES window: rotary tables by (theta, divisor), zeros, embedding."""

    rope: dict[tuple[float, str | None], int]
    zeros: int
    embed: int
    embed_pitch: int
    embed_format: str
    size: int


def plan_tables(plan: DecoderPlan, weights: Weights, head_dim: int, context: int) -> Tables:
    """Where rotary tables, zeros and embedding rows lie. Raises CompileError MV0425."""
    at, rope = 0, {}
    for layer in plan.layers:
        if layer.rope not in rope:
            rope[layer.rope] = at
            at += context * head_dim * 4
    zeros, at = at, at + (1 << 16)
    fmt = weights.fmt(plan.embed)
    codes = {"q4_0": 16, "q4_1": 16, "mxfp4": 16, "mxfp6": 24}.get(fmt, 32 * SLICES.get(fmt, 1))
    scale = {"q8_0": 2, "q4_0": 2, "q4_1": 4}.get(fmt, 1)
    if fmt in ("mxfp4", "mxfp6"):
        raise CompileError(
            "MV0425",
            "an embedding table of this format has no converter",
            where=plan.embed,
            given=fmt,
            allowed=", ".join(f for f in B_FORMAT if f not in ("mxfp4", "mxfp6")),
            hint="quantise the embedding to mxint8",
        )
    pitch = round_up(plan.hidden // 32 * (codes + scale), 32)
    rows = weights.shape(plan.embed)[0]
    return Tables(rope, zeros, at, pitch, fmt, at + rows * pitch)


def tables_image(
    tables: Tables, plan: DecoderPlan, weights: Weights, head_dim: int, context: int
) -> Bytes:
    """The bytes of the TABLES window."""
    out = np.zeros(tables.size, np.uint8)
    for (theta, divisor), at in tables.rope.items():
        factors = None if divisor is None else weights.vector(divisor)
        table = rope_table(theta, factors, head_dim, context)
        out[at : at + table.nbytes] = table.reshape(-1).view(np.uint8)
    rows, pitch = row_table(weights.matrix(plan.embed))
    assert pitch == tables.embed_pitch
    out[tables.embed :] = rows.reshape(-1)
    return out


def rope_table(
    theta: float, factors: npt.NDArray[np.float32] | None, head_dim: int, context: int
) -> npt.NDArray[np.float32]:
    """[context][cos of head_dim/2 | sin of head_dim/2], angles in FP32 as models have them."""
    frequency = numerics.inverse_powers(theta, head_dim // 2)
    if factors is not None:
        frequency = frequency / factors
    angle = np.arange(context, dtype=np.float32)[:, None] * frequency[None, :]
    return np.concatenate(numerics.cos_sin(angle), axis=1)
