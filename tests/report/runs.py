"""Facts of a real run of the tiny model, made once, and hostile variants of them."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from mellivora.report.alone import run_model


@cache
def _text() -> str:
    facts = run_model("tiny", chip="m1", prompt="The king </script><b>&", max_new_tokens=4)
    return json.dumps(facts, allow_nan=False)


def facts() -> dict[str, Any]:
    """A fresh copy, as it comes out of JSON."""
    return json.loads(_text())


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in facts().items() if key not in keys}


def odd() -> dict[str, dict[str, Any]]:
    """Facts that are right but unusual, by what is unusual."""
    zero = facts()
    for phase in zero["phases"].values():
        phase["energy_j_per_token"] = dict.fromkeys(phase["energy_j_per_token"], 0.0)
        phase["energy_parts_j"] = dict.fromkeys(phase["energy_parts_j"], 0.0)
    idle = facts()
    for phase in idle["phases"].values():
        phase |= {"cycles": 0, "tokens": 0, "by_kind": [], "ops": []}
    one = facts()
    one["chip"]["cores"] = 1
    one["timeline"] = one["timeline"][:1]
    single = facts()
    single["timeline"] = single["timeline"][0]
    empty = facts()
    empty["timeline"][0]["slices"] = []
    prefill = without("timeline", "memory", "live")
    del prefill["phases"]["decode"]
    prefill |= {"tokens_per_s": None, "tokens": 1}
    no_bytes = facts()
    for phase in no_bytes["phases"].values():
        for op in phase["by_kind"]:
            op["dram_bytes"] = 0
    kinds = facts()
    kinds["phases"]["decode"]["by_kind"][0]["kind"] = "convolution"
    return {
        "zero energy": zero,
        "nothing ran": idle,
        "one core": one,
        "one timeline": single,
        "an empty timeline": empty,
        "no timeline": without("timeline"),
        "no memory": without("memory", "live"),
        "prefill alone": prefill,
        "no bytes": no_bytes,
        "another kind": kinds,
        "no text": without("text", "prompt", "notes", "weight_formats"),
        "empty text": {**facts(), "text": ""},
    }
