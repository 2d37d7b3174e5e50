"""Logits to a token: greedy, or drawn, the same whatever else is in the batch.

The order is that of the Hugging Face stack: repetition penalty, temperature, top-k, top-p, min-p,
draw. All is done in float64 on one row. Randomness is a function of (seed, stream, position), made
by a counter-based generator: no state, so nothing that other requests do can change a draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mellivora.errors import UsageError

Row = npt.NDArray[np.float64]

_RANGES = {  # low, high, is low itself allowed
    "temperature": (0.0, 100.0, True),
    "top_p": (0.0, 1.0, False),
    "min_p": (0.0, 1.0, True),
    "repetition_penalty": (0.0, 100.0, False),
}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    temperature 0 is greedy (the penalty still counts, the cuts do not). top_k 0, top_p 1 and min_p
    0 cut nothing. stream tells apart sequences that share a seed. Raises UsageError MV0811.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stream: int = 0

    def __post_init__(self) -> None:
        for name, (low, high, closed) in _RANGES.items():
            value = getattr(self, name)
            if not (low <= value <= high and (closed or value != low)):  # also refuses NaN
                raise _out_of_range(
                    name, value, f"{'from' if closed else 'above'} {low:g} to {high:g}"
                )
        for name in ("top_k", "seed", "stream"):
            value = getattr(self, name)
            if not 0 <= value < 1 << 63:
                raise _out_of_range(name, value, "from 0 to 2^63 - 1")


def _out_of_range(name: str, value: float, allowed: str) -> UsageError:
    return UsageError(
        "MV0811",
        "a sampling option is out of range",
        where=name,
        given=str(value),
        allowed=allowed,
        hint="choose a value in the range",
    )


GREEDY = Sampling()


def sample(
    logits: npt.NDArray[np.floating],
    sampling: Sampling = GREEDY,
    *,
    seen: Sequence[int] = (),
    position: int = 0,
) -> int:
    """The next token's id.

    logits: [vocab], finite or -inf. seen: ids of prompt and answer so far, for the penalty.
    position: of the token to choose in its sequence, 0 for the first of the prompt.
    """
    if sampling.temperature == 0.0:
        if sampling.repetition_penalty == 1.0:
            return int(np.argmax(logits))
        return int(
            np.argmax(penalise(np.asarray(logits, np.float64), seen, sampling.repetition_penalty))
        )
    weights = np.exp(
        scores := processed(logits, sampling, seen=seen),
        where=scores > -np.inf,
        out=np.zeros_like(scores),
    )
    sums = np.cumsum(weights)
    drawn = uniform(sampling.seed, sampling.stream, position) * sums[-1]
    # side="right" steps over tokens of weight 0; rounding must not step over the last one that has
    # weight.
    return min(int(np.searchsorted(sums, drawn, side="right")), int(np.flatnonzero(weights)[-1]))


def uniform(seed: int, stream: int, position: int) -> float:
    """A number in [0, 1), a pure function of its arguments (Philox 4x64)."""
    bits = np.random.Philox(key=[seed, stream], counter=[position, 0, 0, 0])
    return float(np.random.Generator(bits).random())


def processed(
    logits: npt.NDArray[np.floating], sampling: Sampling, *, seen: Sequence[int] = ()
) -> Row:
    """Logits [vocab] float64 after penalty, temperature and cuts, the largest 0; -inf is cut."""
    scores = penalise(np.asarray(logits, np.float64), seen, sampling.repetition_penalty)
    scores = scores / sampling.temperature if sampling.temperature else scores.copy()
    scores -= scores.max()
    if 0 < sampling.top_k < len(scores):
        kth = np.partition(scores, -sampling.top_k)[-sampling.top_k]
        scores[scores < kth] = -np.inf
    if sampling.top_p < 1.0:
        scores[_beyond_nucleus(scores, sampling.top_p)] = -np.inf
    if sampling.min_p > 0.0:  # the largest is exp(0) = 1: no softmax needed
        scores[np.exp(scores) < sampling.min_p] = -np.inf
    return scores


def penalise(scores: Row, seen: Sequence[int], penalty: float) -> Row:
    """Scores of ids already seen divided (if positive) or multiplied by penalty; a new array if it
    changes.
    """
    if penalty == 1.0 or not len(seen):
        return scores
    ids = np.unique(np.asarray(seen, np.int64))
    out = scores.copy()
    out[ids] = np.where(out[ids] < 0, out[ids] * penalty, out[ids] / penalty)
    return out


def _beyond_nucleus(scores: Row, top_p: float) -> npt.NDArray[np.int64]:
    """Ids outside the smallest set of likeliest tokens whose probability is at least top_p."""
    order = np.argsort(-scores, kind="stable")
    mass = np.cumsum(np.exp(scores[order]))
    # A token stays if those before it fall short of top_p; so the likeliest always stays.
    before = np.concatenate([[0.0], mass[:-1]]) / mass[-1]
    return order[before >= top_p]


class StopText:
    """Holds text back while it may be the start of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stop for stop in stops if stop)
        self.held, self.stopped = "", False

    def push(self, text: str) -> str:
        """The text that can be shown now; what a stop string begins is never shown."""
        if not self.stops:
            return text
        self.held += text
        at = min((i for i in map(self.held.find, self.stops) if i >= 0), default=-1)
        if at >= 0:
            shown, self.held, self.stopped = self.held[:at], "", True
            return shown
        keep = max(
            (n for stop in self.stops for n in range(1, len(stop)) if self.held.endswith(stop[:n])),
            default=0,
        )
        cut = len(self.held) - keep
        shown, self.held = self.held[:cut], self.held[cut:]
        return shown

    def finish(self) -> str:
        """What was held back, when the sequence ends without a stop string."""
        shown, self.held = self.held, ""
        return shown
