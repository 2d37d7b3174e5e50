"""Graphs of Hugging Face folders and GGUF files against transformers, in FP32.

Each family is a tiny model with random weights (norms and biases too), saved by `save_pretrained`,
loaded by us and run by the graph interpreter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from mellivora.frontends.llm import LanguageModel, load_model
from mellivora.graph.interpret import Interpreter
from mellivora.graph.kv_cache import KVCache

torch.set_num_threads(1)
ROWS, WINDOW = 24, 5
UNIT = 2.0**-24  # half an ulp of 1.0 in float32

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
TIED = SMALL | {"tie_word_embeddings": True}
WIDE_HEAD = TIED | {"head_dim": 32, "query_pre_attn_scalar": 24}

MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (hf.LlamaConfig, hf.LlamaForCausalLM, SMALL | {"attention_bias": True}),
    "llama3": (hf.LlamaConfig, hf.LlamaForCausalLM, TIED | {"rope_parameters": LLAMA3_ROPE}),
    "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM, SMALL),
    "qwen2-window": (
        hf.Qwen2Config,
        hf.Qwen2ForCausalLM,
        SMALL | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, TIED),
    "gemma": (hf.GemmaConfig, hf.GemmaForCausalLM, TIED),
    "gemma2": (
        hf.Gemma2Config,
        hf.Gemma2ForCausalLM,
        WIDE_HEAD
        | {
            "sliding_window": WINDOW,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        hf.Gemma3TextConfig,
        hf.Gemma3ForCausalLM,
        WIDE_HEAD
        | {
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": GEMMA3_ROPE,
        },
    ),
}


def make(name: str, folder: Path, **changes: Any) -> Any:
    """A transformers model with random weights, saved to `folder`."""
    config_class, model_class, fields = MODELS[name]
    torch.manual_seed(7)
    model = model_class(config_class(**(fields | changes), attn_implementation="eager")).eval()
    gemma = name.startswith("gemma")
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            centre = 1.0 if "norm" in key and not gemma else 0.0
            parameter.normal_(centre, 0.15)
    model.save_pretrained(folder)
    return model


def expected(model: Any, ids: list[int]) -> tuple[np.ndarray, float]:
    """Logits [rows, vocab] by transformers in FP32, and how far another FP32 run may be from them.

    First order, by Higham's gamma_n = n u: along the deepest path a value passes, in each layer,
    three norms and four matrix products as long as the hidden size, one as long as the FFN, one as
    long as a head, one as long as the context, and fewer than 64 single operations. Each of those n
    roundings is worth u relative to the sum of magnitudes, which at the logits is |x| |W|^T. Both
    runs may err by that, so the bound is 2 n u max(|x| |W|^T). A softcap only shrinks it.
    """
    c = model.config
    with torch.no_grad():
        x = model.model(torch.tensor([ids])).last_hidden_state[0]
        logits = model(torch.tensor([ids])).logits[0].numpy()
        magnitude = (x.abs() @ model.lm_head.weight.abs().T).max().item()
    per_layer = 7 * c.hidden_size + c.intermediate_size + c.head_dim + len(ids) + 64
    roundings = c.num_hidden_layers * per_layer + 2 * c.hidden_size
    return logits, 2 * roundings * UNIT * magnitude


def ours(model: LanguageModel, ids: list[int], *, chunks: int = 1) -> np.ndarray:
    """Logits [rows, vocab] by the graph interpreter, the prompt in as many pieces as asked for."""
    interpreter, state = Interpreter(model.graph), KVCache()
    rows = np.arange(len(ids), dtype=np.int32)
    pieces = [
        interpreter.run({"ids": np.array(ids, np.int32)[part], "positions": part}, state=state)
        for part in np.array_split(rows, chunks)
    ]
    return np.concatenate([piece["logits"] for piece in pieces])


def random_ids(vocab: int, rows: int = ROWS) -> list[int]:
    return np.random.default_rng(3).integers(0, vocab, rows).tolist()


@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    reference = make(name, tmp_path)
    ids = random_ids(96)
    logits, bound = expected(reference, ids)
    model = load_model(tmp_path)
    for chunks in (1, 3):
        assert np.abs(ours(model, ids, chunks=chunks) - logits).max() <= bound


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 20_000.0}}),
        ("llama3", {"rope_parameters": LLAMA3_ROPE | {"factor": 4.0}}),
        ("qwen2-window", {"sliding_window": WINDOW + 1}),
        ("gemma2", {"attn_logit_softcapping": 3.0}),
        ("gemma2", {"query_pre_attn_scalar": 32}),
        ("gemma3", {"sliding_window": WINDOW + 1}),
        ("gemma3", {"layer_types": ["full_attention", "full_attention", "sliding_attention"]}),
    ],
)
def test_bound_notices_a_wrong_constant(name: str, change: dict[str, Any], tmp_path: Path) -> None:
    """The bound is narrow enough: each of these small mistakes exceeds it."""
    make(name, tmp_path)
    other = make(name, tmp_path / "other", **change)
    ids = random_ids(96)
    logits, bound = expected(other, ids)
    assert np.abs(ours(load_model(tmp_path), ids) - logits).max() > bound


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_bfloat16_and_sharded_folder(name: str, tmp_path: Path) -> None:
    """BF16 weights widen exactly; several shards with an index are one model."""
    reference = make(name, tmp_path / "whole").to(torch.bfloat16)
    reference.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    ids = random_ids(96)
    wide = type(reference).from_pretrained(tmp_path / "shards", dtype=torch.float32)
    logits, bound = expected(wide.eval(), ids)
    assert np.abs(ours(load_model(tmp_path / "shards"), ids) - logits).max() <= bound


def test_the_packaged_tiny_model() -> None:
    model = load_model("tiny")
    reference = hf.AutoModelForCausalLM.from_pretrained(model.source, dtype=torch.float32).eval()
    assert model.tokenizer is not None
    ids = model.tokenizer.encode("My lord, the king is come to see the play.")
    logits, bound = expected(reference, ids)
    assert np.abs(ours(model, ids) - logits).max() <= bound
    assert model.tokenizer.decode(ids) == "My lord, the king is come to see the play."


def test_smollm2_logits_equal_transformers() -> None:
    """The real checkpoint: Q4_1 and Q8_0 weights, exact in FP32, un-permuted rotary rows."""
    model = load_model("smollm2")
    path = Path(model.source)
    reference = hf.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()
    assert model.tokenizer is not None
    ids = model.tokenizer.encode("The capital of France is")
    with torch.no_grad():
        logits = reference(torch.tensor([ids])).logits[0].numpy()
        x = reference.model(torch.tensor([ids])).last_hidden_state[0]
        magnitude = (x.abs() @ reference.lm_head.weight.abs().T).max().item()
    c = model.config
    # As in `expected`, but errors of 30 layers are independent: they grow with the square root of
    # the count of roundings (each at most u, six standard deviations).
    per_layer = 7 * c.hidden + c.ffn + c.head_dim + len(ids) + 64
    bound = 2 * 6 * (c.layers * per_layer + 2 * c.hidden) ** 0.5 * UNIT * magnitude
    got = ours(model, ids)
    assert np.abs(got - logits).max() <= bound
    assert model.tokenizer.decode([int(got[-1].argmax())]) == " Paris"
