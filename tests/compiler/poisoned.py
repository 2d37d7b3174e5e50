"""Engines for tests: every launch starts with scratchpads and accumulators full of NaN."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mellivora.compiler import compile_model
from mellivora.graph.ir import Graph
from mellivora.runtime.cache import Executable
from mellivora.runtime.engine import Engine
from mellivora.spec import ChipSpec, load_chip

Logits = npt.NDArray[np.float32]


def chip(name: str, **changes: Any) -> ChipSpec:
    """A preset with some fields changed."""
    return load_chip(name).replace(**changes)


def engine(
    graph: Graph,
    on: ChipSpec,
    *,
    activations: str = "mxint8",
    max_batch: int = 8,
    context: int = 512,
    threads: int = 1,
) -> Engine:
    """Compiled for the chip, ready; values never seen in this launch are NaN wherever they lie."""
    compiled = compile_model(
        graph, on, activations=activations, max_batch=max_batch, context=context
    )
    made = Engine(Executable.of(compiled), threads=threads)
    made.device.machine.run = partial(made.device.machine.run, poison=True)  # type: ignore[method-assign]
    return made


def score(on: Engine, slot: int, ids: Sequence[int], *, start: int = 0) -> Logits:
    """Logits of every token, float32 [len(ids), vocab]."""
    return np.concatenate(list(on.score(slot, ids, start=start)))


def bits(logits: Logits) -> npt.NDArray[np.uint32]:
    """The values as they are stored, so that equality means equality: -0 is not 0, NaN is NaN."""
    return np.ascontiguousarray(logits).view(np.uint32)


def same(a: Logits, b: Logits) -> bool:
    """Equal shapes and equal bits, and no NaN that two wrong computations might share."""
    return a.shape == b.shape and np.array_equal(bits(a), bits(b)) and not np.isnan(a).any()
