"""Functional simulator, timing simulator and RTL agree on random legal programs, bit and cycle.

The sizes: 2,000 programs with every change, 50,000 in `make nightly`. Seeds are printed with a
difference; `mellivora rtl cosim --random 1 --seed S` runs one again.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mellivora.isa import assemble
from mellivora.isa.random_programs import random_program
from mellivora.rtl.chip_simulation import ChipSimulation, RtlRun
from mellivora.rtl.cosim import cosim
from mellivora.rtl.random_runs import CAUSES, FAULT_EVERY, fault_of, run_random
from mellivora.spec import ChipSpec, load_chip

CRASHERS = sorted((Path(__file__).parents[1] / "crashers").glob("*.mva"))
NANO, MICRO = load_chip("nano"), load_chip("micro")
WIDE = NANO.replace(
    name="wide",
    cores=2,
    outstanding_transfers=4,
    dram_gbps=160,
    core_port_bytes_per_cycle=2 * NANO.dram_burst_bytes,
)
"""2 1/2 bursts a cycle from DRAM, two of them at most to a core."""
BATCH = 250
CHIPS = {"nano": NANO, "micro": MICRO, "wide": WIDE}
DAILY = [("nano", first) for first in range(0, 1750, BATCH)] + [("wide", 0)]
"""`micro`, larger and with a burst a cycle for its two cores, is left to the night: a minute and a
half to compile."""
NIGHTLY = [("nano", first) for first in range(10_000, 40_000, 2500)]
NIGHTLY += [(name, first) for name in ("micro", "wide") for first in range(10_000, 20_000, 2500)]


def check(chip: ChipSpec, first: int, count: int) -> None:
    facts = run_random(chip, count=count, seed=first)
    assert not facts["reports"], "\n".join(facts["reports"][:3])
    assert facts["differing_bits"] == facts["differing_cycles"] == 0
    assert facts["programs"] == count
    assert facts["operations"] > 8 * count, "programs that do something"
    wanted = sum(fault_of(seed) is not None for seed in range(first, first + count))
    assert facts["faults"] == wanted > 0


@pytest.mark.parametrize(("chip", "first"), DAILY)
def test_random_programs(chip, first):
    check(CHIPS[chip], first, BATCH)


@pytest.mark.nightly
@pytest.mark.parametrize(("chip", "first"), NIGHTLY)
def test_many_random_programs(chip, first):
    check(CHIPS[chip], first, 2500)


def test_the_sizes_are_those_promised():
    assert len(DAILY) * BATCH == 2000
    assert len(NIGHTLY) * 2500 == 50_000


def test_every_cause_is_among_the_faulty_seeds():
    assert {fault_of(seed) for seed in range(FAULT_EVERY * CAUSES)} == {None, *range(1, CAUSES + 1)}


@pytest.mark.parametrize("path", CRASHERS, ids=lambda path: path.stem)
def test_crashers_agree(path):
    head = re.search(r"chip (\w+), seed (\d+)", path.read_text("utf-8"))
    assert head, "a crasher says its chip and seed"
    text = path.read_text("utf-8")
    chip = CHIPS[head[1]]
    values = re.search(r"^; parameters (.*)$", text, re.MULTILINE)
    assert values, "and its parameters"
    program = random_program(int(head[2]), chip)
    result = cosim(
        assemble(text),
        [[int(one) for one in core.split()] for core in values[1].split("|")],
        chip=chip,
        dram=program.dram,
        windows=program.windows,
        limit_cycles=400_000,
    )
    assert result.equal, result.report()


PROGRAM = """
lcfg 0 0 0 0 0 0 0
load 0 0 0 0 256 1 1 1 !1
vcfg 32 32 32 32 0 0 0
vew 1024 0 128 0 2 8 1 0 ?1
halt
"""


def run(change=None, monkeypatch=None):
    if change:
        original = ChipSimulation.run

        def changed(self, *args, **kwargs) -> RtlRun:
            made = original(self, *args, **kwargs)
            change(made)
            return made

        monkeypatch.setattr(ChipSimulation, "run", changed)
    dram = np.arange(4096, dtype=np.uint8)
    return cosim(assemble(PROGRAM), [0], chip=NANO, dram=dram, windows=[(0, 4096)])


def test_a_difference_of_one_bit_names_the_instruction(monkeypatch):
    def flip(made: RtlRun) -> None:
        made.scratchpads[0, 1030] ^= 4

    result = run(flip, monkeypatch)
    assert result.differing_bits == 1
    assert result.differing_cycles == 0
    difference = result.difference
    assert (difference.kind, difference.core, difference.pc) == ("bits", 0, 3)
    assert difference.text.startswith("vew 1024 0 128 0 2 8")
    assert "dst_stride=32" in difference.operands
    assert difference.expected != difference.got


def test_a_difference_of_one_cycle_names_the_instruction(monkeypatch):
    def late(made: RtlRun) -> None:
        made.end[0][1] += 1

    result = run(late, monkeypatch)
    assert (result.differing_bits, result.differing_cycles) == (0, 1)
    assert (result.difference.kind, result.difference.pc) == ("end", 3)


def test_a_program_that_does_not_stop_is_a_difference(monkeypatch):
    def hang(made: RtlRun) -> None:
        made.stopped = False
        made.end[0][1] = -1

    result = run(hang, monkeypatch)
    assert (result.difference.kind, result.difference.pc) == ("hang", 3)


def test_equal_machines_say_so():
    result = run()
    assert result.equal
    assert result.report().startswith("equal: 2 operations, ")
    assert result.cycles == result.rtl_cycles > 100
