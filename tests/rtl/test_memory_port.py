"""Every start and end of DMA operations is the timing machine's; every byte is the meaning's."""

import numpy as np
import pytest
from tests.rtl import dma_streams as streams

from mellivora.errors import SpecError
from mellivora.isa.encoding import R_CONFIG, R_GAP
from mellivora.rtl.memory_port import check_memory_port
from mellivora.spec import load_chip

NANO = streams.chip_of(burst=64, dram_latency_cycles=100)
"""1/8 burst a cycle, two transfers in flight."""
PAIR = streams.chip_of(cores=2, outstanding_transfers=4, dram_gbps=16, dram_latency_cycles=9)
"""A burst a cycle for two cores."""
WIDE = streams.chip_of(
    cores=2, outstanding_transfers=4, dram_gbps=40, core_port_bytes_per_cycle=32, sram_banks=16,
    dram_latency_cycles=11,
)  # fmt: skip
"""2 1/2 bursts a cycle for two cores, 2 at most for each."""
WIDEST = streams.chip_of(
    cores=2, outstanding_transfers=3, dram_gbps=80, core_port_bytes_per_cycle=64, sram_banks=16,
    dram_latency_cycles=9,
)  # fmt: skip
"""5 bursts a cycle for two cores, 4 at most for each."""
SLOW_PAIR = streams.chip_of(cores=2, outstanding_transfers=3, dram_gbps=4, dram_latency_cycles=41)


def together(rng, chip, count):
    """Streams of all cores with LOADMs, EXCHs and BARRIERs, to which they come when they can."""
    rows = [streams.stream(rng, chip, core, count) for core in range(chip.cores)]

    def common():
        some = streams.multicast if rng.random() < 0.6 else streams.collective
        return some(rng, chip)

    rows = streams.with_common(rng, rows, common, count // 4)
    for mine in rows:
        mine[:, R_GAP] = np.maximum(mine[:, R_GAP], rng.integers(1, 4, len(mine)))
    return rows


def busy_bus(rng, share):
    """stall[cycle]: each channel is not ready in this share of the cycles."""
    return lambda cycles: (rng.random((cycles, 5)) < share).astype(int) @ (1 << np.arange(5))


def test_one_core_at_an_eighth_of_a_burst(rng):
    streams.check(rng, NANO, [streams.stream(rng, NANO, 0, 60)])


def test_two_cores_at_a_burst_a_cycle(rng):
    rows = together(rng, PAIR, 200)
    assert sum(streams.bursts(mine, PAIR) for mine in rows) > 1000
    streams.check(rng, PAIR, rows)


@pytest.mark.parametrize(
    "chip", [pytest.param(WIDE, marks=pytest.mark.nightly), WIDEST], ids=["wide", "widest"]
)
def test_several_bursts_a_cycle(chip, rng):
    rows = together(rng, chip, 160)
    for mine in rows[:1]:
        mine[:, R_GAP] = 1
    run = streams.check(rng, chip, rows)
    masters = -(-chip.dram_bursts_num // chip.dram_bursts_den)
    assert any((run.bus >> way & 255).max() == masters for way in (0, 8)), "all masters at once"


@pytest.mark.parametrize("chip", [PAIR, WIDEST], ids=["pair", "widest"])
def test_operations_dispatched_at_once(chip, rng):
    """Queues are never empty: all that limits is the port and what may be in flight."""
    rows = together(rng, chip, 120)
    for mine in rows:
        mine[:, R_GAP] = 1
    streams.check(rng, chip, rows)


@pytest.mark.parametrize("chip", [PAIR, WIDEST], ids=["pair", "widest"])
def test_streaming_loads_fill_the_port(chip, rng):
    """At least 95 % of the port's bytes a cycle, the first latency and issue included."""
    count, size = 12 * chip.core_port_bursts, chip.sram_bytes // 2
    loads = [streams.row("load", [1, 0, 0, 0, size, 1, 1, 1]) for _ in range(count)]
    rows = [np.stack(loads), np.zeros((0, loads[0].size), np.int64)]
    run = streams.check(rng, chip, rows)
    cycles = run.end[0][-1] - run.start[0][0]
    port = chip.core_port_bytes_per_cycle
    assert chip.dram_bytes_per_cycle >= port, "memory gives what the port can take"
    assert count * size >= 0.95 * port * cycles


@pytest.mark.nightly
@pytest.mark.parametrize(
    "chip",
    [NANO, PAIR, SLOW_PAIR, WIDE, WIDEST],
    ids=["nano", "pair", "slow_pair", "wide", "widest"],
)
def test_longer_streams(chip, rng):
    for _ in range(20):
        several = chip.cores > 1
        rows = together(rng, chip, 200) if several else [streams.stream(rng, chip, 0, 200)]
        streams.check(rng, chip, rows)


@pytest.mark.parametrize("chip", [PAIR, WIDEST], ids=["pair", "widest"])
@pytest.mark.parametrize("share", [0.2, 0.8])
def test_a_busy_bus_loses_and_doubles_nothing(share, chip, rng):
    streams.check(rng, chip, together(rng, chip, 60), stall=busy_bus(rng, share))


def test_the_comparison_can_fail(rng):
    """A chip of another latency has other ends; a wrong stride other bytes."""
    rows = [streams.stream(rng, PAIR, core, 30) for core in range(2)]
    later = PAIR.replace(dram_latency_cycles=10)
    times, other = streams.expected_times(rows, PAIR), streams.expected_times(rows, later)
    assert any((a != b).any() for a, b in zip(times[2], other[2]))
    dram, pads = streams.memories(rng, PAIR)
    right = streams.expected_memories(rows, PAIR, dram, pads)
    rows[0][:, R_CONFIG] += 1
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(
            streams.expected_memories(rows, PAIR, dram, pads)[1], right[1]
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"dram_latency_cycles": 7},
        {"dram_bytes": 1 << 39},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_chip_without_such_a_port_is_refused(changes):
    with pytest.raises(SpecError) as raised:
        check_memory_port(load_chip("nano").replace(**changes))
    assert raised.value.code == "MV0120"
