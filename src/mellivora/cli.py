"""The command `mellivora`: finds the subcommand, runs it, and turns errors into words and a status.

A subcommand is a module `mellivora.commands.NAME` with

    add_arguments(parser)      declares its options; imports nothing heavy
    run(args) -> dict | None   does the work; prints for people on stdout, returns facts for --json

With `--json` the returned object is the only thing on stdout; all else goes to stderr. Status:
0 done; 1 done, and the result has `ok` false (`doctor`); 2 an error with a code; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from mellivora import __version__
from mellivora.errors import MellivoraError, UsageError

COMMANDS = {
    "run": "answer a prompt with a language model on the simulated chip",
    "bench": "measure prefill and decode of a model on the chip, without a prompt",
    "eval": "perplexity of a model on a text, as the chip computes it",
    "chip": "show a chip: what it is and what follows from it",
    "compile": "compile a model to a program file",
    "rtl": "the chip as hardware: Verilog, co-simulation, waves, synthesis",
    "doctor": "say what this machine has and lacks",
}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are `UsageError`s, so that they have a code and a next step too."""

    def error(self, message: str) -> NoReturn:
        hint = f"see `{self.prog} --help`"
        raise UsageError("MV0801", "the command line is wrong", given=message, hint=hint)


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """The parser with all command names, and the options of the one command that argv names."""
    parser = Parser(
        prog="mellivora",
        description="An open AI inference chip: run models on it, bit for bit and cycle for cycle.",
        epilog="`mellivora COMMAND --help` lists a command's options.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mellivora {__version__}")
    choices = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    chosen = next((word for word in argv if word in COMMANDS), None)
    for name, summary in COMMANDS.items():
        sub = choices.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        if name == chosen:  # the other modules stay on disk
            importlib.import_module(f"mellivora.commands.{name}").add_arguments(sub)
            sub.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def execute(argv: Sequence[str]) -> tuple[int, dict[str, Any] | None]:
    """Run one command line: (status, the object for --json). Raises MellivoraError."""
    args = build_parser(argv).parse_args(argv)
    result = importlib.import_module(f"mellivora.commands.{args.command}").run(args)
    return (1 if result is not None and result.get("ok") is False else 0), result


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. argv: words after the program's name, default sys.argv. Returns the status."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    real_stdout = sys.stdout
    try:
        with contextlib.redirect_stdout(sys.stderr if as_json else real_stdout):
            status, result = _coded(words)
        if as_json:
            print(json.dumps(result, allow_nan=False), file=real_stdout)
        real_stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `mellivora chip m1 | head`: the reader left, nothing is wrong
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), real_stdout.fileno())
        return 141  # 128 + SIGPIPE, as other programs in a pipe
    return status


def _coded(words: Sequence[str]) -> tuple[int, dict[str, Any] | None]:
    try:
        return execute(words)
    except MellivoraError as error:
        sys.stdout.flush()
        print(error, file=sys.stderr)
        return 2, {"error": error.as_dict()}


if __name__ == "__main__":
    sys.exit(main())
