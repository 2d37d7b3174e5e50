"""The whole chip as RTL: peak rates, faults that move nothing, a memory that stalls."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mellivora.errors import SpecError, UsageError
from mellivora.isa import assemble
from mellivora.isa.modes import BFormat, matmul_mode
from mellivora.isa.random_programs import random_program
from mellivora.rtl.chip import Chip
from mellivora.rtl.chip_simulation import chip_simulation
from mellivora.rtl.chip_text import chip_rtlil, top_name
from mellivora.rtl.cosim import cosim
from mellivora.rtl.emit import verilog_of
from mellivora.rtl.verilator import lint_modules
from mellivora.sim.functional import Machine
from mellivora.spec import load_chip

NANO = load_chip("nano")
BYTES = 1 << 16


def launch(text: str, chip=NANO, *, dram=None, windows=((0, BYTES),), **options):
    dram = np.arange(BYTES, dtype=np.uint32).astype(np.uint8) if dram is None else dram
    run = chip_simulation(chip).run(
        assemble(text), [0], dram=dram, windows=list(windows), **options
    )
    return run, dram


def test_a_full_matmul_reaches_95_percent_of_peak():
    m, blocks = NANO.accumulator_rows, 16
    mode = matmul_mode(BFormat.MX8, a_slices=1, b_slices=1)
    width = 33 * NANO.columns  # codes and scales of a block
    run, _ = launch(
        f"mcfg 512 0 16 {NANO.columns} 0 {width} 0 0\n"
        f"li r8 34816\nli r9 36864\nmatmul 0 0 r8 r9 {m} {blocks} {NANO.columns} {mode}\nhalt"
    )
    assert not run.faults
    cycles = int(run.end[0][0] - run.start[0][0])
    macs = 32 * m * NANO.columns * blocks
    assert macs / cycles >= 0.95 * NANO.peak_macs_per_cycle


@pytest.mark.nightly
def test_a_streaming_load_reaches_95_percent_of_the_port():
    chip = NANO.replace(name="nano_fast", dram_gbps=64)
    run, _ = launch(
        "loop 8 1\nload 0 0 0 0 r9 1 1 1\nhalt".replace("loop", "li r9 49152\nloop"), chip
    )
    assert not run.faults
    cycles = int(run.end[0].max()) - int(run.start[0][0])
    assert 8 * 49152 / cycles >= 0.95 * chip.core_port_bytes_per_cycle


@pytest.mark.parametrize(
    "text",
    [
        "load 0 0 0 0 65 1 1 1",
        "store 0 0 0 0 65 1 1 1",  # a byte too many
        "load 0 2 1 0 64 1 1 1",
        "store 0 2 0 0 1 1 1 1",  # begins in it, or past it
        "li r9 -1\nload 0 r9 0 0 8 1 1 1",
        "li r9 -1\nstore 0 0 r9 0 8 1 1 1",
        "load 1 0 0 0 8 1 1 1",
        "store 15 0 0 0 8 1 1 1",  # no such window
        "li r9 -64\nscfg r9 0 0 64 0 0\nstore 0 0 0 0 8 2 1 1",
        "li r9 2147483647\nlcfg r9 0 0 0 0 0 0\nload 0 0 0 0 8 2 1 1",
    ],
)
def test_a_program_that_leaves_its_window_moves_no_byte(text):
    dram = np.arange(BYTES, dtype=np.uint32).astype(np.uint8)
    before = dram.copy()
    windows = [(128, 64)]
    run, dram = launch(f"{text}\nhalt", dram=dram, windows=windows)
    assert [(one.core, one.cause) for one in run.faults] == [(0, 2)]
    assert run.read_beats == run.write_beats == 0
    assert not run.bus_error
    assert (dram == before).all()
    assert not run.scratchpads.any()
    result = cosim(assemble(f"{text}\nhalt"), [0], chip=NANO, dram=before, windows=windows)
    assert result.equal, result.report()


@pytest.mark.parametrize("cause", range(1, 10))
def test_each_fault_cause_gives_the_same_record(cause):
    for seed in range(20):
        program = random_program(seed, NANO, fault=cause)
        result = cosim(
            program.code,
            program.parameters,
            chip=NANO,
            dram=program.dram,
            windows=program.windows,
            limit_cycles=400_000,
        )
        assert result.equal, f"seed {seed}: {result.report()}"
        assert result.fault.cause == cause


def test_a_memory_that_stalls_changes_no_byte():
    for seed in range(40):
        program = random_program(seed, NANO)
        machine = Machine(NANO, dram=program.dram.copy(), windows=program.windows)
        machine.load(program.code)
        machine.run(program.parameters)
        dram = program.dram.copy()
        run = chip_simulation(NANO).run(
            program.code,
            program.parameters,
            dram=dram,
            windows=program.windows,
            stall_seed=seed + 1,
        )
        assert run.stopped
        assert not run.faults
        assert (dram == machine.dram).all(), f"seed {seed}"
        assert (run.scratchpads[0] == machine.cores[0].scratchpad).all(), f"seed {seed}"


@pytest.mark.parametrize(("window", "code"), [((32, 64), "MV0883"), ((64, BYTES), "MV0852")])
def test_windows_begin_at_bursts_of_dram(window, code):
    with pytest.raises(UsageError) as error:
        launch("halt", windows=[window])
    assert error.value.code == code


def test_a_chip_whose_memory_answers_too_soon_is_refused():
    with pytest.raises(SpecError) as error:
        Chip(NANO.replace(dram_latency_cycles=7))
    assert error.value.code == "MV0120"


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["m1", "predecessor"])
def test_every_preset_has_a_top_level(name):
    """In Verilog, clean in a second tool; of `predecessor`, which has no DRAM, with no masters."""
    chip = load_chip(name)
    text = verilog_of(chip_rtlil(chip), top := top_name(chip))
    (head,) = re.findall(rf"(?ms)^module {top}\((.*?)\);$", text)
    assert len(re.findall(r"memory_\d+__arvalid", head)) == chip.dram_slots
    assert lint_modules(text) == {}
