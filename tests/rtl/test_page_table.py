"""Page tables: every place, every cause, in time, from random and from extreme operations."""

import numpy as np
from tests.rtl.test_dma_walker import words

from mellivora.isa.encoding import GATHER_PAGES
from mellivora.isa.table import BY_NAME
from mellivora.rtl.interfaces import ADDRESS_BITS, OPERATION, READ_CYCLES
from mellivora.rtl.page_table import PageTable
from mellivora.rtl.simulate import build
from mellivora.spec import load_chip

CHIP = load_chip("nano")
BURST, SRAM = CHIP.dram_burst_bytes, CHIP.sram_bytes
ISSUE, SLACK = 6, 3
SPECIAL = [0, 1, -1, 2**31 - 1, -(2**31), 1 << 20]
CAUSES = {"pitch": (2, 4, 5), "late": (2, 3, 4)}
PITCHES = [0, BURST, BURST, 3 * BURST, BURST // 2, BURST + 1, -BURST, 2**31 - BURST, -1]


def random_case(rng):
    """(opcode, counts, d3, table, entries, stop and far of page 0, limit)."""
    counts = rng.integers(1, 9, 4)
    counts[3] = rng.choice([1, 2, 3, GATHER_PAGES, GATHER_PAGES + 1, int(rng.integers(1, 20))])
    if rng.random() < 0.15:
        counts[rng.integers(4)] = rng.choice([0, -3])
    d3 = int(rng.choice(PITCHES))
    n = int(np.clip(counts[3], 0, GATHER_PAGES))
    places = [0, 4, SRAM - 4 * n, SRAM - 4 * n + 4, -4, 6, 4 * int(rng.integers(2000)), 2**31 - 4]
    table = int(rng.choice(places, p=[0.1, 0.1, 0.2, 0.1, 0.05, 0.1, 0.3, 0.05]))
    entries = rng.integers(0, 200, GATHER_PAGES)
    if rng.random() < 0.3:
        entries[rng.integers(max(n, 1))] = rng.choice(SPECIAL)
    stop, far = int(rng.integers(1, 1 << 20)), int(rng.integers(1 << 34))
    limit = stop + max(int(entries[:n].max(initial=0)), 0) * max(d3, 0)
    limit = min(limit + int(rng.choice([0, 0, -1, 1, 1 << 16])), (1 << ADDRESS_BITS) - 1)
    name = "loadx" if rng.random() < 0.85 else str(rng.choice(["load", "loadm", "lsync"]))
    return BY_NAME[name].opcode, counts.tolist(), d3, table, entries.tolist(), stop, far, limit


def pitch_cause(counts, d3):
    if counts[3] > GATHER_PAGES:
        return 5
    return 4 if d3 % BURST else 2 if d3 < 0 else 0


def late_cause(n, d3, table, entries, stop, limit):
    if table % 4:
        return 4
    if table < 0 or table + 4 * n > SRAM:
        return 3
    return 2 if any(page < 0 or stop + page * d3 > limit for page in entries[:n]) else 0


def test_places_and_causes(rng):
    cases = [random_case(rng) for _ in range(600)]
    ops, start, entry, stops, fars, limits, checks = [], [], [], [], [], [], []
    at = 0
    for opcode, counts, d3, table, entries, stop, far, limit in cases:
        gathers = opcode == BY_NAME["loadx"].opcode and min(counts) > 0
        n = counts[3] if gathers and counts[3] <= GATHER_PAGES else 0
        cycles = ISSUE + n + SLACK
        op = {"opcode": opcode, "slots": [0] * 4 + counts, "config": [0, 0, d3, 0, 0, 0, table, 0]}
        garbage = rng.integers(0, 2**32, (cycles, len(words(OPERATION, op))))
        garbage[0] = words(OPERATION, op)  # afterwards the queue shows something else
        ops.append(garbage)
        start += [1] + [0] * (cycles - 1)
        data = rng.integers(-(2**31), 2**31, cycles)
        data[1 + READ_CYCLES : 1 + READ_CYCLES + n] = entries[:n]
        entry.append(data & 0xFFFF_FFFF)
        for column, value in ((stops, stop), (fars, far), (limits, limit)):
            wild = rng.integers(0, [2**32, 2**8], (cycles, 2))
            wild[ISSUE - 1 :] = value & 0xFFFF_FFFF, value >> 32  # due then
            column.append(wild)
        checks.append((at, n, gathers, counts, d3, table, entries, stop, far, limit))
        at += cycles
    shown = build(PageTable(CHIP)).run(
        op=np.concatenate(ops).astype(np.uint32),
        start=start,
        read__data=np.concatenate(entry),
        stop=np.concatenate(stops),
        far=np.concatenate(fars),
        limit=np.concatenate(limits),
    )
    wide = {name: shown[name].astype(np.int64) @ [1, 1 << 32] for name in ("first", "next")}
    seen = {(when, cause): 0 for when, causes in CAUSES.items() for cause in causes}
    whole = 0
    for t, n, gathers, counts, d3, table, entries, stop, far, limit in checks:
        end = t + ISSUE - 1 + n
        busy = shown["busy"][t + 1 : end + 1 + SLACK].tolist()
        assert busy == [n > 0] * (end - t) + [0] * SLACK
        done = shown["done"][t + 1 : end + 1 + SLACK].tolist()
        assert done == [int(n > 0 and i == end - t - 1) for i in range(end - t + SLACK)]
        if not gathers:
            continue
        early = pitch_cause(counts, d3)
        assert shown["pitch_cause"][end] == early
        if early or not n:
            seen["pitch", early] += 1
            continue
        assert shown["read__enable"][t + 1 : end].tolist() == [i < n for i in range(end - t - 1)]
        asked = shown["read__address"][t + 1 : t + 1 + n].astype(np.int64)
        np.testing.assert_array_equal(asked, (table + 4 * np.arange(n)) & 0xFFFF_FFFF)
        cause = late_cause(n, d3, table, entries, stop, limit)
        assert shown["cause"][end] == cause
        if cause:
            seen["late", cause] += 1
            continue
        pushes = np.flatnonzero(shown["push"][t : end + 1])
        assert pushes.tolist() == list(range(ISSUE, ISSUE + n - 1))
        places = [wide["first"][end], *wide["next"][t + pushes]]
        assert places == [far + page * d3 for page in entries[:n]]
        whole += 1
    assert min(seen.values()) > 5, seen
    assert whole > 60
