"""Builds a tokenizer from the keys of a GGUF file, with no other file.

Two kinds of vocabulary: "gpt2" is byte-level BPE with merges and a splitting rule named by
`tokenizer.ggml.pre`; "llama" is SentencePiece, whose file lists scores and no merges: the pair that
makes the best-scored token is merged first, which is BPE with the merges recovered by score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mellivora.errors import ModelError
from mellivora.frontends.tokenizer import SPACE_MARK, Tokenizer

MAX_PIECE_CHARS = 256  # of a token that merges can make; real ones have at most a few dozen
_CONTROL, _USER_DEFINED = 3, 4  # tokenizer.ggml.token_type
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>")

# The published splitting rules of the two families that do not use GPT-2's, as regular expressions.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {
    "llama-bpe": _CONTRACTIONS + r"\p{N}{1,3}" + _REST,
    "qwen2": _CONTRACTIONS + r"\p{N}" + _REST,
}
_GPT2_NAMES = ("gpt-2", "gpt2")
PRE_TOKENIZERS = ("smollm", *_SPLITS, *_GPT2_NAMES)


def tokenizer_from_gguf(metadata: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer of a GGUF file. Raises ModelError MV0246 to MV0248."""
    kind = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if kind not in ("gpt2", "llama"):
        at = f"{where}: tokenizer.ggml.model"
        raise _unsupported("MV0246", "unknown kind of tokenizer", kind, "gpt2, llama", at)
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        raise _damaged("tokenizer.ggml.tokens", "no list of strings", where)
    backend = (_byte_level if kind == "gpt2" else _sentencepiece)(metadata, tokens, where)
    _add_special_tokens(backend, tokens, metadata.get("tokenizer.ggml.token_type"))
    eos = _id(metadata, "eos_token_id", tokens, where)
    turn_ends = [_id(metadata, "eot_token_id", tokens, where)]
    turn_ends += [backend.token_to_id(name) for name in _END_OF_TURN]
    template = metadata.get("tokenizer.chat_template")
    return Tokenizer(
        backend,
        bos_id=_id(metadata, "bos_token_id", tokens, where),
        eos_ids=[id_ for id_ in (eos, *turn_ends) if id_ is not None],
        add_bos=bool(metadata.get("tokenizer.ggml.add_bos_token", kind == "llama")),
        chat_template=template if isinstance(template, str) else None,
    )


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], where: str) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pre = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if pre not in PRE_TOKENIZERS:
        known, at = ", ".join(PRE_TOKENIZERS), f"{where}: tokenizer.ggml.pre"
        raise _unsupported("MV0247", "unknown rule for splitting text", pre, known, at)
    raw = metadata.get("tokenizer.ggml.merges")
    if not isinstance(raw, list):
        raise _damaged("tokenizer.ggml.merges", "missing", where)
    # A merge is two tokens and one space between; no token of the byte alphabet has a space.
    merges = [tuple(str(merge).split(" ")) for merge in raw]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(_model(models.BPE, where, vocab=vocabulary, merges=merges))
    if pre in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated")
        steps: list[Any] = [
            split,
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    else:
        steps = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
        if pre == "smollm":
            steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str], where: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    gemma = str(metadata.get("general.architecture", "")).startswith("gemma")
    scores = np.asarray(metadata.get("tokenizer.ggml.scores", ()), np.float64)
    if scores.shape != (len(tokens),) or not np.isfinite(scores).all():
        raise _damaged("tokenizer.ggml.scores", f"shape {scores.shape}", where)
    if gemma:
        # Runs of spaces are stored as spaces; merges follow the order of the file, not the scores.
        tokens[:] = [t.replace(" ", SPACE_MARK) if not t.strip(" ") else t for t in tokens]
        scores = -np.arange(len(tokens), dtype=np.float64)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = _id(metadata, "unknown_token_id", tokens, where)
    model = _model(
        models.BPE,
        where,
        vocab=vocabulary,
        merges=_merges_by_score(vocabulary, scores),
        unk_token=tokens[unknown] if unknown is not None else None,
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Tokenizer(model)
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", not gemma))
    # As SentencePiece does it: a text (after each special token, too) gets a space in front.
    marks: list[Any] = [normalizers.Prepend(SPACE_MARK)] if prefix else []
    marks.append(normalizers.Replace(" ", SPACE_MARK))
    backend.normalizer = normalizers.Sequence(marks)
    steps = [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(
        [*steps, decoders.Strip(content=" ", left=1)] if prefix else steps
    )
    return backend


def _merges_by_score(vocabulary: Mapping[str, int], scores: np.ndarray) -> list[tuple[str, str]]:
    """Every way to make a token of two others, best score first, then shortest left part's id."""
    found: list[tuple[float, int, int, str, str]] = []
    for token, index in vocabulary.items():
        for cut in range(1, len(token) if len(token) <= MAX_PIECE_CHARS else 0):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                order = (-float(scores[index]), vocabulary[left], vocabulary[right])
                found.append((*order, left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _add_special_tokens(backend: Any, tokens: Sequence[str], types: Any) -> None:
    """Control tokens are special; user-defined ones are matched whole, but are plain text."""
    from tokenizers import AddedToken

    if types is None:
        return
    marked: dict[int, list[Any]] = {_CONTROL: [], _USER_DEFINED: []}
    for token, kind in zip(tokens, np.asarray(types).tolist(), strict=False):
        if kind in marked and token:
            special = kind == _CONTROL
            marked[kind].append(AddedToken(token, normalized=False, special=special))
    backend.add_special_tokens(marked[_CONTROL])
    backend.add_tokens(marked[_USER_DEFINED])


def _model(kind: Any, where: str, **parts: Any) -> Any:
    try:
        return kind(**parts)
    except Exception as error:  # the package raises bare Exception: a merge of unknown tokens
        raise _damaged("tokenizer.ggml.merges", str(error)[:200], where) from error


def _id(metadata: Mapping[str, Any], name: str, tokens: Sequence[str], where: str) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if value is not None and (not isinstance(value, int) or not 0 <= value < len(tokens)):
        raise _damaged(f"tokenizer.ggml.{name}", repr(value)[:80], where)
    return value


def _unsupported(code: str, what: str, given: Any, allowed: str, where: str) -> ModelError:
    return ModelError(
        code,
        what,
        where=where,
        given=repr(given)[:80],
        allowed=allowed,
        hint="use the Hugging Face folder of the model, with its tokenizer.json",
    )


def _damaged(key: str, given: str, where: str) -> ModelError:
    return ModelError(
        "MV0248",
        "the model's tokenizer is damaged",
        where=f"{where}: {key}",
        given=given,
        allowed="tokens, merges or scores, and ids that fit each other",
        hint="download the file again, or convert the model anew",
    )
