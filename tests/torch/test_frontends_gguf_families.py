"""GGUF files of every family: written from transformers' weights, loaded by us, equal logits.

Tensor names come from the gguf package's own table. What llama.cpp's converter does to weights is
done here by hand: Llama's query and key rows go to interleaved order, Gemma's norms get 1 added.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tests.torch.test_frontends_llm import expected, make, ours, random_ids

from mellivora.errors import ModelError
from mellivora.frontends.llm import load_model

torch.set_num_threads(1)
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2,
    "gemma3": gguf.MODEL_ARCH.GEMMA3,
}
# GGUF has no key for these: llama.cpp knows them of the family.
FIXED: dict[str, dict[str, Any]] = {
    "gemma2": {"query_pre_attn_scalar": 32, "num_hidden_layers": 2},
    "gemma3": {
        "query_pre_attn_scalar": 32,
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    },
}


def write_gguf(model: Any, family: str, path: Path, **extra: float) -> None:
    """The model in F32, keys and tensors as llama.cpp's converter writes them."""
    c = model.config
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_key_length(c.head_dim if hasattr(c, "head_dim") else 16)
    rope = c.rope_parameters
    rope = rope.get("full_attention", rope)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if family in ("gemma2", "gemma3"):
        writer.add_sliding_window(c.sliding_window)
    if family == "gemma2":
        writer.add_attn_logit_softcapping(c.attn_logit_softcapping)
        writer.add_final_logit_softcapping(c.final_logit_softcapping)
    names = gguf.get_tensor_name_map(ARCHITECTURES[family], c.num_hidden_layers)
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        array = parameter.numpy().copy()
        if family.startswith("gemma") and "norm" in name:
            array += 1
        if family == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = c.num_attention_heads if ".q_proj." in name else c.num_key_value_heads
            split = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
            array = np.ascontiguousarray(split.swapaxes(1, 2)).reshape(array.shape)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")), array)
    if family == "llama" and rope["rope_type"] == "llama3":
        factors = 1.0 / model.model.rotary_emb.inv_freq.numpy()
        plain = rope["rope_theta"] ** (np.arange(0, 16, 2, dtype=np.float64) / 16)
        writer.add_tensor("rope_freqs.weight", (factors / plain).astype(np.float32))
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()


@pytest.mark.parametrize("name", ["llama", "llama3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"])
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    family = "llama" if name == "llama3" else name
    reference = make(name, tmp_path, **FIXED.get(name, {}))
    write_gguf(reference, family, tmp_path / "model.gguf")
    ids = random_ids(96)
    logits, bound = expected(reference, ids)
    model = load_model(tmp_path / "model.gguf")
    assert model.config.architecture == family
    assert np.abs(ours(model, ids) - logits).max() <= bound
    assert model.notes == ["no tokenizer in the file: the model takes and gives token ids only"]


def test_quantised_query_rows_are_unpermuted(tmp_path: Path) -> None:
    """Rows move with their codes, scales and minima: equal to un-permuting dequantised rows."""
    source = Path(load_model("smollm2", shapes_only=True).source)
    graph = load_model(source).graph
    reader = gguf.GGUFReader(source)
    for tensor in reader.tensors[:12]:
        part = {"blk.0.attn_q.weight": "q", "blk.0.attn_k.weight": "k"}.get(tensor.name)
        if part:
            values = gguf.dequantize(tensor.data, tensor.tensor_type)
            halves = values.reshape(-1, 32, 2, 576).swapaxes(1, 2).reshape(-1, 576)
            got = graph.params[f"layers.0.{part}"]
            assert not isinstance(got, np.ndarray)
            np.testing.assert_array_equal(got.dequantize(), halves)


def test_unknown_architecture_lists_the_known(tmp_path: Path) -> None:
    reference = make("qwen2", tmp_path)
    write_gguf(reference, "qwen2", tmp_path / "model.gguf")
    content = (tmp_path / "model.gguf").read_bytes().replace(b"qwen2", b"mamba")
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_model(tmp_path / "model.gguf")
    assert caught.value.code == "MV0253"
    assert "qwen3" in caught.value.allowed
