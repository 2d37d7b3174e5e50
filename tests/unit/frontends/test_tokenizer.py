"""Tokenizer: streaming equals decoding, special tokens, and files that are wrong."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mellivora.errors import ModelError
from mellivora.frontends.llm import load_model
from mellivora.frontends.tokenizer import Tokenizer, byte_alphabet, tokenizer_from_folder
from mellivora.frontends.tokenizer_gguf import tokenizer_from_gguf


@cache
def smollm2() -> Tokenizer:
    tokenizer = load_model("smollm2", shapes_only=True).tokenizer
    assert tokenizer is not None
    return tokenizer


def sentencepiece(**more: Any) -> Tokenizer:
    """A vocabulary of all bytes, a space mark and three letters."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "\u2581", *"abc", "ab"]
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 5,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return tokenizer_from_gguf(keys | more, "here")


def byte_level(**changes: Any) -> Tokenizer:
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [*byte_alphabet(), "ab", "<|im_end|>"],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.token_type": [1] * 257 + [3],
    }
    changed = {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    return tokenizer_from_gguf({k: v for k, v in (keys | changed).items() if v is not None}, "here")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 49_200), max_size=40), st.booleans())
def test_pieces_put_together_are_the_text(ids: list[int], skip_special: bool) -> None:
    """Any ids, also ones that are no UTF-8 or no token; `tokenizers` itself is the oracle."""
    tokenizer = smollm2()
    stream = tokenizer.stream(skip_special=skip_special)
    pieces = [stream.push(id_) for id_ in ids]
    text = "".join([*pieces, stream.finish()])
    assert text == tokenizer.decode(ids, skip_special=skip_special)
    assert text == tokenizer.backend.decode(ids, skip_special_tokens=skip_special)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_every_text_survives(text: str) -> None:
    for tokenizer in (byte_level(), sentencepiece()):  # their vocabularies have every byte
        ids = tokenizer.encode(text, special=False)
        assert tokenizer.decode(ids, skip_special=tokenizer.add_bos) == text


def test_unfinished_characters_are_held_back() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("\U0001f9a1")  # four bytes, four tokens
    stream = tokenizer.stream()
    assert [stream.push(id_) for id_ in ids] == ["", "", "", "\U0001f9a1"]
    assert stream.finish() == ""
    stream = tokenizer.stream()
    assert [stream.push(id_) for id_ in ids[:2]] == ["", ""]
    assert stream.finish() == "\ufffd"


def test_first_space_of_sentencepiece_is_no_text() -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.encode("ab c")
    assert [tokenizer.backend.id_to_token(i) for i in ids] == ["<s>", "\u2581", "ab", "\u2581", "c"]
    stream = tokenizer.stream()
    assert [stream.push(id_) for id_ in ids] == ["", "", "ab", " ", "c"]


def test_special_tokens_only_where_wanted() -> None:
    tokenizer = smollm2()
    (end,) = tokenizer.encode("<|im_end|>")
    assert end in tokenizer.eos_ids
    assert end in tokenizer.special_ids
    plain = tokenizer.encode("<|im_end|>", special=False)
    assert end not in plain
    assert tokenizer.decode(plain) == "<|im_end|>"
    assert tokenizer.encode("<|im_end|>") == [end]  # the flag of the last call does not linger
    assert tokenizer.decode([end]) == ""
    assert tokenizer.decode([end], skip_special=False) == "<|im_end|>"


def test_bos_where_the_file_or_the_caller_says() -> None:
    tokenizer = sentencepiece()
    assert tokenizer.encode("a")[0] == 1
    assert 1 not in tokenizer.encode("a", add_bos=False)
    silent = sentencepiece(**{"tokenizer.ggml.add_bos_token": False})
    assert 1 not in silent.encode("a")
    assert silent.encode("a", add_bos=True)[0] == 1


def test_lone_surrogates_become_replacement_characters() -> None:
    assert smollm2().decode(smollm2().encode("a\ud800b")) == "a\ufffdb"


def code_of(make: Any, *arguments: Any, **keywords: Any) -> str:
    with pytest.raises(ModelError) as caught:
        make(*arguments, **keywords)
    return caught.value.code


def test_errors() -> None:
    assert code_of(smollm2().decode, [-1]) == "MV0245"
    assert smollm2().decode([1 << 40]) == ""  # beyond the vocabulary: rows of padding
    assert code_of(byte_level().apply_chat, []) == "MV0242"
    assert code_of(byte_level, model="bert") == "MV0246"
    assert code_of(byte_level, pre="tekken") == "MV0247"
    for changes in (
        {"tokens": None},
        {"tokens": [1, 2]},
        {"merges": None},
        {"merges": ["a zz"]},
        {"merges": ["ab"]},
        {"eos_token_id": 258},
        {"eos_token_id": "x"},
        {"model": "llama", "scores": [1.0]},
    ):
        assert code_of(byte_level, **changes) == "MV0248", changes


def test_damaged_tokenizer_json(tmp_path: Path) -> None:
    assert code_of(tokenizer_from_folder, tmp_path) == "MV0240"
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    assert code_of(tokenizer_from_folder, tmp_path) == "MV0240"
    content = json.loads(byte_level().backend.to_str())
    content["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert code_of(tokenizer_from_folder, tmp_path) == "MV0241"
    (tmp_path / "tokenizer.json").write_text(byte_level().backend.to_str())
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    assert code_of(tokenizer_from_folder, tmp_path) == "MV0225"


def test_folder_template_by_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(byte_level().backend.to_str())
    templates = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]
    config = {"chat_template": templates, "eos_token": {"content": "<|im_end|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [256, 257]}')
    tokenizer = tokenizer_from_folder(tmp_path)
    assert tokenizer.apply_chat([]) == "d"
    assert tokenizer.eos_ids == (257, 256)
    (tmp_path / "chat_template.jinja").write_text("file")
    assert tokenizer_from_folder(tmp_path).apply_chat([]) == "file"
