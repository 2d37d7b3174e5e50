"""LLM: text, streaming, stopping, batches, limits; tokens held against the NumPy interpreter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.runtime.tiny import IDS, tiny

from mellivora.errors import UsageError
from mellivora.graph import interpret
from mellivora.runtime.llm import LLM, negative_log_likelihood
from mellivora.runtime.sampling import Sampling

PROMPT = "KING RICHARD III:\n"
DRAWN = Sampling(temperature=1.0, top_p=0.95, seed=11)


def text_of(llm: LLM, prompt: object, **options: object) -> str:
    return "".join(piece.text for piece in llm.generate(prompt, **options))  # type: ignore[arg-type]


def test_greedy_tokens_are_those_of_the_graph_in_fp32() -> None:
    llm = tiny(activations="x2")
    ids = llm.encode(PROMPT)
    pieces = list(llm.generate(PROMPT, max_new_tokens=24))
    for made in range(24):
        sequence = np.array([*ids, *(piece.id for piece in pieces[:made])], np.int32)
        feeds = {"ids": sequence, "positions": np.arange(len(sequence), dtype=np.int32)}
        (logits,) = interpret(llm.model.graph, feeds).values()
        assert pieces[made].id == int(logits[-1].argmax()), made


def test_pieces_make_up_the_text_of_the_tokens() -> None:
    llm = tiny()
    pieces = list(llm.generate(PROMPT, max_new_tokens=30))
    assert [piece.finish for piece in pieces] == [""] * 29 + ["length"]
    assert "".join(p.text for p in pieces) == llm.tokenizer.decode(p.id for p in pieces)


def test_a_stop_string_ends_the_text_before_it() -> None:
    llm = tiny()
    whole = text_of(llm, PROMPT, max_new_tokens=40)
    stop = whole[10:13]
    pieces = list(llm.generate(PROMPT, max_new_tokens=40, stop=[stop, "never said"]))
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"


def test_an_end_token_ends_the_answer_unless_ignored() -> None:
    llm = tiny()
    first = next(llm.generate(PROMPT, max_new_tokens=1)).id
    eos, llm.tokenizer.eos_ids = llm.tokenizer.eos_ids, (first,)
    try:
        pieces = list(llm.generate(PROMPT, max_new_tokens=5))
        assert [(piece.id, piece.text, piece.finish) for piece in pieces] == [(first, "", "stop")]
        assert len(list(llm.generate(PROMPT, max_new_tokens=5, ignore_eos=True))) == 5
    finally:
        llm.tokenizer.eos_ids = eos


def test_draws_do_not_depend_on_the_batch() -> None:
    llm = tiny()
    prompts = [PROMPT, "ROMEO:\n", "My lord", PROMPT, "I", PROMPT]  # more than the four slots
    together = [""] * len(prompts)
    for piece in llm.generate_batch(prompts, max_new_tokens=12, sampling=DRAWN):
        together[piece.index] += piece.text
    for index, prompt in enumerate(prompts):
        alone = Sampling(temperature=1.0, top_p=0.95, seed=11, stream=index)
        assert text_of(llm, prompt, max_new_tokens=12, sampling=alone) == together[index]
    assert len(set(together)) == len(prompts)  # equal prompts draw from streams of their own


def test_a_full_slot_ends_the_answer() -> None:
    llm = tiny()
    ids = (IDS * 40)[:510]
    pieces = list(llm.generate(ids, max_new_tokens=50, ignore_eos=True))
    assert len(pieces) == 3  # tokens at 510 and 511 have a place; the one after them needs none
    assert pieces[-1].finish == "length"
    assert len(list(llm.generate((IDS * 40)[:512], max_new_tokens=50))) == 1


@pytest.mark.parametrize(
    ("prompt", "code"), [("", "MV0813"), ([], "MV0813"), (IDS * 40, "MV0815"), ([512], "MV0821")]
)
def test_prompts_that_cannot_be_taken(prompt: object, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        next(tiny().generate(prompt))  # type: ignore[arg-type]
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"max_batch": 0}, "MV0812"),
        ({"max_batch": 65}, "MV0812"),
        ({"context": 513}, "MV0812"),
        ({"cores": 17}, "MV0817"),
    ],
)
def test_limits_are_checked(options: dict, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        LLM("tiny", cache=False, **options)
    assert caught.value.code == code


def test_bits_do_not_depend_on_cores() -> None:
    want = tiny().engine.prefill(0, IDS)
    for cores in (1, 3, 4):
        assert np.array_equal(tiny(cores=cores).engine.prefill(0, IDS), want), cores


def test_perplexity_is_that_of_the_logits() -> None:
    llm = tiny(activations="x2")
    ids = (np.arange(90) * 37 % 512).tolist()
    told: list[tuple[int, int, float]] = []
    found = llm.perplexity(ids, 2, 40, progress=lambda *facts: told.append(facts))
    nats = 0.0
    for window in range(2):
        part = ids[window * 40 : (window + 1) * 40]
        logits = np.concatenate(list(llm.engine.score(0, part)))
        for row, target in enumerate(part[1:]):
            scores = logits[row].astype(np.float64)
            nats -= float(scores[target] - np.logaddexp.reduce(scores))
    assert found.tokens == 78
    # 78 terms of at most a few hundred nats, each rounded by a few units of 2^-53.
    assert abs(found.nats - nats) <= 78 * 512 * 2.0**-50
    assert told[-1] == (2, 2, found.perplexity)
    assert found.perplexity == math.exp(found.nats / 78)


def test_uniform_logits_have_the_vocabulary_as_perplexity() -> None:
    nats = negative_log_likelihood(np.full((7, 512), 3.0, np.float32), np.arange(7))
    assert abs(nats / 7 - math.log(512)) < 1e-12  # a few roundings of values near 6


def test_windows_that_the_text_does_not_make() -> None:
    for windows, length in ((3, 40), (1, 513), (0, 40), (1, 1)):
        with pytest.raises(UsageError) as caught:
            tiny().perplexity([1] * 100, windows, length)
        assert caught.value.code == "MV0816"
