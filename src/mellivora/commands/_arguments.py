"""Options that several subcommands share, and the types that check their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec
    from mellivora.spec.dram_timing import DramTiming

ACTIVATIONS = ("mxint8", "x2", "x3")


def whole(low: int, high: int = 1 << 31) -> Callable[[str], int]:
    """An argparse type: a whole number from low to high."""

    def check(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            allowed = f"{low} or more" if high == 1 << 31 else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {allowed}")
        return value

    return check


def number(low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number from low to high."""

    def check(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:  # also refuses NaN
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return check


def add_model(parser: argparse.ArgumentParser) -> None:
    """The positional MODEL."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="smollm2, or a path: a GGUF file, a Hugging Face folder, an ONNX file",
    )


def add_chip(parser: argparse.ArgumentParser) -> None:
    """--chip, a preset's name or a TOML file."""
    parser.add_argument(
        "--chip", default="m1", metavar="CHIP", help="a preset or a TOML file (default: m1)"
    )


def add_activations(parser: argparse.ArgumentParser) -> None:
    """--activations, the format activations take before MATRIX."""
    parser.add_argument(
        "--activations",
        choices=ACTIVATIONS,
        default="mxint8",
        help="8, 16 or 24 bits of significand for activations (default: mxint8)",
    )


def add_cores(parser: argparse.ArgumentParser) -> None:
    """--cores, to use fewer cores than the chip has."""
    parser.add_argument(
        "--cores", type=whole(1), metavar="N", help="use N cores (default: all of the chip)"
    )


def add_dump(parser: argparse.ArgumentParser) -> None:
    """--dump-after, to see the compiler's work."""
    parser.add_argument(
        "--dump-after", metavar="PASS", help="print what the compiler has after this pass"
    )


def add_dram(parser: argparse.ArgumentParser) -> None:
    """--dram, what is beneath the arbiter."""
    parser.add_argument(
        "--dram",
        choices=("ideal", "banks"),
        default="ideal",
        help="a fixed latency and an exact rate, or banks with refresh and turnaround as well "
        "(default: ideal)",
    )


def timing_of(dram: str, chip: ChipSpec) -> DramTiming | None:
    """What --dram says of a chip. Raises SpecError MV0119 for banks that it does not have."""
    from mellivora.spec.dram_timing import dram_timing

    return dram_timing(chip) if dram == "banks" else None
