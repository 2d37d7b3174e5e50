"""`mellivora eval MODEL --text FILE`: perplexity of a model as the chip computes it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mellivora.commands._arguments import add_activations, add_chip, add_cores, add_model, whole
from mellivora.commands._models import open_model, rounded_context
from mellivora.commands._progress import Progress
from mellivora.errors import UsageError

if TYPE_CHECKING:
    from mellivora.frontends.llm import LanguageModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `eval`."""
    add_model(parser)
    parser.add_argument("--text", required=True, metavar="FILE", help="UTF-8 text to score")
    parser.add_argument(
        "--last-chars", type=whole(1), metavar="N", help="score only the last N characters"
    )
    parser.add_argument(
        "--windows", type=whole(1), default=8, metavar="N", help="windows to score (default: 8)"
    )
    parser.add_argument(
        "--length", type=whole(2), default=512, metavar="N", help="tokens a window (default: 512)"
    )
    add_chip(parser)
    add_cores(parser)
    add_activations(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Score the text; print perplexity. Raises UsageError MV0831 (unreadable text), MV0816 (too
    short).
    """
    from mellivora.runtime.llm import LLM, check_windows

    progress = Progress()
    started = time.perf_counter()
    text = read_text(args.text)
    front, _ = open_model(args.model)
    ids = tokens_of(front, text if args.last_chars is None else text[-args.last_chars :])
    check_windows(len(ids), args.windows, args.length, front.config.context)
    llm = LLM(
        front,
        args.chip,
        cores=args.cores,
        activations=args.activations,
        max_batch=1,
        context=min(rounded_context(args.length, front.config.context), front.config.context),
        say=progress.say,
    )

    def show(done: int, total: int, so_far: float) -> None:
        progress.say(f"window {done} of {total}: perplexity {so_far:.4f} so far")

    score = llm.perplexity(ids, args.windows, args.length, progress=show)
    progress.clear()
    seconds = time.perf_counter() - started
    print(f"perplexity {score.perplexity:.4f}")
    print(
        f"tokens     {score.tokens} scored, {args.windows} windows of {args.length}, of {len(ids)}"
    )
    print(
        f"computed   {llm.chip.name}, activations {args.activations}, {seconds:.1f} s on this host"
    )
    return {
        "model": llm.model.graph.name,
        "chip": llm.chip.name,
        "activations": args.activations,
        "perplexity": score.perplexity,
        "tokens": score.tokens,
        "nats": score.nats,
        "windows": args.windows,
        "length": args.length,
        "text_tokens": len(ids),
        "host_seconds": seconds,
        "notes": llm.notes,
    }


def read_text(path: str) -> str:
    """A UTF-8 file; a byte order mark is not text. Raises UsageError MV0831."""
    try:
        return Path(path).read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            "MV0831",
            "the text cannot be read",
            where=path,
            given=str(reason),
            allowed="a UTF-8 text file",
            hint="check the path and the encoding",
        ) from None


def tokens_of(model: LanguageModel, text: str) -> list[int]:
    """Ids without BOS; nothing in the text counts as a special token."""
    if model.tokenizer is None:
        raise UsageError(
            "MV0832",
            "the model has no tokenizer, so it cannot read a text",
            where=model.source,
            hint="give a model file with its tokenizer",
        )
    return model.tokenizer.encode(text, special=False, add_bos=False)
