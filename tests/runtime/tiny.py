"""The small model of our own on the small chip: what the runtime's tests run."""

from __future__ import annotations

from functools import cache
from typing import Any

from mellivora.frontends.llm import load_model
from mellivora.runtime.llm import LLM

IDS = [7, 301, 42, 17, 256, 99, 5, 5, 410, 88, 31, 200, 3, 499, 61]


@cache
def tiny(**options: Any) -> LLM:
    """The compiled tiny model; m1 where nothing else is said. Nothing goes to the disk cache."""
    options = {"chip": "m1", "max_batch": 4, "context": 512, "activations": "mxint8", **options}
    return LLM(load_model("tiny"), options.pop("chip"), **options)
