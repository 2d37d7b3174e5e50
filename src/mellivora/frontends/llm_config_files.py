"""Reads an LlmConfig from a model's file: the keys of a GGUF file, or a Hugging Face config.json.

Both readers name a key that is missing, of the wrong kind or beyond what the graph can express.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mellivora.errors import ModelError
from mellivora.frontends.llm_config import MAX_COUNT, LlmConfig, RopeScaling

FAMILIES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")
GEMMA = ("gemma", "gemma2", "gemma3")
GEMMA3_LOCAL_THETA = 10_000.0  # base frequency of Gemma 3's sliding-window layers (its model card)


class _Keys:
    """Typed access to a mapping of untrusted values; faults name the key."""

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self.values, self.where, self.prefix = values, where, prefix

    def get(self, name: str, default: Any = None) -> Any:
        value = self.values.get(self.prefix + name)
        return default if value is None else value

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fault(name, value, "an integer")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fault(name, value, "a number")
        return float(value)

    def fault(self, name: str, value: Any, allowed: str) -> ModelError:
        key = self.prefix + name
        if value is None:
            return ModelError(
                "MV0251",
                f"the model's configuration lacks the key {key}",
                where=self.where,
                allowed=allowed,
                hint="check that the model file is complete and of a supported family",
            )
        return ModelError(
            "MV0252",
            f"the model's key {key} has an unsupported value",
            where=self.where,
            given=repr(value)[:80],
            allowed=allowed,
            hint="use a model of a supported family, or export it to ONNX",
        )


def unknown_architecture(name: Any, where: str) -> ModelError:
    return ModelError(
        "MV0253",
        "the model's architecture is not supported",
        where=where,
        given=repr(name)[:80],
        allowed=", ".join(FAMILIES),
        hint="use a model of a supported family, or export it to ONNX",
    )


def config_from_gguf(
    metadata: Mapping[str, Any], tensors: Mapping[str, Any], where: str
) -> LlmConfig:
    """The config of a GGUF file from its keys and its tensors' names and shapes.

    Raises ModelError MV0250 to MV0253.
    """
    family = metadata.get("general.architecture")
    if family not in FAMILIES:
        raise unknown_architecture(family, where)
    keys = _Keys(metadata, where, f"{family}.")
    if "token_embd.weight" not in tensors:
        raise keys.fault("(tensor) token_embd.weight", None, "the embedding table")
    layers, hidden = keys.integer("block_count"), keys.integer("embedding_length")
    heads = keys.integer("attention.head_count")
    head_dim = keys.integer("attention.key_length", hidden // max(heads, 1))
    if keys.integer("attention.value_length", head_dim) != head_dim:
        raise keys.fault(
            "attention.value_length", keys.get("attention.value_length"), str(head_dim)
        )
    if keys.integer("rope.dimension_count", head_dim) != head_dim:
        raise keys.fault("rope.dimension_count", keys.get("rope.dimension_count"), str(head_dim))
    gemma3 = family == "gemma3"
    # llama.cpp tells the 27B variants by their depth: 46 layers of Gemma 2, 62 of Gemma 3 scale
    # scores by hidden/heads, all others by head_dim.
    large = (family, layers) in (("gemma2", 46), ("gemma3", 62))
    window = keys.integer("attention.sliding_window", 0) if family in ("gemma2", "gemma3") else 0
    return LlmConfig(
        architecture=family,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=keys.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn=keys.integer("feed_forward_length"),
        vocab=int(tensors["token_embd.weight"].shape[0]),
        context=keys.integer("context_length"),
        norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
        rope_theta=keys.number("rope.freq_base", 1e6 if gemma3 else 1e4),
        rope_scaling=_gguf_scaling(keys, tensors),
        rope_local_theta=keys.number("rope.freq_base_swa", GEMMA3_LOCAL_THETA) if gemma3 else 0.0,
        tie_embeddings="output.weight" not in tensors,
        qkv_bias="blk.0.attn_q.bias" in tensors,
        o_bias="blk.0.attn_output.bias" in tensors,
        mlp_bias="blk.0.ffn_up.bias" in tensors,
        qk_norm="blk.0.attn_q_norm.weight" in tensors,
        attention_scale=(hidden / heads) ** -0.5 if large else 0.0,
        attention_softcap=keys.number("attn_logit_softcapping", 50.0)
        if family == "gemma2"
        else 0.0,
        logit_softcap=keys.number("final_logit_softcapping", 30.0 if family == "gemma2" else 0.0),
        window=window,
        window_layers=_gguf_window_layers(keys, family, layers) if window else (),
        **_gemma_traits(family, hidden),
    )


def _gemma_traits(family: str, hidden: int) -> dict[str, Any]:
    if family not in GEMMA:
        return {}
    return {
        "activation": "gelu_tanh",
        "embedding_scale": math.sqrt(max(hidden, 0)),
        "post_norms": family != "gemma",
    }


def _gguf_scaling(keys: _Keys, tensors: Mapping[str, Any]) -> RopeScaling:
    if "rope_freqs.weight" in tensors:
        return RopeScaling(kind="tensor")
    kind = keys.get("rope.scaling.type", "none")
    if kind == "none":
        return RopeScaling()
    if kind != "linear":
        raise keys.fault("rope.scaling.type", kind, "none, linear, or a tensor rope_freqs.weight")
    return RopeScaling(kind="linear", factor=keys.number("rope.scaling.factor"))


def _gguf_window_layers(keys: _Keys, family: str, layers: int) -> tuple[bool, ...]:
    pattern: Any = keys.get("attention.sliding_window_pattern", 2 if family == "gemma2" else 6)
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        return _every(pattern, layers)
    if isinstance(pattern, np.ndarray) and pattern.ndim == 1:
        return tuple(bool(flag) for flag in pattern.tolist())
    allowed = "a positive integer or a flag for each layer"
    raise keys.fault("attention.sliding_window_pattern", pattern, allowed)


def _every(pattern: int, layers: int) -> tuple[bool, ...]:
    """Sliding windows everywhere but in each `pattern`-th layer."""
    if layers >= MAX_COUNT >> 8:  # refused by LlmConfig; do not build the tuple
        return ()
    return tuple((i + 1) % pattern != 0 for i in range(layers))


def config_from_hf(values: Mapping[str, Any], where: str) -> LlmConfig:
    """The config of a Hugging Face config.json. Raises ModelError MV0250 to MV0253.

    Defaults are those of the family's configuration class in transformers, for old files that
    leave a key out.
    """
    names = values.get("architectures") or [values.get("model_type")]
    family = str(values.get("model_type")).removesuffix("_text")
    causal = isinstance(names, list) and str(names[0]).endswith(("ForCausalLM", family))
    if family not in FAMILIES or not causal or "text_config" in values:
        raise unknown_architecture(names, where)
    keys = _Keys(values, where)
    layers, hidden = keys.integer("num_hidden_layers"), keys.integer("hidden_size")
    heads = keys.integer("num_attention_heads")
    is_gemma = family in GEMMA
    default_dim = {"qwen3": 128, "gemma": 256, "gemma2": 256, "gemma3": 256}
    head_dim = keys.integer("head_dim", default_dim.get(family, hidden // max(heads, 1)))
    if not is_gemma and keys.get("hidden_act", "silu") != "silu":
        raise keys.fault("hidden_act", keys.get("hidden_act"), "silu")
    if keys.get("use_bidirectional_attention", False):
        raise keys.fault("use_bidirectional_attention", True, "false")
    theta, scaling, local_theta = _hf_rope(keys, family)
    window, window_layers = _hf_windows(keys, family, layers)
    bias = bool(keys.get("attention_bias", False))
    scalar = keys.number("query_pre_attn_scalar", 256.0)
    if not scalar > 0.0:
        raise keys.fault("query_pre_attn_scalar", scalar, "a positive number")
    return LlmConfig(
        architecture=family,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=keys.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        ffn=keys.integer("intermediate_size"),
        vocab=keys.integer("vocab_size"),
        context=keys.integer("max_position_embeddings"),
        norm_eps=keys.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        rope_local_theta=local_theta,
        tie_embeddings=bool(keys.get("tie_word_embeddings", is_gemma)),
        qkv_bias=bias or family == "qwen2",
        o_bias=bias and family != "qwen2",
        mlp_bias=bool(keys.get("mlp_bias", False)),
        qk_norm=family in ("qwen3", "gemma3"),
        attention_scale=scalar**-0.5 if family in ("gemma2", "gemma3") else 0.0,
        attention_softcap=_softcap(
            keys, "attn_logit_softcapping", 50.0 if family == "gemma2" else 0.0
        ),
        logit_softcap=_softcap(
            keys, "final_logit_softcapping", 30.0 if family == "gemma2" else 0.0
        ),
        window=window,
        window_layers=window_layers,
        norm_offset=1.0 if is_gemma else 0.0,
        **_gemma_traits(family, hidden),
    )


def _softcap(keys: _Keys, name: str, default: float) -> float:
    """An explicit null switches the cap off; an absent key means the family's default."""
    return keys.number(name, 0.0 if name in keys.values else default)


def _hf_rope(keys: _Keys, family: str) -> tuple[float, RopeScaling, float]:
    """Base frequency, scaling, base frequency of the windowed layers (0: the same)."""
    gemma3 = family == "gemma3"
    default = keys.number("rope_theta", 1e6 if gemma3 else 1e4)
    parameters = keys.get("rope_parameters") or keys.get("rope_scaling") or {}
    local_theta = keys.number("rope_local_base_freq", GEMMA3_LOCAL_THETA) if gemma3 else 0.0
    if not isinstance(parameters, dict):
        raise keys.fault("rope_parameters", parameters, "an object")
    if "full_attention" in parameters:
        local = parameters.get("sliding_attention") or {}
        if not isinstance(local, dict):
            raise keys.fault("rope_parameters.sliding_attention", local, "an object")
        local_theta = _Keys(local, keys.where).number("rope_theta", local_theta) if gemma3 else 0.0
        parameters = parameters["full_attention"] or {}
    if not isinstance(parameters, dict):
        raise keys.fault("rope_parameters.full_attention", parameters, "an object")
    rope = _Keys(parameters, keys.where)
    if rope.number("partial_rotary_factor", keys.number("partial_rotary_factor", 1.0)) != 1.0:
        raise keys.fault("partial_rotary_factor", "other than 1", "1")
    theta = rope.number("rope_theta", default)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, RopeScaling(), local_theta
    if kind == "linear":
        return theta, RopeScaling(kind="linear", factor=rope.number("factor")), local_theta
    if kind != "llama3":
        raise keys.fault("rope_type", kind, "default, linear, llama3")
    scaling = RopeScaling(
        kind="llama3",
        factor=rope.number("factor"),
        low_freq_factor=rope.number("low_freq_factor"),
        high_freq_factor=rope.number("high_freq_factor"),
        original_context=rope.integer("original_max_position_embeddings"),
    )
    return theta, scaling, local_theta


def _hf_windows(keys: _Keys, family: str, layers: int) -> tuple[int, tuple[bool, ...]]:
    window = keys.integer("sliding_window", 4096 if family in ("gemma2", "gemma3") else 0)
    off = family in ("qwen2", "qwen3") and not keys.get("use_sliding_window", False)
    if not window or off or family in ("llama", "gemma"):
        return 0, ()
    types = keys.get("layer_types")
    if isinstance(types, list):
        return window, tuple(kind == "sliding_attention" for kind in types)
    if family in ("qwen2", "qwen3"):
        first = keys.integer("max_window_layers", 28)
        return window, tuple(i >= first for i in range(min(layers, 1 << 20)))
    pattern = keys.integer("sliding_window_pattern", 2 if family == "gemma2" else 6)
    return window, _every(max(pattern, 1), layers)
