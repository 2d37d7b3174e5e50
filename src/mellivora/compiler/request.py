"""What is compiled: the model's plan and weights, the chip, formats and limits."""

from __future__ import annotations

from dataclasses import dataclass

from mellivora.compiler.layout import KvLayout
from mellivora.compiler.pack import Weights
from mellivora.compiler.plan import DecoderPlan
from mellivora.compiler.tables import Tables
from mellivora.spec import ChipSpec


@dataclass(frozen=True)
class Slices:
    """Eight-bit slices of each kind of activation: inputs of qkv, softmax weights, input of o, of
    gate/up and down, of the head, and the KV cache (with the queries).
    """

    qkv: int
    weights: int
    out: int
    ffn: int
    head: int
    kv: int


@dataclass
class Request:
    """What is compiled: model, chip, formats, limits."""

    plan: DecoderPlan
    weights: Weights
    chip: ChipSpec
    kv: KvLayout
    slices: Slices
    tables: Tables
    max_batch: int
    rows: int
