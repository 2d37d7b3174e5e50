"""Issue: causes are those of `isa.footprint`, jobs those of a plain joining of dimensions."""

import numpy as np
from tests.rtl.test_dma_walker import fields_of, joined
from tests.rtl.wide_ports import number

from mellivora.isa.encoding import (
    DRAM_UNIT_BYTES,
    R_CONFIG,
    R_OPCODE,
    R_SLOT,
    RESOLVED_FIELDS,
)
from mellivora.isa.footprint import footprint
from mellivora.isa.latency import DMA_ISSUE_CYCLES
from mellivora.isa.state import Fault
from mellivora.isa.table import BY_NAME
from mellivora.rtl.dma_issue import DmaIssue
from mellivora.rtl.dma_walker import job_layout
from mellivora.rtl.interfaces import ADDRESS_BITS, OPERATION
from mellivora.rtl.simulate import build
from mellivora.spec import load_chip

CHIP = load_chip("nano")
LIMITS = [0, 4096, 1 << 30, 100, (1 << ADDRESS_BITS) - 1] + [64] * (CHIP.windows - 5)
BASES = [64 * 5 * i for i in range(CHIP.windows)]
EDGES = np.array([0, 1, -1, 2, -2, 63, 64, 65, 2**31 - 1, -(2**31), 2**16, 2**30, 2**15 + 1])


def wild(rng):
    """Slots and strides from every corner, most transfers wrong in several ways."""
    slots = np.where(rng.random(8) < 0.3, rng.choice(EDGES, 8), rng.integers(1, 40, 8))
    slots[0] = rng.choice([-1, 0, 1, 2, 3, 4, 15, 16, 2**31 - 1])
    config = np.where(rng.random(8) < 0.3, rng.choice(EDGES, 8), rng.integers(0, 300, 8))
    return slots, config


def tame(rng):
    """Transfers at the edge of their window and of the scratchpad: one byte decides."""
    counts = rng.integers(1, 5, 4)
    counts[0] = rng.integers(1, 100)
    run, d, p = int(counts[0]), [], []
    for count in counts[1:]:
        choices = [run, run, 0, int(rng.integers(200))]
        d.append(int(rng.choice(choices)))
        p.append(d[-1] if rng.random() < 0.7 else int(rng.choice(choices)))
        run *= int(count)
    window = int(rng.choice([1, 2, 2, 4]))
    reach = counts[0] + np.dot(counts[1:] - 1, d)
    extent = counts[0] + np.dot(counts[1:] - 1, p)
    at = int(rng.choice([0, LIMITS[window] - reach, 100])) + int(rng.choice([0, 0, 1, -1]))
    at = min(max(at, -1), 2**35)
    pad = int(rng.choice([0, CHIP.sram_bytes - extent])) + int(rng.choice([0, 0, 1, -1]))
    fine = at % DRAM_UNIT_BYTES + DRAM_UNIT_BYTES * int(rng.integers(-3, 4))
    return [window, (at - fine) // DRAM_UNIT_BYTES, fine, pad, *counts], [*d, *p, 0, 0]


def verdict(row):
    try:
        footprint(row, CHIP, limits=LIMITS)
    except Fault as fault:
        return fault.cause
    return 0


def test_verdicts_and_jobs(rng):
    rows = np.zeros((6000, RESOLVED_FIELDS), np.int64)
    for i, row in enumerate(rows):
        slots, config = wild(rng) if i % 3 == 0 else tame(rng)
        row[R_OPCODE] = BY_NAME[rng.choice(["load", "loadm", "store"])].opcode
        row[R_SLOT : R_SLOT + 8], row[R_CONFIG : R_CONFIG + 8] = slots, config
    words = []
    for row in rows.tolist():
        slots, config = row[R_SLOT:R_CONFIG], row[R_CONFIG : R_CONFIG + 8]
        fields = {"opcode": row[R_OPCODE], "slots": slots, "config": config}
        value = OPERATION.const(fields).as_value().value
        words.append([value >> 32 * k & 0xFFFF_FFFF for k in range(-(-OPERATION.size // 32))])
    cycles = DMA_ISSUE_CYCLES * len(rows)
    # Base and limit come late, and what the queue shows while an operation is issued is the next.
    turn, late = np.arange(cycles) % DMA_ISSUE_CYCLES, np.arange(cycles) // DMA_ISSUE_CYCLES
    window = rows[late, R_SLOT] % CHIP.windows
    due = turn >= 4
    base, limit = (np.where(due, np.array(one)[window], 77) for one in (BASES, LIMITS))
    halves = [np.stack([x & 0xFFFF_FFFF, x >> 32], axis=1) for x in (base, limit)]
    op = np.array(words)[np.where(turn == 0, late, np.minimum(late + 1, len(rows) - 1))]
    shown = build(DmaIssue(CHIP)).run(op=op, start=turn == 0, base=halves[0], limit=halves[1])
    done = turn == DMA_ISSUE_CYCLES - 1
    np.testing.assert_array_equal(shown["busy"], turn > 0)
    np.testing.assert_array_equal(shown["done"], done)
    seen = {2: 0, 3: 0, "empty": 0, "job": 0}
    for i, row in enumerate(rows.tolist()):
        t = DMA_ISSUE_CYCLES * i + DMA_ISSUE_CYCLES - 1
        counts, steps = row[R_SLOT + 4 : R_SLOT + 8], row[R_CONFIG : R_CONFIG + 6]
        empty, cause = min(counts) <= 0, verdict(row)
        assert (shown["empty"][t], shown["cause"][t]) == (empty, cause), row
        assert shown["push"][t] == (not empty and not cause), row
        assert not shown["push"][t - 5 : t].any()
        seen["empty" if empty else cause or "job"] += 1
        if empty or cause:
            continue
        run, left = joined(counts, steps[:3], steps[3:])
        job = fields_of(job_layout(CHIP), number(shown["job"][t]))
        window, offset, fine, pad = row[R_SLOT : R_SLOT + 4]
        assert job["multicast"] == (row[R_OPCODE] == BY_NAME["loadm"].opcode)
        assert job["far"] == BASES[window] + offset * DRAM_UNIT_BYTES + fine
        assert (job["near"], job["run"]) == (pad, run), row
        assert unpacked(job["left"], 31) == left, row
        near = CHIP.sram_bytes.bit_length()
        for k in range(3):
            if left[k]:
                assert unpacked(job["far_step"], 31)[k] == steps[k]
                assert unpacked(job["near_step"], near)[k] == steps[3 + k]
    assert min(seen.values()) > 200, seen


def unpacked(value, bits):
    return [value >> bits * k & (1 << bits) - 1 for k in range(3)]
