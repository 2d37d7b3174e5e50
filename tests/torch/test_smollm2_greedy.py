"""SmolLM2 on the chip against FP32 transformers, token by token of ten answers.

The ids were made by `benchmarks/peer_torch.py greedy`. Prompt and answer are prefilled at once and
every row is scored. Since decode gives the bits of prefill's rows (tests/compiler) this is greedy
decoding: if after each of FP32's prefixes the chip chooses FP32's next token, the answers are
equal. tests/runtime generates them by decode, in batches.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mellivora.runtime.engine import Logits
from mellivora.runtime.llm import LLM

PEER = Path(__file__).parent / "data" / "smollm2_greedy_fp32.json"
ITEMS = json.loads(PEER.read_text("utf-8"))["items"]


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("smollm2", "m1", activations="x2", max_batch=1, context=512)


def answer_rows(llm: LLM, item: dict[str, list[int]]) -> Logits:
    """Logits from which each token of the answer was chosen."""
    ids = item["prompt_ids"] + item["ids"][:-1]
    rows = np.concatenate(list(llm.engine.score(0, ids)))
    return rows[len(item["prompt_ids"]) - 1 :]


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item["prompt"].split("?")[0][:32])
def test_two_slices_choose_every_token_of_fp32(llm: LLM, item: dict) -> None:
    rows = answer_rows(llm, item)
    assert rows.argmax(axis=1).tolist() == item["ids"]
    # Not by luck: the nearest decision of the answer is made with at least half of FP32's margin.
    second, first = np.sort(rows[item["smallest_margin_at"]])[-2:]
    assert abs((first - second) - item["smallest_margin"]) < item["smallest_margin"] / 2


def test_ten_answers_of_64_tokens() -> None:
    assert len(ITEMS) == 10
    assert {len(item["ids"]) for item in ITEMS} == {64}
