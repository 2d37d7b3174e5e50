"""The engine: the same bits for any chunks, batch, slot and order; and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tests.runtime.tiny import IDS, tiny

from mellivora.errors import UsageError
from mellivora.runtime.engine import Engine


def fresh(**options: object) -> Engine:
    return Engine(tiny(**options).executable)


def logits_of(ids: Sequence[int], **options: object) -> np.ndarray:
    """Logits [rows, vocab] of all rows by one scored prefill."""
    return np.concatenate(list(fresh(**options).score(0, ids)))


@pytest.mark.parametrize("activations", ["mxint8", "x2", "x3"])
def test_decode_gives_the_bits_of_prefill(activations: str) -> None:
    engine = fresh(activations=activations)
    whole = logits_of(IDS, activations=activations)
    assert np.isfinite(whole).all()
    assert len(np.unique(whole)) > whole.size // 2  # not zeros
    for position, token in enumerate(IDS):
        step = engine.decode([(0, token, position)])
        assert np.array_equal(step[0], whole[position]), position


@pytest.mark.parametrize("activations", ["mxint8", "x2"])
@pytest.mark.parametrize("chip", ["nano", "micro"])
def test_every_chip_gives_the_same_bits(chip: str, activations: str) -> None:
    engine = fresh(chip=chip, activations=activations, max_batch=1)
    rows = np.concatenate(list(engine.score(0, IDS)))
    assert np.array_equal(rows, logits_of(IDS, activations=activations))
    step = engine.decode([(0, IDS[-1], len(IDS) - 1)])
    assert np.array_equal(step[0], rows[-1])


@pytest.mark.parametrize("cuts", [[1], [14], [3, 4, 9], [5, 10]])
def test_any_chunks_give_the_same_bits(cuts: list[int]) -> None:
    engine = fresh()
    for first, end in zip([0, *cuts], [*cuts, len(IDS)]):
        last = engine.prefill(2, IDS[first:end], start=first)
    assert np.array_equal(last, logits_of(IDS)[-1])


def test_prompts_longer_than_a_launch_are_split() -> None:
    engine = fresh(chip="nano", max_batch=1)
    assert engine.executable.chunk < len(IDS)
    assert np.array_equal(engine.prefill(0, IDS), logits_of(IDS)[-1])  # and nano has m1's bits
    scored = np.concatenate(list(engine.score(0, IDS)))
    assert np.array_equal(scored, logits_of(IDS))


def test_a_sequence_does_not_depend_on_its_batch_or_slot() -> None:
    engine = fresh()
    prompts = [IDS, IDS[::-1], IDS[:1], IDS[3:11]]
    alone = [logits_of(ids)[-1] for ids in prompts]
    for slot, ids in enumerate(prompts):
        if len(ids) > 1:
            engine.prefill(slot, ids[:-1])
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 0], [1]):
        batch = [(slot, prompts[slot][-1], len(prompts[slot]) - 1) for slot in order]
        for slot, row in zip(order, engine.decode(batch), strict=True):
            assert np.array_equal(row, alone[slot]), (order, slot)


def test_a_slot_can_be_taken_again_after_a_longer_sequence() -> None:
    engine = fresh()
    engine.prefill(1, IDS * 20)
    assert np.array_equal(engine.prefill(1, IDS), logits_of(IDS)[-1])


@pytest.mark.parametrize(
    "call",
    [
        lambda e: e.prefill(0, []),
        lambda e: e.prefill(4, IDS),
        lambda e: e.prefill(-1, IDS),
        lambda e: e.prefill(0, [512]),
        lambda e: e.prefill(0, [-1]),
        lambda e: e.prefill(0, IDS, start=500),
        lambda e: e.decode([]),
        lambda e: e.decode([(0, 1, 512)]),
        lambda e: e.decode([(0, 1, 0), (0, 1, 1)]),
        lambda e: e.decode([(slot, 1, 0) for slot in range(5)]),
    ],
)
def test_what_does_not_fit_is_refused_before_a_launch(call: object) -> None:
    engine = fresh()
    with pytest.raises(UsageError) as caught:
        call(engine)  # type: ignore[operator]
    assert caught.value.code == "MV0821"
    assert engine.device.launches == 0
