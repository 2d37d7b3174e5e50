"""Small random models of the families that the frontends know, head by head different."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mellivora import numerics
from mellivora.frontends.llm_config import LlmConfig, RopeScaling
from mellivora.frontends.llm_graph import build_graph, parameter_shapes
from mellivora.graph.ir import Graph

SMALL: dict[str, Any] = {
    "architecture": "llama",
    "layers": 2,
    "hidden": 64,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 32,
    "ffn": 96,
    "vocab": 160,
    "context": 512,
    "norm_eps": 1e-6,
    "rope_theta": 10_000.0,
}
GEMMA: dict[str, Any] = {
    "activation": "gelu_tanh",
    "embedding_scale": 8.0,
    "norm_offset": 1.0,
    "post_norms": True,
    "tie_embeddings": True,
    "window": 40,
    "window_layers": (True, False),
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama3-rope": {
        "rope_theta": 500_000.0,
        "rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_context=64),
        "heads": 6,
        "kv_heads": 3,  # divides no number of cores of a preset
    },
    "mha-biases": {
        "kv_heads": 4,
        "qkv_bias": True,
        "o_bias": True,
        "mlp_bias": True,
    },
    "qwen2": {"qkv_bias": True, "tie_embeddings": True, "head_dim": 64, "kv_heads": 1},
    "qwen3": {"qk_norm": True, "head_dim": 64},
    "gemma2": {**GEMMA, "attention_softcap": 50.0, "logit_softcap": 30.0, "attention_scale": 0.2},
    "gemma3": {
        **GEMMA,
        "qk_norm": True,
        "rope_theta": 1_000_000.0,
        "rope_local_theta": 10_000.0,
        "rope_scaling": RopeScaling(kind="linear", factor=8.0),
        "head_dim": 64,
        "kv_heads": 1,
    },
}


def config(family: str, **changes: Any) -> LlmConfig:
    return LlmConfig(**{**SMALL, **FAMILIES[family], **changes})


def random_graph(
    of: LlmConfig, *, seed: int = 0, formats: Mapping[str, str] | None = None
) -> Graph:
    """Normal weights with each row's sum of squares near 1, norms near 1, biases of some weight.

    formats: of a parameter, by the last part of its name; "" for all other matrices.
    """
    generator = np.random.default_rng(seed)
    params: dict[str, Any] = {}
    for name, shape in parameter_shapes(of):
        if name == "rope_factors":
            continue  # worked out by the graph
        if len(shape) == 1:
            center = 0.0 if name.endswith("bias") else 1.0
            params[name] = (center + 0.3 * generator.standard_normal(shape)).astype(np.float32)
            continue
        values = (generator.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
        if name == "embed":
            values *= np.float32(np.sqrt(shape[1]) / of.embedding_scale)
        fmt = (formats or {}).get(name.rsplit(".", 1)[-1], (formats or {}).get("", "f32"))
        params[name] = values if fmt == "f32" else numerics.quantize(values, fmt)
    return build_graph(of, params, name=of.architecture)
