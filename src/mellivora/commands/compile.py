"""`mellivora compile MODEL -o FILE`: a program file, checked, ready to load."""

from __future__ import annotations

import argparse
from typing import Any

from mellivora.commands._arguments import (
    add_activations,
    add_chip,
    add_cores,
    add_dump,
    add_model,
    whole,
)
from mellivora.commands._models import check_output, open_model
from mellivora.commands._progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `compile`."""
    add_model(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="program to write")
    add_chip(parser)
    add_cores(parser)
    add_activations(parser)
    parser.add_argument(
        "--batch", type=whole(1), default=8, metavar="N", help="sequences at once (default: 8)"
    )
    parser.add_argument(
        "--context", type=whole(1), metavar="N", help="tokens a sequence has (default: 2048)"
    )
    add_dump(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Write the program, and its weights beside it; all files or none."""
    from mellivora.runtime.llm import LLM

    output = check_output(args.output)
    assert output is not None
    progress = Progress()
    front, weights = open_model(args.model, catalogue=True)
    llm = LLM(
        front,
        args.chip,
        cores=args.cores,
        activations=args.activations,
        max_batch=args.batch,
        context=args.context,
        shapes_only=not weights,
        cache=False,
        say=progress.say,
        dump_after=args.dump_after,
        dump=print,
    )
    progress.say(f"writing {output}")
    files = llm.executable.save(output)
    progress.clear()
    sizes = {str(path): path.stat().st_size for path in files}
    for path, size in sizes.items():
        print(f"{path}  {size:,} bytes")
    e = llm.executable
    entries = {name: len(entry.code) for name, entry in e.program.entries.items()}
    print(f"for {llm.chip.name}: {e.slots} sequences of {e.context} tokens")
    print("instructions: " + ", ".join(f"{name} {count:,}" for name, count in entries.items()))
    for note in llm.notes:
        print(f"note: {note}")
    return {
        "files": sizes,
        "model": llm.model.graph.name,
        "chip": llm.chip.name,
        "fingerprint": llm.chip.fingerprint(),
        "activations": args.activations,
        "entries": entries,
        "windows": {w.name: w.bytes for w in e.program.windows},
        "batch": e.slots,
        "context": e.context,
        "chunk": e.chunk,
        "notes": llm.notes,
    }
