"""Timing against formulae worked out by hand, and at the very edge: not ready at clk-1, ready at
clk."""

from __future__ import annotations

import numpy as np
import pytest

from mellivora.errors import MachineFault, UsageError
from mellivora.isa import assemble, resolve
from mellivora.isa.encoding import R_GAP, R_OPCODE
from mellivora.isa.modes import BFormat, Store, matmul_mode, vew_fn, vquant_mode
from mellivora.sim.result import TimingResult
from mellivora.sim.stalls import CAUSES
from mellivora.sim.stepped import Stepped
from mellivora.sim.timing import ChipNumbers, check_windows, lower, simulate
from mellivora.spec import ChipSpec, load_chip

NANO, MICRO, M1 = (load_chip(name) for name in ("nano", "micro", "m1"))
MX8 = matmul_mode(BFormat.MX8)


def rows_of(text: str, *, core: int = 0, cores: int = 1) -> np.ndarray:
    return resolve(assemble(text), [], core_id=core, cores=cores)


def run(text: str | list[str], chip: ChipSpec = NANO) -> TimingResult:
    """One text for one core, or a list with one for each core."""
    texts = [text] if isinstance(text, str) else text
    return simulate([rows_of(t, core=i, cores=len(texts)) for i, t in enumerate(texts)], chip)


def load(pieces: str, tail: str = "") -> str:
    """LOAD of n0 x n1 x n2 x n3 bytes, contiguous on both sides."""
    n0, n1, *_ = (int(word) for word in pieces.split())
    strides = f"li r8 {n0}\nli r9 {n0 * n1}\nlcfg r8 r9 r9 r8 r9 r9 0\n"
    return f"{strides}load 0 0 0 0 {pieces} {tail}\n"


# fmt: off
LATENCIES = [
    # nano: 8 columns, 8 lanes
    (f"matmul 0 0 0 0 1 2 8 {MX8}", 14 + 9 + 2 * 9),                # 9 cycles bring a block
    (f"matmul 0 0 0 0 20 2 8 {MX8}", 14 + 9 + 2 * 20),              # 20 rows hide them
    (f"matmul 0 0 0 0 1 2 8 {matmul_mode(BFormat.Q4_1)}", 14 + 3 + 5 + 2 * 5),  # + an FP32 addition
    (f"matmul 0 0 0 0 1 2 8 {matmul_mode(BFormat.Q4_0, a_slices=3)}", 14 + 5 + 2 * (5 + 3 + 3)),
    (f"matmul 0 0 0 0 0 2 8 {MX8}", 14),                            # no rows: only the pipeline
    (f"vew 0 0 0 0 4 8 {vew_fn()} 0", 10 + 4),
    (f"vew 0 0 0 0 4 9 {vew_fn()} 0", 10 + 8),                      # 9 columns: two beats
    (f"vew 0 0 0 0 4 8 {vew_fn(func=1)} 0", 10 + 6 + 4),            # EXP2
    ("vred 0 0 4 8 0 0", 10 + 10 + 4),
    ("vred 0 0 1 288 0 0", 10 + 10 + 36 + 2 * 4),                   # 9 chunks: 4 levels
    (f"vquant 0 0 0 0 4 32 {vquant_mode(Store.MX1)} ", 10 + 6 + 4 * 4),
    (f"vquant 0 0 0 0 4 32 {vquant_mode(Store.MX1, wide=True)} ", 10 + 6 + 2 * 4 * 4),
    ("vdeq 0 0 0 4 32 0", 10 + 4 * 4),
    ("msync", 1), ("vsync", 1), ("lsync", 1), ("ssync", 1),
    ("barrier", 24),
    ("exch 0 0 500 0 2 0 0", 24 + 16),                              # 2 x 500 bytes at 64 a cycle
]
# fmt: on


@pytest.mark.parametrize(("line", "cycles"), LATENCIES)
def test_latency_to_the_clock(line: str, cycles: int) -> None:
    """The consumer of the post cannot start at clk-1 and does at clk, in both machines."""
    engine = {"l": "v", "s": "v", "m": "v", "v": "m", "b": "v", "e": "v"}[line[0]]
    text = f"{line} !1\n{engine}sync ?1\nhalt"
    clk = 1 + cycles  # the first row is dispatched, and starts, at 1
    result = run(text)
    assert result.start[0].tolist() == [1, clk]
    assert result.end[0].tolist() == [clk, clk + 1]
    twin = Stepped([lower(rows_of(text), NANO)], ChipNumbers.of(NANO))
    assert not twin.run(clk)  # cycles up to clk-1
    assert twin.cores[0].start[1] == -1
    twin.run(clk + 1)
    assert twin.cores[0].start[1] == clk


@pytest.mark.parametrize(
    ("size", "moved"),
    [("1 1 1 1", 1), ("64 1 1 1", 1), ("256 1 1 1", 1), ("257 1 1 1", 2), ("1024 2 1 1", 8)],
)
def test_load_latency(size: str, moved: int) -> None:
    """m1: dispatch after four CONTROL cycles, issue 6, latency 120, then 256 bytes a cycle."""
    assert run(load(size) + "halt", M1).end[0].tolist() == [4 + 6 + 120 + moved]


def test_slow_dram_grants_in_fixed_cycles() -> None:
    """nano's rate of 1/8: the burst of cycles 7, 15, ...; ready at 4 + 6 + 100 = 110, so granted
    in 111."""
    assert run(load("64 1 1 1") + "halt").end[0].tolist() == [112]
    assert run(load("65 1 1 1") + "halt").end[0].tolist() == [120]


def test_empty_load_is_only_issued() -> None:
    assert run("li r1 0\nload 0 0 0 0 r1 1 1 1\nhalt").end[0].tolist() == [2 + 6]


@pytest.mark.parametrize(
    ("size", "bursts"),
    [
        ("64 1 1 1", 1),
        ("64 1 1 5", 5),
        ("100 1 1 64", 128),  # of a page the bytes 8..108: two bursts each
        ("64 2 1 3", 9),  # d1 = p1 = 64 joins: of a page the bytes 8..136
        ("64 1 1 -1", 0),
    ],
)
def test_gather_latency(size: str, bursts: int) -> None:
    """m1, as a LOAD, with a cycle more for each page; pages 64 apart on both sides never join."""
    fine = 8 if bursts > 5 else 0
    pages = int(size.split()[-1])
    counts = " ".join([*size.split()[:3], "r8"])
    text = f"li r8 {pages}\nlcfg 64 0 64 64 0 64 0\nloadx 0 0 {fine} 1024 {counts}\nhalt"
    end = 3 + 6 + (pages + 120 + -(-bursts // 4) if bursts else 0)
    result = run(text, M1)
    assert result.end[0].tolist() == [end]
    assert result.work.bursts == bursts


def test_gather_starts_when_the_transfers_before_it_have_ended() -> None:
    """So it finds a table that a LOAD brings; LOADs after it do not wait for it."""
    gather = "loadx 0 0 0 256 64 1 1 1\n"
    result = run(load("640 1 1 1") + gather + load("64 1 1 1") + gather + "halt", M1)
    start, end = result.start[0], result.end[0]
    assert start[1] == end[0]
    assert start[2] == start[1] + 7 < end[1]
    assert start[3] == end[2]
    assert (result.stall_cycles >= 0).all()
    assert result.stall_cycles[0, 0].sum() + result.busy_cycles[0, 0] == result.cycles


def test_matmul_stream_reaches_peak() -> None:
    """Back to back, MATRIX works every cycle; only each fill of 14 + 9 cycles is not arithmetic."""
    count, m, blocks = 50, 256, 64
    text = f"loop {count} 1\nmatmul 0 0 0 0 {m} {blocks} {M1.columns} {MX8}\nhalt"
    one_core = M1.replace(cores=1)
    result = run(text, one_core)
    assert result.cycles == 2 + count * (23 + m * blocks)
    assert result.work.macs == count * m * blocks * 32 * M1.columns
    rate = result.work.macs / (result.cycles - 2)
    assert rate == one_core.peak_macs_per_cycle * m * blocks / (23 + m * blocks)
    assert result.roofs().limit == "matrix"
    assert (
        result.roofs().fraction == result.work.macs / result.cycles / one_core.peak_macs_per_cycle
    )


def test_load_stream_reaches_the_port() -> None:
    """One core of m1: 256 bytes a cycle after the first latency, with 4 x 32 KiB in flight."""
    count, size = 40, 32768
    text = load(f"1024 {size // 1024} 1 1", "").replace("load ", f"loop {count} 1\nload ")
    result = run(text + "halt", M1)
    assert result.cycles == 5 + 6 + 120 + count * size // M1.core_port_bytes_per_cycle
    assert result.work.read_bytes == count * size


def test_load_streams_of_all_cores_reach_dram() -> None:
    """Sixteen cores share 21 bursts a cycle; nothing is lost between the first word and the last
    cycle."""
    count, size = 20, 32768
    text = load(f"1024 {size // 1024} 1 1").replace("load ", f"loop {count} 1\nload ") + "halt"
    result = run([text] * 16, M1)
    bursts = 16 * count * size // 64
    assert result.cycles == 5 + 6 + 120 + -(-bursts // 21)
    assert result.work.bursts == bursts
    assert result.roofs().limit == "dram"
    ends = [end[-1] for end in result.end]
    assert max(ends) - min(ends) <= 1  # fair: 16 requesters are 21 grants, a cycle, apart at most


def test_port_bound_requesters_share_nothing() -> None:
    """Two cores of m1 ask 8 of 21 bursts a cycle: each runs as if alone."""
    text = load("1024 32 1 1") + "halt"
    alone, pair = run(text, M1), run([text] * 2, M1)
    assert [end.tolist() for end in pair.end] == [alone.end[0].tolist()] * 2


def test_queue_depth_stops_control() -> None:
    """nano holds 8 rows a queue: CONTROL enters row 9 a cycle after row 1 left, and no earlier."""
    text = f"loop 12 1\nmatmul 0 0 0 0 20 2 8 {MX8}\nvsync\nhalt"
    result = run(text)
    cost = 14 + 9 + 40
    dispatch, start = result.dispatch[0], result.start[0]
    assert dispatch[:9].tolist() == [*range(2, 10), 10]  # row 0 left at 2, so row 8 need not wait
    assert dispatch[9:12].tolist() == [2 + k * cost + 1 for k in (1, 2, 3)]
    assert dispatch[12] == dispatch[11] + 1 == start[12]


def test_outstanding_transfers() -> None:
    """nano has two transfers in flight: the third is issued when the first has ended."""
    result = run(load("64 1 1 1") * 3 + "halt")
    assert result.start[0][2] == result.end[0][0]
    assert result.stall_cycles[0, 0].sum() + result.busy_cycles[0, 0] == result.cycles


def test_sync_waits_for_earlier_transfers() -> None:
    result = run(load("64 1 1 1") + "lsync !1\nvsync ?1\nhalt")
    assert result.end[0][1] == result.end[0][0] == result.start[0][2]


def test_multicast_starts_with_the_last_core_and_is_read_once() -> None:
    early = "loadm 0 0 0 0 640 1 1 1 !1\nvsync ?1\nhalt"
    late = "nop\n" * 50 + early
    result = run([early, late], MICRO)
    assert result.end[0][0] == result.end[1][0]
    ready = 51 + 6 + 100  # of the late core
    # micro grants a burst in every fourth cycle; ten of them, the first in cycle 159
    assert result.end[0][0] == (ready // 4 + 10) * 4
    assert result.work.read_bytes == 640
    assert result.work.bursts == 10


def test_collectives_meet() -> None:
    texts = [
        "exch 0 0 64 64 1 0 0\nbarrier\nhalt",
        "nop\n" * 30 + "exch 0 0 64 64 1 0 0\nbarrier\nhalt",
    ]
    result = run(texts, MICRO)
    assert [end.tolist() for end in result.end] == [[31 + 26, 31 + 26 + 24]] * 2
    assert result.start[0].tolist() == [1, 57]


def test_barrier_waits_for_stores() -> None:
    """A store of one core is in DRAM when the barrier has ended."""
    result = run(["store 0 0 0 0 640 1 1 1\nbarrier\nhalt", "barrier\nhalt"], MICRO)
    assert result.start[0][1] == result.end[0][0]
    assert result.end[1][0] == result.end[0][0] + 24


def test_deadlock_names_pc_and_semaphore() -> None:
    with pytest.raises(MachineFault) as caught:
        run("vsync ?3 !4\nmsync ?4\nhalt")
    assert caught.value.code == "MV0707"
    text = str(caught.value)
    assert "core 0 VECTOR pc 0 (vsync): waits for semaphore 3" in text
    assert "core 0 MATRIX pc 1 (msync): waits for semaphore 4" in text


def test_deadlock_of_a_collective() -> None:
    with pytest.raises(MachineFault) as caught:
        run(["barrier\nhalt", "halt"], MICRO)
    assert "core 0 STORE pc 0 (barrier): waits for other cores" in str(caught.value)


def test_semaphore_overflow() -> None:
    run("loop 255 1\nvsync !1\nhalt")
    with pytest.raises(MachineFault) as caught:
        run("loop 256 1\nvsync !1\nhalt")
    assert caught.value.code == "MV0706"
    assert "core 0, VECTOR, pc 1: semaphore 1" in str(caught.value)


def test_collectives_that_differ() -> None:
    with pytest.raises(MachineFault) as caught:
        run(["barrier\nhalt", "exch 0 0 64 64 1 0 0\nhalt"], MICRO)
    assert caught.value.code == "MV0705"


def test_bad_arguments() -> None:
    rows = rows_of("vsync\nhalt")
    no_gap, no_opcode, no_format = (
        rows.copy(),
        rows.copy(),
        rows_of(f"matmul 0 0 0 0 1 1 8 {MX8 | 15}\nhalt"),
    )
    no_gap[0, R_GAP], no_opcode[0, R_OPCODE] = 0, 0x1FF
    huge = rows_of("li r1 2000000000\nload 0 0 0 0 r1 r1 r1 r1\nhalt")
    cases = [
        ([rows] * 2, UsageError, "MV0880"),
        ([rows[:, :5]], UsageError, "MV0881"),
        ([no_gap], UsageError, "MV0882"),
        ([no_opcode], MachineFault, "MV0701"),
        ([no_format], MachineFault, "MV0705"),
        ([huge], MachineFault, "MV0702"),
    ]
    for given, error, code in cases:
        with pytest.raises(error) as caught:
            simulate(given, NANO)
        assert caught.value.code == code


def test_windows_begin_at_bursts() -> None:
    check_windows([(0, 10), (4096, 1)], NANO)
    with pytest.raises(UsageError, match="burst") as caught:
        check_windows([(0, 64), (96, 64)], NANO)
    assert caught.value.code == "MV0883"


def test_no_rows() -> None:
    result = run("halt")
    assert (result.cycles, result.by_symbol([]), result.roofs().fraction) == (0, [], 0.0)
    assert result.stall_cycles.sum() == 0


def test_labels_share_the_clock() -> None:
    text = (
        load("1024 8 1 1", "!1")
        + f"matmul 0 0 0 0 20 4 8 {MX8} ?1 !2\nvew 0 0 0 0 8 8 0 0 ?2\nhalt"
    )
    result = run(text)
    symbols = [(0, 4, "weights", "load"), (4, 5, "linear", "matmul")]
    times = {one.label: one for one in result.by_symbol(symbols)}
    end = result.end[0].tolist()
    assert {name: one.cycles for name, one in times.items()} == {
        "weights": end[0],
        "linear": end[1] - end[0],
        "(no label)": end[2] - end[1],
    }
    assert times["linear"].macs == 20 * 4 * 32 * 8
    assert times["weights"].dram_bytes == 8192
    assert times["linear"].busy_cycles["MATRIX"] == 14 + 9 + 80


def test_stalls_name_the_cause() -> None:
    result = run(load("1024 8 1 1", "!1") + f"matmul 0 0 0 0 20 4 8 {MX8} ?1 !2\nhalt", M1)
    stalls = dict(zip(CAUSES, result.stall_cycles[0, 2].tolist(), strict=True))
    # dispatched at 5; the load issues from 4 to 10, then 120 of latency, then 8192 / 256 cycles
    expected = {"dispatch": 5, "load": 5, "latency": 120, "bandwidth": 32}
    assert stalls == dict.fromkeys(CAUSES, 0) | expected
