"""What `bench.py` measures of Mellivora, each in a process of its own; one JSON object on stdout.

    python benchmarks/ours.py decode --context 512 --activations mxint8
    python benchmarks/ours.py prefill --tokens 512
    python benchmarks/ours.py compile            cold, then from the cache; a cache of its own
    python benchmarks/ours.py timing             a decode step, by the timing simulator
    python benchmarks/ours.py roofs --model qwen3-8b --weights q4_0
    python benchmarks/ours.py bandwidth          a plain read of memory by two threads

Times are wall-clock seconds of this host; figures of the chip are of the timing simulator and
depend on nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mellivora.compiler.layout import TILE_TOKENS
from mellivora.runtime.llm import LLM
from mellivora.runtime.measure import Phase, measure_decode, measure_prefill

MODEL, CHIP = "smollm2", "m1"
Result = dict[str, Any]


def decode(options: argparse.Namespace) -> Result:
    """Tokens a second at batch 1, argmax included, over contexts centred on `context`."""
    needed = options.context + options.steps
    llm = LLM(
        MODEL,
        CHIP,
        activations=options.activations,
        max_batch=1,
        context=needed,
        threads=options.threads,
    )
    engine, generator = llm.engine, np.random.default_rng(0)
    engine.device.prepare()
    first = options.context - options.steps // 2
    ids = generator.integers(3, llm.executable.vocab, first).tolist()
    token, times_s = int(engine.prefill(0, ids).argmax()), []
    for position in range(first, first + options.steps):
        start_s = time.perf_counter()
        token = int(engine.decode([(0, token, position)])[0].argmax())
        times_s.append(time.perf_counter() - start_s)
    kv = llm.executable.kv
    tiles = -(-options.context // TILE_TOKENS)
    weights_bytes = llm.executable.images["decode"].nbytes
    return {
        "steps": options.steps,
        "tokens_per_s": 1 / statistics.median(times_s),
        "tokens_per_s_best": 1 / min(times_s),
        "weights_bytes": weights_bytes,
        "cache_bytes": kv.layers * kv.kv_heads * tiles * kv.tile_bytes,
        "weights_bytes_per_s": weights_bytes / statistics.median(times_s),
    }


def prefill(options: argparse.Namespace) -> Result:
    """Time from `tokens` prompt tokens to the logits of the last one."""
    llm = LLM(
        MODEL,
        CHIP,
        activations=options.activations,
        max_batch=1,
        context=options.tokens,
        threads=options.threads,
    )
    engine = llm.engine
    engine.device.prepare()
    ids = np.random.default_rng(0).integers(3, llm.executable.vocab, options.tokens).tolist()
    times_s = []
    for _ in range(options.repeats + 1):  # the first warms up and is dropped
        start_s = time.perf_counter()
        engine.prefill(0, ids)
        times_s.append(time.perf_counter() - start_s)
    return {
        "prefill_s_min": min(times_s[1:]),
        "prefill_s_median": statistics.median(times_s[1:]),
    }


def compile_(options: argparse.Namespace) -> Result:
    """From the model's file to a model that can be launched: cold, and from the disk cache."""
    times_s = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MELLIVORA_CACHE"] = folder
        for cached in (False, True):
            start_s = time.perf_counter()
            llm = LLM(MODEL, CHIP, activations=options.activations)
            times_s.append(time.perf_counter() - start_s)
            assert llm.from_cache == cached
    return {"cold_s": times_s[0], "cached_s": times_s[1]}


def timing(options: argparse.Namespace) -> Result:
    """A decode step by shapes alone: parameters, dispatch of all cores, simulation."""
    llm = LLM(MODEL, CHIP, max_batch=1, context=1024, shapes_only=True, weight_format="q4_1")
    settings = llm.engine.decode_settings([(0, 0, options.context)])
    llm.engine.device.timing("decode", settings)  # builds native code if need be
    times_s = []
    for _ in range(options.repeats):
        start_s = time.perf_counter()
        result = llm.engine.device.timing("decode", settings)
        times_s.append(time.perf_counter() - start_s)
    return {"step_s_median": statistics.median(times_s), "chip_cycles": result.cycles}


def roofs(options: argparse.Namespace) -> Result:
    """How near the chip comes to its roofs: decode at `context`, prefill of `tokens`, batch 1."""
    llm = LLM(
        options.model,
        CHIP,
        activations=options.activations,
        max_batch=1,
        context=1024,
        shapes_only=True,
        weight_format=options.weights,
    )
    phases = {
        "decode": measure_decode(llm.engine, options.context, 1),
        "prefill": measure_prefill(llm.engine, options.tokens),
    }
    return {name: _fractions(phase) for name, phase in phases.items()}


def _fractions(phase: Phase) -> Result:
    """Least cycles of each roof over all cycles, and MATRIX's on the layers' projections alone.

    The head is not among those: in prefill it works on one row and waits for its weights.
    """
    linear = [op for op in phase.ops.values() if op.kind == "linear" and op.label != "head"]
    matrix_cycles = sum(op.macs for op in linear) / phase.chip.peak_macs_per_cycle
    return {
        "tokens_per_s": phase.tokens_per_s,
        "cycles": phase.cycles,
        "limit": phase.roofs.limit,
        "dram_fraction": phase.dram_cycles / phase.cycles,
        "matrix_fraction": phase.matrix_cycles / phase.cycles,
        "matrix_fraction_linear": matrix_cycles / sum(op.cycles for op in linear),
        "share_of_cycles": {op.kind: op.cycles / phase.cycles for op in phase.by_kind()},
        "stalls": {
            engine: {cause: cycles / phase.cycles for cause, cycles in causes.items() if cycles}
            for engine, causes in phase.stall_cycles.items()
        },
    }


def bandwidth(options: argparse.Namespace) -> Result:
    """Bytes a second that `threads` threads read, each its part of 512 MiB, the best of `repeats`.

    The maximum of bytes is the lightest reduction that NumPy has: memory is what it waits for.
    """
    parts = np.array_split(np.ones(512 << 20, np.uint8), options.threads)
    rates = []
    with ThreadPoolExecutor(options.threads) as pool:
        for _ in range(options.repeats + 1):
            start_s = time.perf_counter()
            list(pool.map(np.max, parts))
            rates.append((512 << 20) / (time.perf_counter() - start_s))
    return {"read_bytes_per_s": max(rates), "threads": options.threads}


COMMANDS = {
    "decode": decode,
    "prefill": prefill,
    "compile": compile_,
    "timing": timing,
    "roofs": roofs,
    "bandwidth": bandwidth,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--activations", default="mxint8", help="mxint8, x2, x3")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", default=MODEL, help="for roofs: a name of the catalogue")
    parser.add_argument("--weights", default="q4_1", help="for roofs: format of the matrices")
    options = parser.parse_args()
    print(json.dumps(COMMANDS[options.command](options)))


if __name__ == "__main__":
    main()
