"""Flips of the scratchpad's stored bits in running programs, with ECC and without.

The chip with ECC takes 230 s of one processor to compile for CXXRTL, and half a minute for
Verilator, where the flips of a word run: both are nightly, as the hardware tests are to take 8
minutes. Each change runs the memory itself (`test_secded.py`, `test_banked_memory.py`), and the
chip without ECC.

What is counted: bytes that enabled reads took from the banks with a wrong bit, each as often as it
was read, since a flip is put right on its way out and stays in the bank. A flip whose byte is
written before it is read, or never read, is seen by nobody. The driver finds the same number by
watching the read ports and decoding the words in software; `cosim` compares the two.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mellivora.errors import UsageError
from mellivora.isa import assemble, resolve
from mellivora.isa.encoding import LOAD, R_OPCODE, STORE
from mellivora.isa.random_programs import random_program
from mellivora.isa.table import BY_OPCODE
from mellivora.rtl.bit_flips import random_flips
from mellivora.rtl.chip_simulation import ChipSimulation, RtlRun, chip_simulation
from mellivora.rtl.random_runs import fault_of, run_random
from mellivora.rtl.secded import CODE_BITS, decode, encode
from mellivora.rtl.verilator import verilated
from mellivora.sim.expand import expand
from mellivora.sim.timing import simulate
from mellivora.spec import load_chip

NANO = load_chip("nano")
WORD_BYTES = 32  # of a bank
PLACE = 2 * WORD_BYTES  # the bytes of a word of bank 2

# Each time around a word comes from DRAM, its bits may flip, and it goes to DRAM again. Tokens keep
# the next LOAD from it until it was read.
ONE_WORD = """
li r1 0
li r2 {times}
loop r2 4
load 0 0 0 64 32 1 1 1 !1
store 1 r1 0 64 32 1 1 1 ?1 !2
lsync ?2
add r1 r1 1
halt
"""


def one_word(
    machine: ChipSimulation, masks: np.ndarray, rng: np.random.Generator
) -> tuple[RtlRun, np.ndarray, np.ndarray]:
    """A run in which masks[i], the bits to flip in each byte, act between LOAD i and STORE i.

    masks: int [times, 32]. Returns the run, the word, and what the STOREs wrote: uint8 [times, 32].
    """
    times = len(masks)
    code = assemble(ONE_WORD.format(times=times))
    dram = np.zeros(64 + WORD_BYTES * times + 64, np.uint8)
    dram[:WORD_BYTES] = word = rng.integers(0, 256, WORD_BYTES, np.uint8)
    dram = np.resize(dram, -(-dram.size // 64) * 64)
    rows = resolve(code, [0])
    timing = simulate([rows], NANO)
    engines = np.array([BY_OPCODE[int(row[R_OPCODE])].engine for row in rows])
    loaded = timing.end[0][engines == LOAD][::2]  # without LSYNC
    stored = timing.start[0][engines == STORE]
    assert len(loaded) == len(stored) == times
    assert (loaded <= stored).all()
    flips = [
        (int(stored[i]) + 2, 0, PLACE + byte, bit)  # written by then, and read 7 cycles after start
        for i, byte in np.argwhere(masks)
        for bit in range(CODE_BITS)
        if masks[i, byte] >> bit & 1
    ]
    windows = [(0, 64), (64, WORD_BYTES * times)]
    run = machine.run(code, [0], dram=dram, windows=windows, flips=flips)
    assert run.stopped
    assert not run.faults
    np.testing.assert_array_equal(run.end[0][: len(rows)], timing.end[0])
    return run, word, dram[64:][: WORD_BYTES * times].reshape(times, WORD_BYTES)


def masks_of(patterns: list[int]) -> np.ndarray:
    """Each pattern in each of the bytes, another one in each byte at a time."""
    turn = np.arange(len(patterns))[:, None] + np.arange(WORD_BYTES)
    return np.array(patterns)[turn % len(patterns)]


def test_without_ecc_a_flip_is_wrong_data(rng):
    masks = masks_of([1 << bit for bit in range(8)])
    run, word, stored = one_word(chip_simulation(NANO), masks, rng)
    np.testing.assert_array_equal(stored, word ^ masks)
    assert not run.flip_seen.any()


@pytest.fixture(scope="module")
def with_ecc() -> ChipSimulation:
    return verilated(NANO, ecc=True)


@pytest.mark.nightly
def test_every_single_flip_of_a_word_is_corrected_and_counted(with_ecc, rng):
    run, word, stored = one_word(with_ecc, masks_of([1 << i for i in range(CODE_BITS)]), rng)
    np.testing.assert_array_equal(stored, np.broadcast_to(word, stored.shape))
    assert len(run.flip_reads) == WORD_BYTES * CODE_BITS == 416
    assert run.registers["ecc_corrected"][0] == 416
    assert run.registers["ecc_uncorrectable"][0] == 0


@pytest.mark.nightly
def test_every_double_flip_of_a_word_is_reported(with_ecc, rng):
    masks = masks_of([1 << a | 1 << b for a, b in combinations(range(CODE_BITS), 2)])
    run, word, stored = one_word(with_ecc, masks, rng)
    assert run.registers["ecc_uncorrectable"][0] == masks.size == 78 * 32
    assert run.registers["ecc_corrected"][0] == 0
    np.testing.assert_array_equal(stored, decode(encode(word) ^ masks)[0])


@pytest.mark.nightly
@pytest.mark.parametrize("first", range(0, 128, 16))
def test_ten_thousand_flips_in_random_programs(first):
    """15 of 16 programs have no fault: 8 x 15 x 84 = 10,080 flips; bits, cycles, counts agree."""
    facts = run_random(NANO, count=16, seed=first, ecc=True, flips=84)
    assert not facts["reports"], "\n".join(facts["reports"][:3])
    assert facts["flips"] == 84 * sum(fault_of(seed) is None for seed in range(first, first + 16))
    assert 8 * 15 * 84 >= 10_000
    assert facts["flips_read"] > 84
    assert facts["corrected"] >= facts["flips_read"]


@pytest.mark.nightly
def test_two_flips_in_a_byte_are_reported_wherever_they_are_read():
    """Random programs: the counter is what the driver saw, and results may be wrong."""
    machine, reported = chip_simulation(NANO, ecc=True), 0
    for seed in range(8):
        program = random_program(seed, NANO)
        rows = [expand(program.code, np.asarray(program.parameters, np.int32))]
        cycles = simulate(rows, NANO).cycles
        flips = random_flips(rows, NANO, count=84, cycles=cycles, seed=seed)
        second = flips.copy()
        second[:, 3] = (second[:, 3] + 1) % CODE_BITS
        run = machine.run(
            program.code,
            program.parameters,
            dram=program.dram.copy(),
            windows=program.windows,
            flips=np.concatenate([flips, second]),
        )
        assert run.stopped
        assert int(run.registers["ecc_uncorrectable"][0]) == run.flip_seen[0, 1]
        assert int(run.registers["ecc_corrected"][0]) == run.flip_seen[0, 0] == 0
        reported += int(run.flip_seen[0, 1])
    assert reported > 100


def test_random_flips_are_single_and_mostly_where_reads_are():
    rows = resolve(assemble(ONE_WORD.format(times=3)), [0])
    flips = random_flips([rows], NANO, count=40, cycles=50, seed=3)
    assert flips.shape == (40, 4)
    assert len(np.unique(flips[:, 2])) == 40
    assert (flips >= 0).all()
    assert (flips < (50, 1, NANO.sram_bytes, CODE_BITS)).all()
    inside = (flips[:, 2] >= PLACE) & (flips[:, 2] < PLACE + WORD_BYTES)
    assert np.count_nonzero(inside) == 30  # three of four, of 32 bytes that are read
    np.testing.assert_array_equal(
        flips, random_flips([rows], NANO, count=40, cycles=50, seed=3), "the same seed"
    )


@pytest.mark.parametrize("flip", [(0, 1, 0, 0), (0, 0, 65536, 0), (0, 0, 0, 8), (-1, 0, 0, 0)])
def test_a_flip_outside_the_scratchpad_is_refused(flip):
    with pytest.raises(UsageError) as error:
        chip_simulation(NANO).run(
            assemble("halt"), [0], dram=np.zeros(64, np.uint8), windows=[(0, 64)], flips=[flip]
        )
    assert error.value.code == "MV0896"
