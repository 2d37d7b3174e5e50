"""`mellivora eval MODEL --text FILE`: perplexity of a model as the chip computes it."""

from __future__ import annotations

import argparse

from mellivora.commands._arguments import add_activations, add_chip, add_cores, add_model, whole


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
