"""`mellivora compile MODEL -o FILE`: a program file, checked, ready to load."""

from __future__ import annotations

import argparse

from mellivora.commands._arguments import (
    add_activations,
    add_chip,
    add_cores,
    add_dump,
    add_model,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `compile`."""
    add_model(parser)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="program to write")
    add_chip(parser)
    add_cores(parser)
    add_activations(parser)
    add_dump(parser)
