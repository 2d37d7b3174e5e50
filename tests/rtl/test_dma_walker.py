"""Fragments of transfers: a plain walk gives the same ones, in a row, without a bubble."""

import numpy as np
import pytest
from amaranth.lib import data
from tests.rtl.wide_ports import number

from mellivora.isa import latency
from mellivora.isa.encoding import R_CONFIG, R_SLOT, RESOLVED_FIELDS
from mellivora.rtl.dma_walker import DmaWalker, fragment_layout, job_layout
from mellivora.rtl.interfaces import ADDRESS_BITS
from mellivora.rtl.simulate import build
from mellivora.spec import load_chip

CHIP = load_chip("nano").replace(outstanding_transfers=3)
BURST = CHIP.dram_burst_bytes
WIDE = CHIP.replace(core_port_bytes_per_cycle=4 * BURST)


def words(layout, fields):
    """A layout's constant as the uint32 words of a port."""
    value = layout.const(fields).as_value().value
    return [value >> 32 * i & 0xFFFF_FFFF for i in range(-(-layout.size // 32))]


def fields_of(layout, value):
    return {name: value >> field.offset & (1 << field.width) - 1 for name, field in layout}


def joined(counts, far_steps, near_steps):
    """run and the counts that are left when contiguous dimensions have become one."""
    run, left, whole = counts[0], [], True
    for count, d, p in zip(counts[1:], far_steps, near_steps):
        join = whole and d == run and p == run
        run = run * count if join else run
        whole = whole and (join or count == 1)
        left.append(0 if join else count - 1)
    return run, left


def walk(job, pages):
    """(burst, near address of its byte 0, first, final, last, turns) of every fragment.

    pages: DRAM addresses of those after the first, if the job is paged; turns: to the next page.
    """
    found = []
    left, d, p = job["left"], job["far_step"], job["near_step"]
    for i3 in range(left[2] + 1):
        for i2 in range(left[1] + 1):
            for i1 in range(left[0] + 1):
                outer = job["far"] + i3 * d[2]
                if job["paged"]:
                    outer = [job["far"], *pages][i3]
                far = outer + i1 * d[0] + i2 * d[1]
                near = job["near"] + i1 * p[0] + i2 * p[1] + i3 * p[2]
                stop = far + job["run"]
                for burst in range(far // BURST, (stop - 1) // BURST + 1):
                    first, past = max(far - burst * BURST, 0), min(stop - burst * BURST, BURST)
                    found.append([burst, near + burst * BURST - far, first, past - 1, 0, 0])
        found[-1][5] = int(job["paged"] and i3 < left[2])
    found[-1][4] = 1
    return found


def random_shape(rng):
    """counts n0..n3, strides d1..d3 and p1..p3: some joined, some zero, some of one piece."""
    counts = [int(rng.integers(1, rng.choice([4, 70, 300]))), *rng.integers(1, 5, 3).tolist()]
    run, d, p = counts[0], [], []
    for count in counts[1:]:
        kind = rng.integers(4)
        d.append(
            run if kind == 0 else int(rng.choice([0, 64, 7, 128, run, int(rng.integers(500))]))
        )
        p.append(run if kind == 0 else int(rng.choice([0, run, int(rng.integers(500))])))
        run *= count
    return counts, d, p


def random_job(rng):
    counts, d, p = random_shape(rng)
    paged = int(rng.random() < 0.4)
    if paged:
        counts[3], d[2] = int(rng.integers(1, 9)), 0  # pages never join
    far, near = (
        int(rng.integers(1 << 20)),
        int(rng.choice([rng.integers(64), rng.integers(1 << 14)])),
    )
    run, left = joined(counts, d, p)
    job = {"multicast": int(rng.integers(2)), "far": far, "near": near, "run": run, "left": left}
    pages = [far % BURST + BURST * int(b) for b in rng.integers(0, 1 << 30, left[2] * paged)]
    row = np.zeros((1, RESOLVED_FIELDS), np.int64)
    row[0, R_SLOT : R_SLOT + 8] = [0, 0, far, near, *counts]
    row[0, R_CONFIG : R_CONFIG + 6] = [*d, *p]
    if paged:
        d = [*d[:2], int(rng.integers(500))]  # of no meaning
    return job | {"paged": paged, "far_step": d, "near_step": p}, row, pages


def shown_together(waiting, ways):
    """How many of the next fragments may be seen in one cycle; waiting: [(job, fragments)]."""
    if not waiting:
        return 0
    kind, count = waiting[0][0]["multicast"], 0
    for job, mine in waiting:
        if job["multicast"] != kind:
            break
        count += len(mine)
    return min(ways, count)


@pytest.mark.parametrize("chip", [CHIP, WIDE], ids=["one", "four"])
@pytest.mark.parametrize("eagerness", [1.0, 0.4])
def test_fragments_are_those_of_a_plain_walk(chip, eagerness, rng):
    """Every cycle: the fragments due, none where none is due; counts are those of `latency`."""
    jobs = [random_job(rng) for _ in range(120)]
    layout, shape, ways = job_layout(chip), fragment_layout(chip), chip.core_port_bursts
    push, pushed, take, due = [], [], [], []
    page, turns, pages = [], [], [one for _, _, some in jobs for one in some]
    waiting, pending = [], list(jobs)
    while pending or waiting:
        count = shown_together(waiting, ways)
        coming = [(job, one) for job, mine in waiting for one in mine[:ways]]
        due.append([(job, one[:5]) for job, one in coming[:count]])
        take.append(int(rng.integers(count + 1)) if rng.random() >= eagerness else count)
        room = len(waiting) < chip.outstanding_transfers
        push.append(bool(pending) and room and rng.random() < 0.6)
        page.append([*pages[:ways], *[0] * ways][:ways])
        turns.append(0)
        for _ in range(take[-1]):
            turns[-1] += waiting[0][1].pop(0)[5]
            if not waiting[0][1]:
                waiting.pop(0)
        del pages[: turns[-1]]
        job, row, mine = pending.pop(0) if push[-1] else jobs[0]
        pushed.append(words(layout, job))
        if push[-1]:
            waiting.append((job, walk(job, mine)))
            assert len(waiting[-1][1]) == latency.dma_bursts(row, chip)[0]
    places = data.StructLayout({"pages": data.ArrayLayout(ADDRESS_BITS, ways)})
    shown = build(DmaWalker(chip)).run(
        push=push,
        job=np.array(pushed),
        take=take,
        pages=np.array([words(places, {"pages": some}) for some in page]),
    )
    assert not pages
    assert sum(turns) > 60
    np.testing.assert_array_equal(shown["next_pages"], turns)
    np.testing.assert_array_equal(shown["count"], [len(some) for some in due])
    assert (shown["count"] == ways).any()
    for cycle, some in enumerate(due):
        found = number(shown["fragments"][cycle])
        for k, (job, (burst, near, first, final, last)) in enumerate(some):
            assert fields_of(shape, found >> k * shape.size) == {
                "multicast": job["multicast"],
                "burst": burst,
                "near": near % chip.sram_bytes,
                "first": first,
                "final": final,
                "last": last,
            }, cycle


def test_counts_may_be_as_large_as_a_register(rng):
    """A piece read 2^31 - 1 times: the last but never reached, and no other step is taken."""
    big = (1 << 31) - 2
    job = {"multicast": 0, "far": 64, "near": 0, "run": 64, "left": [0, big, 0]}
    job |= {"far_step": [1, 0, 1], "near_step": [1, 0, 1]}
    shown = build(DmaWalker(CHIP)).run(
        push=np.arange(100) == 0,
        job=np.array([words(job_layout(CHIP), job)]),
        take=np.arange(100) > 0,
        pages=[[0, 0]],
    )
    fields = [fields_of(fragment_layout(CHIP), number(row)) for row in shown["fragments"][1:]]
    assert shown["count"][1:].all()
    assert {(f["burst"], f["near"], f["last"]) for f in fields} == {(1, 0, 0)}
