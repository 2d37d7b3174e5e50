"""SmolLM2-135M on the chip, held against transformers in FP32 (ids made by
benchmarks/peer_torch.py).
"""

from __future__ import annotations

import json
from pathlib import Path

from mellivora.runtime.llm import LLM

PEER = Path(__file__).parents[1] / "torch" / "data" / "smollm2_greedy_fp32.json"


def test_greedy_text_with_two_slices_is_that_of_fp32() -> None:
    items = json.loads(PEER.read_text("utf-8"))["items"]
    assert len(items) == 10
    llm = LLM("smollm2", "m1", activations="x2", context=512)
    answers: list[list[int | None]] = [[] for _ in items]
    texts = [""] * len(items)
    for piece in llm.generate_batch([item["prompt_ids"] for item in items], max_new_tokens=64):
        answers[piece.index].append(piece.id)
        texts[piece.index] += piece.text
    for item, answer, text in zip(items, answers, texts, strict=True):
        assert answer == item["ids"], item["prompt"]
        assert text == item["text"], item["prompt"]
