"""The program that `mellivora rtl` runs: a text, a compiled one, or a random one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from mellivora.errors import UsageError
from mellivora.isa.encoding import PARAMETERS

DRAM_LIMIT_BYTES = 1 << 30
"""Of a compiled program on the RTL: the image is there once for each of the machines."""


def program_of(args: argparse.Namespace, chip: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Code, parameters, DRAM image, windows and chip of what the command line names."""
    from mellivora.isa import assemble
    from mellivora.isa.random_programs import random_program

    if args.program is None:
        one = random_program(args.seed, chip)
        return one.code, one.parameters, one.dram, one.windows, chip
    path = Path(args.program)
    values = _parameters(args.parameters)
    if not path.is_file():
        raise UsageError(
            "MV0893",
            "there is no such program",
            given=str(path),
            hint="give a text of instructions or a .mvp file",
        )
    if path.suffix == ".mvp":
        from mellivora.isa.program import Program

        program = Program.load(path, chip=chip if args.chip else None)
        name = args.entry or next(iter(program.entries))
        if name not in program.entries:
            raise UsageError(
                "MV0894",
                "the program has no such entry",
                given=name,
                allowed=", ".join(program.entries),
            )
        entry = program.entries[name]
        rows = [entry.parameter_memory(core, {}) for core in range(program.chip.cores)]
        for row in rows:
            row[len(row) : len(values)] = []
        memory = np.array(rows, np.int32)
        memory[:, : len(values)] = values
        windows = program.placement()
        burst = program.chip.dram_burst_bytes
        size_bytes = -(-sum(windows[-1]) // burst) * burst
        if size_bytes > DRAM_LIMIT_BYTES:
            raise UsageError(
                "MV0899",
                "the program's memory is too large for the simulation of RTL",
                given=f"{size_bytes:,} bytes",
                allowed=f"{DRAM_LIMIT_BYTES:,} bytes or less",
                hint="compile a smaller model, or fewer and shorter sequences",
            )
        return entry.code, memory, _noise(args.seed, size_bytes), windows, program.chip
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise UsageError(
            "MV0898",
            "this program is no text",
            given=str(path),
            allowed="instructions in UTF-8; compiled programs are named .mvp",
        ) from None
    code = assemble(text)
    return code, values, _noise(args.seed, 1 << 20), [(0, 1 << 20)], chip


def _parameters(text: str) -> list[int]:
    try:
        values = [int(v, 0) for v in text.split(",") if v]
    except ValueError:
        values = [1 << 31]
    if len(values) > PARAMETERS or not all(-(1 << 31) <= v < 1 << 31 for v in values):
        raise UsageError(
            "MV0892",
            "these are no parameters",
            given=text if len(text) < 80 else f"{text[:80]}...",
            allowed=f"up to {PARAMETERS} whole numbers of 32 bits with sign, commas between",
        )
    return values


def _noise(seed: int, size_bytes: int) -> Any:
    """What is in DRAM: random bytes, so that no two places have the same by chance."""
    return np.random.default_rng(seed).integers(0, 256, size_bytes, dtype=np.uint8)
