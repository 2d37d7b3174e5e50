"""`mellivora bench MODEL`: prefill and decode rates on the chip, and of the simulation itself."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from mellivora.commands._arguments import (
    add_activations,
    add_chip,
    add_cores,
    add_dram,
    add_model,
    timing_of,
    whole,
)
from mellivora.commands._models import open_model, rounded_context
from mellivora.commands._progress import Progress

if TYPE_CHECKING:
    from mellivora.runtime.llm import LLM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench`."""
    add_model(parser)
    parser.add_argument(
        "--prompt", type=whole(1), default=512, metavar="N", help="tokens to prefill (default: 512)"
    )
    parser.add_argument(
        "--generate", type=whole(0), default=64, metavar="N", help="tokens to decode (default: 64)"
    )
    parser.add_argument(
        "--context", type=whole(1), metavar="N", help="tokens in the cache before the first decode"
    )
    parser.add_argument("--batch", type=whole(1), default=1, metavar="N", help="sequences at once")
    add_chip(parser)
    add_cores(parser)
    add_activations(parser)
    parser.add_argument(
        "--weights",
        default="q4_0",
        metavar="FORMAT",
        help="format of weights that are known by shape only (default: q4_0)",
    )
    add_dram(parser)
    parser.add_argument(
        "--timing", action="store_true", help="cycles only: compute no values, read no weights"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print what prefill and decode take on the chip, and how fast this host simulates them."""
    from mellivora.commands._table import phase_lines
    from mellivora.runtime.llm import LLM
    from mellivora.runtime.measure import measure_decode, measure_prefill

    progress = Progress()
    front, weights = open_model(args.model, catalogue=True, weight_format=args.weights)
    context = args.prompt if args.context is None else args.context
    needed = max(args.prompt, context + args.generate)
    llm = LLM(
        front,
        args.chip,
        cores=args.cores,
        activations=args.activations,
        max_batch=args.batch,
        context=max(needed, rounded_context(needed, front.config.context)),
        shapes_only=args.timing or not weights,
        say=progress.say,
    )
    llm.engine.device.dram_timing = timing_of(args.dram, llm.chip)
    formats = llm.executable.formats
    assumed = " assumed" if args.timing or not weights else ""
    print(
        f"{llm.model.graph.name} ({', '.join(formats)}{assumed}) on {llm.chip.name}, activations "
        f"{args.activations}, batch {args.batch}, DRAM {args.dram}"
    )
    progress.say("timing prefill")
    started = time.perf_counter()
    phases = [measure_prefill(llm.engine, args.prompt)]
    titles = [f"prefill of {args.prompt} tokens"]
    if args.generate:
        progress.say("timing decode")
        phases.append(measure_decode(llm.engine, context, args.generate, batch=args.batch))
        titles.append(f"decode of {args.generate} tokens, {context} in the cache before")
    timing_seconds = time.perf_counter() - started
    progress.clear()
    for title, phase in zip(titles, phases, strict=True):
        print("\n" + "\n".join(phase_lines(phase, title)))
    host: dict[str, Any] = {"timing_seconds": timing_seconds}
    if not args.timing and weights:
        host |= _host_speed(llm, args.prompt, context, args.generate, args.batch, progress)
    print(f"\nthis host\n  timing            {timing_seconds:.2f} s for all of the above")
    for name in ("prefill", "decode"):
        if f"{name}_tokens_per_s" in host:
            label = f"{name} of values"
            print(f"  {label:17s} {host[f'{name}_tokens_per_s']:.1f} tokens/s")
    return {
        "model": llm.model.graph.name,
        "chip": llm.chip.name,
        "activations": args.activations,
        "weight_formats": formats,
        "batch": args.batch,
        "dram": args.dram,
        "context": context,
        "phases": {phase.name: phase.facts() for phase in phases},
        "host": host,
        "notes": llm.notes,
    }


def _host_speed(
    llm: LLM, prompt: int, context: int, generate: int, batch: int, progress: Progress
) -> dict[str, float]:
    """Tokens a second of the functional simulator; which tokens does not matter for that."""
    ids = [i % llm.executable.vocab for i in range(prompt)]
    progress.say("computing prefill")
    engine = llm.engine
    engine.device.prepare()
    started = time.perf_counter()
    engine.prefill(0, ids)
    host = {"prefill_tokens_per_s": prompt / (time.perf_counter() - started)}
    started = time.perf_counter()
    for step in range(generate):
        progress.say(f"computing decode step {step + 1} of {generate}")
        engine.decode([(slot, ids[0], context + step) for slot in range(batch)])
    if generate:
        host["decode_tokens_per_s"] = generate * batch / (time.perf_counter() - started)
    progress.clear()
    return host
