"""A language model writes text on the chip's RTL, token by token, prefill and decode.

    python examples/tokens_on_rtl.py --tokens 2

The model is the small one inside the package, the chip `nano`, activations have two slices. Every
launch runs on the functional simulator, the timing simulator and the RTL: one differing bit or
cycle ends it. The tokens are compared with the graph interpreter's, in FP32.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np

import mellivora
from mellivora.frontends.llm import load_model
from mellivora.graph.interpret import Interpreter
from mellivora.graph.kv_cache import KVCache
from mellivora.rtl.cosim import CosimResult
from mellivora.rtl.machine import RtlMachine
from mellivora.runtime.llm import LLM
from mellivora.spec.dram_timing import dram_timing

PROMPT = "KING RICHARD III:\nSay, I"


@dataclass
class Written:
    """Tokens by each of three ways, and what the RTL's launches were."""

    text: str
    on_rtl: list[int]
    functional: list[int]
    interpreter: list[int]
    launches: list[CosimResult]


def write(
    tokens: int,
    prompt: str = PROMPT,
    chip: str = "nano",
    *,
    say: bool = False,
    banks: bool = False,
) -> Written:
    """Write `tokens` tokens greedily in all three ways. banks: over DRAM that has some."""
    model = load_model("tiny")
    ids = make(model, chip).encode(prompt)
    functional = greedy(make(model, chip), ids, tokens)
    llm = make(model, chip)
    device = llm.engine.device
    machine = device.machine
    results: list[CosimResult] = []

    def tell(result: CosimResult) -> None:
        results.append(result)
        if say:
            print(f"launch {len(results)}: {result.report()}", flush=True)

    device._machine = RtlMachine(  # type: ignore[assignment]
        machine.chip,
        dram=machine.dram,
        windows=machine.windows,
        say=tell,
        timing=dram_timing(machine.chip) if banks else None,
    )
    on_rtl = greedy(llm, ids, tokens)
    text = llm.tokenizer.decode(on_rtl)
    return Written(text, on_rtl, functional, interpreted(model, ids, tokens), results)


def make(model: object, chip: str) -> LLM:
    """The model on the chip, two slices of activations, one sequence."""
    return mellivora.LLM(model, chip, activations="x2", max_batch=1, context=64)  # type: ignore[arg-type]


def greedy(llm: LLM, ids: list[int], count: int) -> list[int]:
    """Ids of `count` tokens."""
    pieces = llm.generate(list(ids), max_new_tokens=count)
    return [piece.id for piece in pieces if piece.id is not None]


def interpreted(model: object, ids: list[int], count: int) -> list[int]:
    """The same by the graph's reference interpreter, in FP32."""
    graph = model.graph  # type: ignore[attr-defined]
    interpreter, cache, out = Interpreter(graph), KVCache(), list[int]()
    now, at = np.array(ids, np.int32), np.arange(len(ids), dtype=np.int32)
    for _ in range(count):
        logits = interpreter.run({"ids": now, "positions": at}, state=cache)[graph.outputs[0]]
        out.append(int(logits[-1].argmax()))
        now, at = np.array(out[-1:], np.int32), at[-1:] + 1
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=2, help="(default: 2)")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--dram", choices=("ideal", "banks"), default="ideal")
    args = parser.parse_args()
    started = time.perf_counter()
    made = write(args.tokens, args.prompt, say=True, banks=args.dram == "banks")
    cycles = sum(result.rtl_cycles for result in made.launches)
    print(f"{args.prompt}{made.text}")
    print(f"RTL = functional simulator: {made.on_rtl == made.functional}")
    print(f"RTL = graph interpreter:    {made.on_rtl == made.interpreter}")
    print(
        f"{len(made.launches)} launches, {cycles:,} cycles, {time.perf_counter() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
