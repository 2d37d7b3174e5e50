"""One picture by itself: `python -m mellivora.report.PICTURE [MODEL or FACTS.json] [-o FILE]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mellivora.errors import MellivoraError, UsageError
from mellivora.report.figure import Figure

Draw = Callable[[Mapping[str, Any]], Sequence["Figure | None"]]


def main(name: str, draw: Draw, argv: Sequence[str] | None = None) -> None:
    """Draw what `draw` makes of the facts of a run, as a page. Exits 2 on a user's error."""
    from mellivora.report.html import write_page

    parser = argparse.ArgumentParser(prog=f"python -m mellivora.report.{name}", description=__doc__)
    parser.add_argument("-o", "--output", default=f"{name}.html", metavar="FILE")
    add_source(parser)
    args = parser.parse_args(argv)
    try:
        facts = facts_of(args)
        found = [one for one in draw(facts) if one]
        if not found:
            raise UsageError(
                "MV0885",
                "the facts have nothing for this picture",
                where=args.source,
                hint="give a model, or facts with a timeline and a memory map",
            )
        write_page(args.output, f"{facts['model']}: {name.replace('_', ' ')}", found)
    except MellivoraError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(f"wrote {args.output}")


def add_source(parser: argparse.ArgumentParser) -> None:
    """MODEL or FACTS.json, and how to run a model."""
    parser.add_argument("source", nargs="?", default="tiny", metavar="MODEL|FACTS.json")
    parser.add_argument("--chip", default="m1", metavar="CHIP")
    parser.add_argument("--prompt", default="Why is the sky blue?", metavar="TEXT")
    parser.add_argument("--max-new-tokens", type=int, default=16, metavar="N")


def facts_of(args: argparse.Namespace) -> dict[str, Any]:
    """Facts out of a JSON file, or of a short run of a model."""
    path = Path(args.source)
    if path.suffix != ".json":
        return run_model(
            args.source, chip=args.chip, prompt=args.prompt, max_new_tokens=args.max_new_tokens
        )
    try:
        facts = json.loads(path.read_text("utf-8"))
        if not isinstance(facts, dict) or "chip" not in facts:
            raise ValueError('no object with a "chip"')
    except (OSError, ValueError) as error:
        raise UsageError(
            "MV0886",
            "the file has no facts of a run",
            where=str(path),
            given=str(error),
            allowed="what `mellivora run MODEL PROMPT --json` prints",
            hint="write one, or name a model",
        ) from None
    return facts


def run_model(model: str, *, chip: str, prompt: str, max_new_tokens: int) -> dict[str, Any]:
    """Run a model as `mellivora run` does, and give the facts of its report, plain values all."""
    from mellivora.report.step import step_facts
    from mellivora.runtime.llm import LLM
    from mellivora.runtime.measure import measure_decode, measure_prefill

    llm = LLM(model, chip, max_batch=1, context=512)
    tokenizer = llm.model.tokenizer
    if tokenizer is None:
        ids = [1, 2, 3]
    elif llm.model.chat_template is not None:
        ids = tokenizer.encode_chat([{"role": "user", "content": prompt}])
    else:
        ids = tokenizer.encode(prompt)
    pieces = list(llm.generate_batch([ids], max_new_tokens=max_new_tokens))
    prefill = measure_prefill(llm.engine, len(ids))
    measured = [prefill]
    if len(pieces) > 1:
        measured.append(measure_decode(llm.engine, len(ids), len(pieces) - 1))
    middle = llm.engine.decode_settings([(0, 0, len(ids) + len(pieces) // 2)])
    return {
        "model": llm.model.graph.name,
        "source": llm.model.source,
        "chip": llm.chip.values(),
        "fingerprint": llm.chip.fingerprint(),
        "activations": llm.activations,
        "weight_formats": llm.executable.formats,
        "batch": 1,
        "prompt": prompt,
        "text": "".join(piece.text for piece in pieces),
        "finish": pieces[-1].finish,
        "prompt_tokens": len(ids),
        "tokens": len(pieces),
        "first_token_seconds": prefill.seconds,
        "tokens_per_s": measured[-1].tokens_per_s if len(measured) > 1 else None,
        "phases": {phase.name: phase.facts() for phase in measured},
        "notes": llm.notes,
        **step_facts(llm.engine, llm.engine.device.timing("decode", middle)),
    }
