"""Sampling: draws that depend on nothing but seed and position, ranges, stop strings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mellivora.errors import UsageError
from mellivora.runtime.sampling import Sampling, StopText, sample, uniform


def test_greedy_takes_the_first_of_equals() -> None:
    assert sample(np.array([1.0, 3.0, 3.0, -1.0], np.float32)) == 1


def test_a_penalty_changes_the_greedy_choice() -> None:
    logits = np.array([2.0, 3.0, -1.0], np.float32)
    assert sample(logits, Sampling(repetition_penalty=2.0), seen=[1]) == 0
    assert sample(logits, Sampling(repetition_penalty=2.0), seen=[1, 0]) == 1


def test_a_draw_is_a_function_of_seed_stream_and_position() -> None:
    draws = [uniform(seed, stream, at) for seed in (0, 1) for stream in (0, 1) for at in range(50)]
    assert len(set(draws)) == len(draws)
    again = [uniform(seed, stream, at) for seed in (0, 1) for stream in (0, 1) for at in range(50)]
    assert draws == again
    assert all(0.0 <= draw < 1.0 for draw in draws)


def test_draws_follow_the_probabilities() -> None:
    probabilities = np.array([0.5, 0.3, 0.15, 0.05, 0.0])
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities)
    n = 4000
    found = np.bincount(
        [sample(logits, Sampling(temperature=1.0, seed=3), position=i) for i in range(n)],
        minlength=5,
    )
    # Five standard deviations of a binomial count; a fair sampler fails once in a million seeds.
    assert (
        np.abs(found - n * probabilities) <= 5 * np.sqrt(n * probabilities * (1 - probabilities))
    ).all()
    assert found[4] == 0


def test_top_k_of_one_is_greedy() -> None:
    logits = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    for at in range(20):
        assert sample(logits, Sampling(temperature=5.0, top_k=1), position=at) == logits.argmax()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -1},
        {"repetition_penalty": 0.0},
        {"top_k": -1},
        {"seed": -1},
        {"seed": 1 << 63},
    ],
)
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(**options)
    assert caught.value.code == "MV0811"
    assert caught.value.where == next(iter(options))


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.randoms(),
)
def test_stop_strings_cut_the_same_in_any_pieces(text: str, stops: list[str], random) -> None:
    stopper, shown, rest = StopText(stops), "", text
    while rest and not stopper.stopped:
        n = random.randint(1, len(rest))
        shown, rest = shown + stopper.push(rest[:n]), rest[n:]
        assert not any(stop in shown for stop in stops)
    if not stopper.stopped:
        shown += stopper.finish()
    first = min((i for i in map(text.find, stops) if i >= 0), default=-1)
    assert stopper.stopped == (first >= 0)
    if len(stops) <= 1:  # with several, a longer one that starts earlier may not be complete yet
        assert shown == (text if first < 0 else text[:first])
    assert text.startswith(shown)
