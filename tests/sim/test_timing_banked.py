"""The timing machine over a DRAM with banks: the same machine where the device is never late, and
what it takes where it is."""

from __future__ import annotations

import numpy as np
import pytest
from tests.sim.test_timing_twin import random_numbers, random_streams

from mellivora.isa import assemble, random_programs
from mellivora.isa.encoding import DRAM_UNIT_BYTES, R_CONFIG, R_OPCODE, R_SLOT
from mellivora.isa.table import BY_NAME
from mellivora.sim.expand import expand
from mellivora.sim.functional import Machine
from mellivora.sim.timing import ChipNumbers, MemoryDevice, PortNumbers, run_operations, simulate
from mellivora.sim.walks import WALK, walks
from mellivora.spec import load_chip
from mellivora.spec.dram_timing import IDEAL, dram_timing

NANO = load_chip("nano")
NEVER_FULL = 1 << 30


@pytest.mark.parametrize("block", range(6))
def test_a_device_that_is_never_late_changes_nothing(block):
    """The arbiter one grant at a time against its closed form, for every operation."""
    for seed in range(30):
        rng = np.random.default_rng([9, block, seed])
        cores = int(rng.choice([1, 2, 4, 16]))
        streams = random_streams(rng, cores=cores, steps=int(rng.integers(1, 30)))
        numbers = random_numbers(rng)._replace(latency=int(rng.choice([8, 9, 50])))
        ways = [np.zeros(len(table), WALK) for table in streams]
        for way, table in zip(ways, streams):
            way["count"], way["run"] = 1, 64 * table["bursts"]
        closed = run_operations(streams, numbers)
        stepped = run_operations(streams, numbers, (IDEAL, PortNumbers(64, NEVER_FULL), ways))
        for name, a, b in zip(("dispatch", "start", "end"), closed, stepped):
            for core in range(cores):
                assert a[core].tolist() == b[core].tolist(), (name, core, seed, numbers)


def bursts_of(walk: np.void, table: np.ndarray | None, size: int) -> list[int]:
    """Addresses of the bursts of a walk, from its definition."""
    out = []
    n0, n1, n2 = walk["count"].tolist()
    s0, s1, s2 = walk["step"].tolist()
    for k in range(n2):
        far = int(table[k]) if table is not None else k * s2
        for j in range(n1):
            for i in range(n0):
                first = int(walk["far"]) + i * s0 + j * s1 + far
                last = first + int(walk["run"]) - 1
                out += range(first // size * size, last + 1, size)
    return out


@pytest.mark.parametrize("seed", range(40))
def test_walks_reach_the_bytes_of_the_instruction(seed):
    """Of LOADs, STOREs and LOADXs of random programs: as many bursts as their cost says, and the
    bursts of all the bytes that the instruction's definition moves."""
    program = random_programs.random_program(seed, NANO)
    rows = expand(program.code, program.parameters[0])
    machine = Machine(NANO, dram=program.dram.copy(), windows=program.windows)
    machine.load(program.code)
    pages = np.zeros((1, 4096), np.int64)
    machine.run(program.parameters, pages=pages)
    found, offsets = walks(rows, program.windows, pages[0])
    moves = {code.opcode: code for code in map(BY_NAME.get, ("load", "loadm", "loadx", "store"))}
    used = 0
    checked = 0
    for row, walk in zip(rows, found):
        code = moves.get(int(row[R_OPCODE]))
        if code is None:
            assert walk["far"] == walk["run"] == 0
            continue
        expected = int(code.bursts(row[None], NANO)[0])
        slot, config = row[R_SLOT:].tolist(), row[R_CONFIG:].tolist()
        gathers = code.name == "loadx"
        if min(slot[4:8]) <= 0:
            assert expected == 0
            continue
        table = offsets[used : used + slot[7]] if gathers else None
        used += slot[7] if gathers else 0
        got = bursts_of(walk, table, NANO.dram_burst_bytes)
        assert len(got) == expected
        base = program.windows[slot[0]][0] + DRAM_UNIT_BYTES * slot[1] + slot[2]
        wanted = set()
        for k in range(slot[7]):
            far = int(table[k]) if table is not None else k * config[2]
            for j in range(slot[6]):
                for i in range(slot[5]):
                    at = base + i * config[0] + j * config[1] + far
                    wanted |= {b // 64 * 64 for b in range(at, at + slot[4])}
        assert set(got) == wanted
        checked += 1
    assert checked


def stream(loads: int, size: int) -> str:
    text = f"lcfg 0 0 0 0 0 0 0\nli r1 {size}\n"
    for i in range(loads):
        pad = "r1" if i % 2 else 0
        text += f"li r2 {i * size // DRAM_UNIT_BYTES}\nload 0 r2 0 {pad} r1 1 1 1\n"
    return text + "lsync !3\nvcfg 0 0 0 0 0 0 0\nvew 0 0 0 0 0 0 0 0 ?3\nhalt\n"


def test_a_stream_of_loads_gets_all_but_refresh():
    """1 MiB into `nano`: 8 cycles a burst, 280 of 3,906 lost to refresh, and after each the row is
    opened again; the first is in the latency."""
    size, loads = 16384, 64
    rows = [expand(assemble(stream(loads, size)), [0])]
    ideal = simulate(rows, NANO).cycles
    timing = dram_timing(NANO)
    cycles = simulate(rows, NANO, MemoryDevice(timing, [(0, loads * size)])).cycles
    assert abs(ideal - loads * size / 64 * 8) < 200
    refreshes = cycles // timing.refresh_interval
    lost = cycles - ideal
    assert refreshes * timing.refresh <= lost
    assert lost <= (refreshes + 1) * (timing.refresh + timing.activate + 8) + timing.activate


def test_stalls_fill_the_clock_here_too():
    rows = [expand(assemble(stream(8, 4096)), [0])]
    result = simulate(rows, NANO, MemoryDevice(dram_timing(NANO), [(0, 8 * 4096)]))
    whole = result.busy_cycles[0] + result.stall_cycles[0].sum(axis=1)
    assert (whole == result.cycles).all()


def test_a_memory_that_is_late_makes_nothing_earlier():
    for seed in range(20):
        program = random_programs.random_program(seed, NANO)
        rows = [expand(program.code, program.parameters[0])]
        late = simulate(rows, NANO, MemoryDevice(dram_timing(NANO), program.windows))
        assert (late.end[0] >= simulate(rows, NANO).end[0]).all()


def test_numbers_are_those_of_the_chip():
    assert ChipNumbers.of(NANO).latency == 100
    assert PortNumbers(64, 128)[2:] == (2, 5)
