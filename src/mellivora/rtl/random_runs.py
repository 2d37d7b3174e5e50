"""Random legal programs on all three machines, by seed; what differs is kept as one small file.

A crasher is a text: the program as it parses back, and above it in comments chip, seed, cause and
the parameters of each core. Windows and DRAM are those of the seed.
`tests/crashers/` only grows: each file there is run by the tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mellivora.isa.random_programs import RandomProgram, random_program
from mellivora.rtl.chip_simulation import ChipSimulation
from mellivora.rtl.cosim import CosimResult, cosim
from mellivora.spec import ChipSpec
from mellivora.spec.dram_timing import dram_timing

FAULT_EVERY = 16
"""One program in so many has a fault, the causes in turn."""
CAUSES = 9
LIMIT_CYCLES = 400_000


def fault_of(seed: int) -> int | None:
    """The fault cause that the program of this seed has, None for most."""
    return seed // FAULT_EVERY % CAUSES + 1 if seed % FAULT_EVERY == FAULT_EVERY - 1 else None


def run_seed(
    seed: int,
    chip: ChipSpec,
    *,
    ecc: bool = False,
    rtl: ChipSimulation | None = None,
    flips: int = 0,
    banks: bool = False,
) -> tuple[RandomProgram, CosimResult]:
    """The program of a seed, and what the machines say of it. banks: over DRAM that has some."""
    program = random_program(seed, chip, fault=fault_of(seed))
    result = cosim(
        program.code,
        program.parameters,
        chip=chip,
        dram=program.dram,
        windows=program.windows,
        limit_cycles=LIMIT_CYCLES,
        ecc=ecc,
        rtl=rtl,
        flips=flips,
        flip_seed=seed,
        timing=dram_timing(chip) if banks else None,
    )
    return program, result


def run_random(
    chip: ChipSpec,
    *,
    count: int,
    seed: int = 0,
    keep: Path | None = None,
    say: Callable[[int, int], None] | None = None,
    ecc: bool = False,
    flips: int = 0,
    banks: bool = False,
) -> dict[str, Any]:
    """Programs of `count` seeds from `seed` on. Returns totals, and reports of differences.

    flips: with ecc, so many bits of scratchpads flip in each program that has no fault.
    banks: over DRAM with banks and refresh, SpecError MV0119 if the chip has none.
    """
    started = time.perf_counter()
    facts: dict[str, Any] = dict.fromkeys(
        (
            *("operations", "cycles", "differing_bits", "differing_cycles", "faults"),
            *("flips", "flips_read", "corrected"),
        ),
        0,
    )
    failed, reports = [], []
    for one in range(seed, seed + count):
        program, result = run_seed(one, chip, ecc=ecc, flips=flips, banks=banks)
        for name in (
            *("operations", "differing_bits", "differing_cycles"),
            *("flips", "flips_read", "corrected"),
        ):
            facts[name] += getattr(result, name)
        facts["cycles"] += result.rtl_cycles
        facts["faults"] += result.fault is not None
        if not result.equal:
            failed.append(one)
            reports.append(f"seed {one} on {chip.name}: {result.report()}")
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                path = keep / f"{chip.name}-{one}.mva"
                path.write_text(crasher(program, chip, result), "utf-8")
        if say and (one - seed) % 16 == 0:
            say(one - seed + 1, one)
    seconds = time.perf_counter() - started
    return {
        "programs": count,
        **facts,
        "failed_seeds": failed,
        "reports": reports,
        "seconds": seconds,
    }


def crasher(program: RandomProgram, chip: ChipSpec, result: CosimResult) -> str:
    """The one small file of a difference."""
    cause = "\n".join(f"; {line}" for line in result.report().splitlines())
    head = f"; chip {chip.name}, seed {program.seed}, fault {program.fault}\n{cause}\n"
    values = " | ".join(" ".join(map(str, row)) for row in program.parameters.tolist())
    return f"{head}; parameters {values}\n{program.text}"
