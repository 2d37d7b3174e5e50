"""The small model of our own: the folder is sound, transformers reads it, its text is stable."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

torch.set_num_threads(1)  # two threads gain nothing at this size and lose much on a busy machine

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "src" / "mellivora" / "models" / "tiny"
HELD_OUT = Path(__file__).parent / "data" / "tiny_held_out.txt"
PROMPT = "KING RICHARD III:\n"
GREEDY_TEXT = """Say, I have done, and bear the queen's death.

QUEEN ELIZABETH:
So far for myself, my lord,
I'll not be a king, and I'll bear thee,
And leave me"""


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def trainer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_tiny", ROOT / "examples" / "train_tiny.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_transformers_finds_every_weight_and_no_other() -> None:
    load: Any = AutoModelForCausalLM.from_pretrained
    loaded, info = load(FOLDER, output_loading_info=True)
    assert type(loaded) is LlamaForCausalLM
    assert {name: list(found) for name, found in info.items() if found} == {}


def test_size_and_shapes_keep_their_promises() -> None:
    with safe_open(FOLDER / "model.safetensors", framework="pt") as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    assert sum(tensor.numel() for tensor in tensors.values()) == 289_440  # at most 300,000
    assert (FOLDER / "model.safetensors").stat().st_size <= 1_000_000
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert all(size % 32 == 0 for tensor in tensors.values() for size in tensor.shape)


def test_every_size_of_the_configuration_is_a_multiple_of_a_block() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    sizes = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "head_dim",
        "max_position_embeddings",
    )
    assert [config[size] % 32 for size in sizes] == [0] * len(sizes)
    assert config["rope_theta"] == 10_000


def test_the_trainer_and_the_folder_describe_the_same_model(
    model: Any, trainer: ModuleType
) -> None:
    ours, theirs = trainer.CONFIG.to_dict(), model.config.to_dict()
    by_the_file = {"architectures", "dtype", "initializer_range", "_name_or_path"}
    assert {key for key in ours if ours[key] != theirs.get(key)} <= by_the_file


def test_tokenizer_gives_back_any_printable_text(tokenizer: Tokenizer) -> None:
    text = "".join(map(chr, range(0x20, 0x7F))) + "\n\tTo be, or not to be:\n\n  that is 42!"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert max(ids) < tokenizer.get_vocab_size() == 512
    assert 0 not in ids


def test_tokenizer_marks_what_it_does_not_know(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a\u00e9b").ids  # one character, two bytes
    assert ids == [*tokenizer.encode("a").ids, 0, 0, *tokenizer.encode("b").ids]


def test_transformers_tokenizes_alike(tokenizer: Tokenizer) -> None:
    text = HELD_OUT.read_text(encoding="utf-8")
    assert AutoTokenizer.from_pretrained(FOLDER)(text).input_ids == tokenizer.encode(text).ids


@torch.inference_mode()
def test_held_out_loss(model: Any, tokenizer: Tokenizer, trainer: ModuleType) -> None:
    """Two windows of 512 from the tenth of the text that training never saw; perplexity 17.3.

    The figure was computed in FP64; FP32 differs from it by 8e-8 and BF16 by 8e-4, so 1e-5 lets any
    order of FP32 summation pass and nothing coarser.
    """
    ids = torch.tensor(tokenizer.encode(HELD_OUT.read_text(encoding="utf-8")).ids)
    assert trainer.held_out_loss(model, ids, 512) == pytest.approx(2.850797, abs=1e-5)


@torch.inference_mode()
def test_greedy_text_is_stable(model: Any, tokenizer: Tokenizer) -> None:
    """64 tokens, the same with a KV cache as by scoring the finished text at once.

    No step is a near tie: the best logit leads by 0.0229, thousands of times the FP32 error.
    """
    prompt = torch.tensor([tokenizer.encode(PROMPT).ids])
    whole = model.generate(prompt, max_new_tokens=64, do_sample=False)
    assert tokenizer.decode(whole[0, prompt.shape[1] :].tolist()) == GREEDY_TEXT
    best = model(whole).logits[0, prompt.shape[1] - 1 : -1].topk(2)
    assert best.indices[:, 0].tolist() == whole[0, prompt.shape[1] :].tolist()
    assert (best.values[:, 0] - best.values[:, 1]).min() > 0.02


def test_training_is_deterministic_and_learns(trainer: ModuleType) -> None:
    ids = torch.arange(4096) % 64  # a text that is easy to learn
    seen: list[float] = []
    options = {"steps": 12, "tokens_per_step": 1024, "learning_rate": 1e-2, "seed": 3}
    runs = [
        trainer.train(
            ids, **options, checkpoint=lambda step, length, model, loss: seen.append(loss)
        ).state_dict()
        for _ in range(2)
    ]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert seen[0] == seen[1]
    start = trainer.train(ids, **options | {"steps": 1}, checkpoint=lambda *_: None)
    trained = LlamaForCausalLM(trainer.CONFIG)
    trained.load_state_dict(runs[0])
    losses = [trainer.held_out_loss(network, ids, 512) for network in (trained, start)]
    assert losses[0] < losses[1] - 1.0
