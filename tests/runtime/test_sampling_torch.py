"""Sampling against the processors of transformers, on random logits, in the same precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as hf

from mellivora.runtime.sampling import Sampling, processed

VOCAB = 997


def of_transformers(logits: np.ndarray, s: Sampling, seen: list[int]) -> np.ndarray:
    """Scores [vocab] float64 after the peer's processors, in the order its `generate` applies
    them.
    """
    chain: list = []
    if s.repetition_penalty != 1.0:
        chain.append(hf.RepetitionPenaltyLogitsProcessor(s.repetition_penalty))
    if s.temperature != 1.0:
        chain.append(hf.TemperatureLogitsWarper(s.temperature))
    if s.top_k:
        chain.append(hf.TopKLogitsWarper(s.top_k))
    if s.top_p < 1.0:
        chain.append(hf.TopPLogitsWarper(s.top_p))
    if s.min_p > 0.0:
        chain.append(hf.MinPLogitsWarper(s.min_p))
    scores = torch.tensor(logits, dtype=torch.float64)[None]
    for processor in chain:
        scores = processor(torch.tensor([seen]), scores)
    return scores[0].numpy()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.3, "top_k": 50},
        {"temperature": 1.0, "top_k": 5 * VOCAB},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 2.0, "top_p": 1e-6},
        {"temperature": 1.0, "min_p": 0.05},
        {"temperature": 1.0, "repetition_penalty": 1.3},
        {"temperature": 0.8, "repetition_penalty": 0.7},
        {"temperature": 0.9, "top_k": 40, "top_p": 0.8, "min_p": 0.02, "repetition_penalty": 1.1},
    ],
)
def test_processed_logits_equal_transformers(options: dict, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (4 * rng.standard_normal(VOCAB)).astype(np.float32)
    seen = rng.integers(0, VOCAB, 60).tolist()
    sampling = Sampling(**options)
    ours, theirs = processed(logits, sampling, seen=seen), of_transformers(logits, sampling, seen)
    kept = theirs > -np.inf
    assert np.array_equal(ours > -np.inf, kept)
    assert kept.sum() > 0
    assert np.array_equal(ours[kept], theirs[kept] - theirs.max())  # ours are shifted to 0
