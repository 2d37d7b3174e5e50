"""What a chip is: `ChipSpec`, presets, and every figure that follows from them."""

from mellivora.spec.chip import (
    BLOCK_TERMS,
    DRAM_KINDS,
    INTEGER_FORMATS,
    OPERAND_FORMATS,
    PASSES,
    ChipError,
    ChipSpec,
)
from mellivora.spec.load import load_chip, parse_chip, preset_names
from mellivora.spec.rules import Fault

__all__ = [
    "BLOCK_TERMS",
    "DRAM_KINDS",
    "INTEGER_FORMATS",
    "OPERAND_FORMATS",
    "PASSES",
    "ChipError",
    "ChipSpec",
    "Fault",
    "load_chip",
    "parse_chip",
    "preset_names",
]
