"""`mellivora run MODEL PROMPT`: text from a language model on the simulated chip."""

from __future__ import annotations

import argparse

from mellivora.commands._arguments import (
    add_activations,
    add_chip,
    add_cores,
    add_dump,
    add_model,
    number,
    whole,
)


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

    output = parser.add_argument_group("what to write")
    output.add_argument("--report", metavar="FILE", help="a self-contained HTML report")
    output.add_argument("--trace", metavar="FILE", help="an engine timeline for ui.perfetto.dev")
    add_dump(parser)
