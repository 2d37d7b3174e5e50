"""`mellivora bench MODEL`: prefill and decode rates on the chip, and of the simulation itself."""

from __future__ import annotations

import argparse

from mellivora.commands._arguments import add_activations, add_chip, add_cores, add_model, whole


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
        "--timing", action="store_true", help="cycles only: compute no values, read no weights"
    )
