"""`mellivora run MODEL PROMPT`: a language model's text, or a graph's tensors, from the chip."""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mellivora.commands._arguments import (
    add_activations,
    add_chip,
    add_cores,
    add_dump,
    add_model,
    number,
    whole,
)
from mellivora.commands._models import check_output, is_onnx, open_model, rounded_context
from mellivora.commands._progress import Progress
from mellivora.errors import UsageError

if TYPE_CHECKING:
    from mellivora.frontends.llm import LanguageModel
    from mellivora.runtime.llm import LLM


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `run`."""
    add_model(parser)
    parser.add_argument(
        "prompt", metavar="PROMPT", nargs="?", help="what to ask (default: read standard input)"
    )
    add_chip(parser)
    add_cores(parser)
    add_activations(parser)
    parser.add_argument("--batch", type=whole(1), default=1, metavar="N", help="copies at once")
    parser.add_argument(
        "--strict", action="store_true", help="fail if any operator would run off the chip"
    )

    text = parser.add_argument_group("the prompt and the answer")
    text.add_argument("--system", metavar="TEXT", help="system message of the chat template")
    text.add_argument("--raw", action="store_true", help="no chat template: continue the prompt")
    text.add_argument("--max-new-tokens", type=whole(1), default=128, metavar="N")
    text.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end the answer")

    sampling = parser.add_argument_group("sampling")
    sampling.add_argument(
        "--temperature", type=number(0, 100), default=0.0, metavar="T", help="0 (default): greedy"
    )
    sampling.add_argument("--top-k", type=whole(0), default=0, metavar="K", help="0: all tokens")
    sampling.add_argument("--top-p", type=number(0, 1), default=1.0, metavar="P")
    sampling.add_argument("--min-p", type=number(0, 1), default=0.0, metavar="P")
    sampling.add_argument("--repetition-penalty", type=number(0.01, 100), default=1.0, metavar="R")
    sampling.add_argument("--seed", type=whole(0, (1 << 63) - 1), default=0, metavar="N")

    graph = parser.add_argument_group("an ONNX graph")
    graph.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="NAME=FILE.npy",
        help="an input's values (default: random)",
    )
    graph.add_argument(
        "--dim", action="append", default=[], metavar="NAME=N", help="size of a symbolic dimension"
    )
    graph.add_argument(
        "--slices",
        type=whole(1, 3),
        default=3,
        metavar="N",
        help="8-bit slices of both operands of products, 1 to 3 (default: 3, as good as FP32)",
    )
    graph.add_argument("--save", metavar="FILE.npz", help="write the outputs")

    output = parser.add_argument_group("what to write")
    output.add_argument("--report", metavar="FILE", help="a self-contained HTML report")
    output.add_argument("--trace", metavar="FILE", help="an engine timeline for ui.perfetto.dev")
    add_dump(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Stream the answer to stdout, then print what it took on the chip; write report and trace.

    Returns prompt, text, counts, chip, `phases` (Phase.facts of "prefill" and "decode") and `host`.
    A report is drawn from these and, of one decode step, what report.step adds.
    """
    from mellivora.runtime.llm import LLM, check_prompt
    from mellivora.runtime.sampling import Sampling

    if is_onnx(args.model):
        from mellivora.commands._graph import run_graph

        return run_graph(args)
    report, trace = check_output(args.report), check_output(args.trace)
    sampling = Sampling(
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        min_p=args.min_p,
        repetition_penalty=args.repetition_penalty,
        seed=args.seed,
    )
    progress = Progress()
    front, _ = open_model(args.model)
    prompt = read_prompt() if args.prompt is None else args.prompt
    ids = prompt_ids(front, prompt, system=args.system, raw=args.raw)
    check_prompt(ids, front.config.context, front.config.context)  # before the model is compiled
    llm = LLM(
        front,
        args.chip,
        cores=args.cores,
        activations=args.activations,
        max_batch=args.batch,
        context=rounded_context(len(ids) + args.max_new_tokens, front.config.context),
        say=progress.say,
        dump_after=args.dump_after,
        dump=print,
    )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows another
    answer = _answer(llm, ids, args, sampling, progress)
    facts = _measure(llm, answer, args.batch, progress)
    facts |= {"prompt": prompt, "off_chip_operators": []}
    if report or trace:
        _write(llm, facts, report, trace)
    return facts


def read_prompt() -> str:
    """Standard input, all of it. Raises UsageError MV0833 where nobody will ever type it."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "MV0833",
            "there is no prompt",
            allowed="a text after MODEL, or on standard input",
            hint='mellivora run smollm2 "Why is the sky blue?"',
        )
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise UsageError(
            "MV0835",
            "the prompt on standard input is not text",
            given=str(error),
            allowed=f"text in {error.encoding}",
            hint="convert it, or give the prompt as an argument",
        ) from None


def prompt_ids(model: LanguageModel, prompt: str, *, system: str | None, raw: bool) -> list[int]:
    """Ids of a prompt, by the model's chat template unless raw or without one."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise UsageError(
            "MV0834",
            "the model has no tokenizer, so it cannot read a prompt",
            where=model.source,
            hint="give a model file with its tokenizer, or use mellivora.LLM with token ids",
        )
    if raw or (model.chat_template is None and system is None):
        return tokenizer.encode(prompt)
    messages = [{"role": "system", "content": system}] if system is not None else []
    return tokenizer.encode_chat([*messages, {"role": "user", "content": prompt}])


def _answer(
    llm: LLM, ids: list[int], args: argparse.Namespace, sampling: Any, progress: Progress
) -> dict[str, Any]:
    """Generate; the first copy's text is shown as it comes."""
    texts, counts, finish = [""] * args.batch, [0] * args.batch, [""] * args.batch
    progress.say("preparing the device")
    llm.engine.device.prepare()
    progress.say(f"reading {len(ids)} tokens")
    started = time.perf_counter()
    first_s = 0.0
    for piece in llm.generate_batch(
        [ids] * args.batch, max_new_tokens=args.max_new_tokens, sampling=sampling, stop=args.stop
    ):
        if not any(counts):
            first_s = time.perf_counter() - started
            progress.clear()
        counts[piece.index] += 1
        texts[piece.index] += piece.text
        finish[piece.index] = piece.finish
        if piece.index == 0 and piece.text:
            print(piece.text, end="", flush=True)
    print(flush=True)
    seconds = time.perf_counter() - started
    return {
        "prompt_tokens": len(ids),
        "text": texts[0],
        "texts": texts,
        "tokens": counts[0],
        "finish": finish[0],
        "host": {
            "first_token_seconds": first_s,
            "seconds": seconds,
            "tokens_per_s": (sum(counts) - 1) / max(seconds - first_s, 1e-9),
        },
    }


def _measure(llm: LLM, answer: dict[str, Any], batch: int, progress: Progress) -> dict[str, Any]:
    """What the same launches take on the chip; prints the tables."""
    from mellivora.commands._table import phase_lines, scaled
    from mellivora.runtime.measure import measure_decode, measure_prefill

    progress.say("timing")
    started = time.perf_counter()
    prefill = measure_prefill(llm.engine, answer["prompt_tokens"])
    phases, titles = [prefill], [f"prefill of {prefill.tokens} tokens"]
    steps = answer["tokens"] - 1  # prefill gave the first
    if steps:
        decode = measure_decode(llm.engine, answer["prompt_tokens"], steps, batch=batch)
        phases.append(decode)
        titles.append(f"decode of {steps} steps of {batch}, from {prefill.tokens} tokens on")
    timing_s = time.perf_counter() - started
    progress.clear()
    host = {**answer["host"], "timing_seconds": timing_s, "compiled_from_cache": llm.from_cache}
    rate = f"{phases[1].tokens_per_s:,.1f} tokens/s" if steps else "one token only"
    print(
        f"\non the chip ({llm.chip.name}, {', '.join(llm.executable.formats)} weights, "
        f"{llm.activations} activations; simulated)"
    )
    print(f"  first token after {scaled(prefill.seconds, 's')}, then {rate}")
    print(
        f"on this host  first token after {host['first_token_seconds']:.2f} s, then "
        f"{host['tokens_per_s']:.1f} tokens/s; timing took {timing_s:.2f} s"
    )
    for title, phase in zip(titles, phases, strict=True):
        print("\n" + "\n".join(phase_lines(phase, title)))
    for note in llm.notes:
        print(f"note: {note}")
    return {
        "model": llm.model.graph.name,
        "source": llm.model.source,
        "chip": llm.chip.values(),
        "fingerprint": llm.chip.fingerprint(),
        "activations": llm.activations,
        "weight_formats": llm.executable.formats,
        "batch": batch,
        **{key: answer[key] for key in ("text", "texts", "finish", "prompt_tokens", "tokens")},
        "first_token_seconds": prefill.seconds,
        "tokens_per_s": phases[1].tokens_per_s if steps else None,
        "phases": {phase.name: phase.facts() for phase in phases},
        "host": host,
        "notes": llm.notes,
    }


def _write(llm: LLM, facts: dict[str, Any], report: Path | None, trace: Path | None) -> None:
    """Report and trace of one decode step in the middle of the answer, each file whole or not at
    all.
    """
    position = min(facts["prompt_tokens"] + facts["tokens"] // 2, llm.executable.context - 1)
    batch = [(slot, 0, position) for slot in range(facts["batch"])]
    result = llm.engine.device.timing("decode", llm.engine.decode_settings(batch))
    symbols = llm.engine.device.program.entries["decode"].symbols
    if report:
        from mellivora.report import write_report
        from mellivora.report.step import step_facts

        write_report(report, {**facts, **step_facts(llm.engine, result)})
        print(f"wrote {report}")
    if trace:
        from mellivora.sim.trace import write_trace

        write_trace(trace, result, symbols=symbols)
        print(f"wrote {trace}")
