"""Random programs: legal ones are proven so, and both backends agree; wrong ones fault as asked."""

from __future__ import annotations

import numpy as np
import pytest

from mellivora.isa import Fault, assemble, resolve
from mellivora.isa.check import check
from mellivora.isa.legal import check_code
from mellivora.isa.random_programs import CAUSES, RandomProgram, random_program
from mellivora.sim.functional import Backend, FaultRecord, Machine
from mellivora.sim.timing import check_windows, simulate
from mellivora.spec import load_chip

CHIPS = {
    "nano": load_chip("nano"),
    "micro": load_chip("micro"),
    "three cores": load_chip("micro").replace(cores=3),
    "m1": load_chip("m1").replace(cores=2, sram_bytes=1 << 18),
}
SEEDS = {"nano": 60, "micro": 25, "three cores": 12, "m1": 6}
ALL = [(name, seed) for name, count in SEEDS.items() for seed in range(count)]


def run(program: RandomProgram, backend: Backend) -> tuple[Machine, FaultRecord | None]:
    machine = Machine(
        program.chip, dram=program.dram.copy(), windows=program.windows, backend=backend
    )
    machine.load(program.code)
    try:
        machine.run(program.parameters, poison=True)
    except Fault as fault:
        return machine, fault.record  # type: ignore[attr-defined]
    return machine, None


def rows_of(program: RandomProgram) -> list[np.ndarray]:
    cores = program.chip.cores
    memory = program.parameters.tolist()
    return [resolve(program.code, memory[i], core_id=i, cores=cores) for i in range(cores)]


@pytest.mark.parametrize(("name", "seed"), ALL)
def test_is_legal(name: str, seed: int) -> None:
    chip = CHIPS[name]
    program = random_program(seed, chip)
    check_code(program.code, chip)
    check_windows(program.windows, chip)
    rows = rows_of(program)
    report = check(rows, chip, program.window_list)
    assert report.rows >= 10 * chip.cores
    assert 200 < simulate(rows, chip).cycles < 20_000
    assert np.array_equal(assemble(program.text), program.code)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ["nano", "micro"])
def test_backends_agree(name: str, seed: int) -> None:
    (one, fault), (two, none) = (
        run(random_program(seed, CHIPS[name]), backend) for backend in ("native", "reference")
    )
    assert fault is none is None
    assert np.array_equal(one.dram, two.dram)
    for core, other in zip(one.cores, two.cores, strict=True):
        assert np.array_equal(core.scratchpad, other.scratchpad)
        assert np.array_equal(core.accumulators, other.accumulators)


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("name", ["nano", "micro"])
def test_faults_as_asked(name: str, cause: int) -> None:
    chip = CHIPS[name]
    places: set[tuple[str, int]] = set()
    for seed in range(12):
        program = random_program(seed, chip, fault=cause)
        _, record = run(program, "native")
        assert record is not None, seed
        assert (record.cause, record.core) == (cause, program.fault_core), (seed, record)
        if seed % 6 == 0:
            assert run(program, "reference")[1] == record
        places.add((record.engine, record.pc))
    assert len(places) > 4  # not always the same one


def test_the_seed_is_the_program() -> None:
    one, two, other = (random_program(seed, CHIPS["micro"]) for seed in (5, 5, 6))
    assert np.array_equal(one.code, two.code)
    assert np.array_equal(one.dram, two.dram)
    assert one.windows == two.windows
    assert one.text != other.text


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["nano", "micro"])
@pytest.mark.parametrize("block", range(10))
def test_many_are_legal(name: str, block: int) -> None:
    chip = CHIPS[name]
    for seed in range(1000 + 500 * block, 1500 + 500 * block):
        program = random_program(seed, chip)
        check(rows_of(program), chip, program.window_list)
        cause = 1 + seed % len(CAUSES)
        wrong = random_program(seed, chip, fault=cause)
        _, record = run(wrong, "native")
        assert record is not None, seed
        assert (record.cause, record.core) == (cause, wrong.fault_core), (seed, record)
