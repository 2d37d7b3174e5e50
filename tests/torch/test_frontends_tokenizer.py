"""Token ids equal to transformers', for the real SmolLM2 and for vocabularies made here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import pytest
import transformers as hf
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors, trainers

from mellivora.frontends.gguf_file import GgufFile
from mellivora.frontends.llm import load_model
from mellivora.frontends.tokenizer import Tokenizer, tokenizer_from_folder
from mellivora.frontends.tokenizer_gguf import tokenizer_from_gguf

ROOT = Path(__file__).parents[2]
ODD = (
    "  two  spaces\n\n\ttabs\r\nreturns   \n"
    "It's 12345.67 of 2026; they'LL pay $9,999 (99%)!? ... --- ***\n"
    "Gr\u00fc\u00dfe aus K\u00f6ln, \u4f60\u597d\uff0c\u4e16\u754c\uff01 "
    "\u0417\u0434\u0440\u0430\u0432\u0441\u0442\u0432\u0443\u0439 "
    "\u0645\u0631\u062d\u0628\u0627 \U0001f9a1\U0001f9a1 e\u0301 \u200d \u00a0 \u2028end\n"
    "def f(x):\n    return x**2  # code\n<|im_start|>user\nhi<|im_end|>\n<unknown>"
)


def corpus() -> str:
    """20 kB of prose, code and odd characters: from this repository and from the line above."""
    prose = (ROOT / "LICENSE").read_text("utf-8")
    code = (ROOT / "src/mellivora/frontends/tokenizer.py").read_text("utf-8")
    return prose[:9000] + ODD + code[:10000] + ODD[::-1]


def hf_ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.fixture(scope="module")
def smollm2() -> tuple[Tokenizer, Any]:
    model = load_model("smollm2", shapes_only=True)
    path = Path(model.source)
    assert model.tokenizer is not None
    return model.tokenizer, hf.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def test_smollm2_text(smollm2: tuple[Tokenizer, Any]) -> None:
    """transformers does not know the splitting rule "smollm" of a GGUF file and takes GPT-2's,
    which treats spaces before a digit in another way than the model's own rule (digits one by one,
    then GPT-2's). So: equal as it is on text without them, equal on all text with that rule.
    """
    ours, theirs = smollm2
    text = corpus()
    assert len(text) > 19_000
    without = re.sub(r"\s+(?=\d)", " ", text)
    ids = ours.encode(text)
    assert ours.encode(without) == hf_ids(theirs, without)
    backend = Backend.from_str(theirs.backend_tokenizer.to_str())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    )
    assert ids == backend.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids, skip_special=False) == text
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_smollm2_chat(smollm2: tuple[Tokenizer, Any], add_generation_prompt: bool) -> None:
    ours, theirs = smollm2
    for messages in (
        [{"role": "user", "content": "What is the capital of France?"}],
        [
            {"role": "system", "content": "You are a badger.\n"},
            {"role": "user", "content": "  \U0001f9a1 who are you?"},
            {"role": "assistant", "content": "A badger."},
            {"role": "user", "content": '<b>Prove</b> it & "quote"'},
        ],
    ):
        wanted = theirs.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, return_dict=True
        ).input_ids
        assert ours.encode_chat(messages, add_generation_prompt) == wanted


def trained_byte_level() -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE of 600 tokens, trained on the licence."""
    backend = Backend(models.BPE())
    # No splitting by a rule: merges then cross every boundary that a splitting rule would keep.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=8,
    )
    backend.train_from_iterator([corpus(), "1234 12 34 1 2's 'll 'LL\n\n\r\n  \n" * 50], trainer)
    vocabulary = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    merges = json.loads(backend.to_str())["model"]["merges"]
    return [token for token, _ in vocabulary], [" ".join(merge) for merge in merges]


def write_tokenizer(path: Path, architecture: str, **keys: Any) -> None:
    """A GGUF file with a tokenizer and nothing else."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(1)
    for name, value in keys.items():
        getattr(writer, f"add_{name}")(value)
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()


@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2", "gpt-2"])
def test_splitting_rules(pre: str, tmp_path: Path) -> None:
    tokens, merges = trained_byte_level()
    control = ["<|im_start|>", "<|im_end|>"]
    write_tokenizer(
        tmp_path / "t.gguf",
        "qwen2",
        tokenizer_model="gpt2",
        tokenizer_pre=pre,
        token_list=[*tokens, *control],
        token_types=[1] * len(tokens) + [3, 3],
        token_merges=merges,
        eos_token_id=len(tokens) + 1,
    )
    ours = tokenizer_from_gguf(GgufFile(tmp_path / "t.gguf").metadata, "t.gguf")
    theirs = hf.AutoTokenizer.from_pretrained(tmp_path, gguf_file="t.gguf")
    ids = ours.encode(corpus())
    assert ids == hf_ids(theirs, corpus())
    assert ours.decode(ids, skip_special=False) == corpus()
    assert ours.eos_ids == (len(tokens) + 1,)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_sentencepiece(architecture: str, tmp_path: Path) -> None:
    """Scores, no merges; every byte has a token; spaces become marks.

    Of transformers' builders, Phi-3's puts a space before every text as SentencePiece does; Llama's
    leaves it out before a text that begins with one.
    """
    words = [
        "the",
        "\u2581the",
        "\u2581li",
        "cen",
        "se",
        "\u2581licen",
        "\u2581license",
        "\u2581th",
    ]
    letters = sorted({c.replace(" ", "\u2581") for c in corpus() if c.isascii() and c != "\n"})
    pairs = [a + b for a in letters[20:60] for b in letters[30:60]]
    specials = ["<unk>", "<s>", "</s>"]
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    spaces = ["  ", "   "] if architecture == "gemma2" else ["\u2581\u2581", "\u2581\u2581\u2581"]
    plain = list(dict.fromkeys([*words, *spaces, *pairs, *letters]))
    # SentencePiece orders its pieces by score, the best first.
    for name, family in ("ours", architecture), ("theirs", architecture.replace("llama", "phi3")):
        write_tokenizer(
            tmp_path / f"{name}.gguf",
            family,
            tokenizer_model="llama",
            token_list=[*specials, *pieces, *plain],
            token_scores=[0.0] * 259 + [-float(i) for i in range(len(plain))],
            token_types=[2, 3, 3] + [6] * 256 + [1] * len(plain),
            bos_token_id=1,
            eos_token_id=2,
            unk_token_id=0,
        )
    ours = tokenizer_from_gguf(GgufFile(tmp_path / "ours.gguf").metadata, "ours.gguf")
    theirs = hf.AutoTokenizer.from_pretrained(tmp_path, gguf_file="theirs.gguf")
    for text in (corpus(), " leading", "the license", "  two", "\U0001f9a1"):
        ids = ours.encode(text, add_bos=False)
        assert ids == hf_ids(theirs, text)
        assert ours.decode(ids) == text
    assert ours.encode("the")[0] == 1


@pytest.mark.parametrize("bos", [True, False])
def test_folder(bos: bool, smollm2: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    """tokenizer.json and its companions, written by transformers."""
    _, theirs = smollm2
    theirs.save_pretrained(tmp_path)
    if bos:
        backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
        backend.post_processor = processors.TemplateProcessing(
            single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
        )
        backend.save(str(tmp_path / "tokenizer.json"))
    ours = tokenizer_from_folder(tmp_path)
    ids = ours.encode(corpus())
    assert ids == [1] * bos + hf_ids(theirs, corpus())
    assert (ours.bos_id, ours.eos_id) == (1, 2)
    messages = [{"role": "user", "content": "hi"}]
    assert ours.apply_chat(messages) == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
