"""Live memory, against a count by hand and against a slow definition on a real program."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np

from mellivora.isa.footprint import footprint, intervals
from mellivora.report.live import GRANULE_BYTES, live, shared
from mellivora.runtime.llm import LLM
from mellivora.sim.result import TimingResult
from mellivora.sim.trace import data_begin


@cache
def step() -> tuple[TimingResult, list, list]:
    llm = LLM("tiny", "m1", max_batch=1, context=512, cache=False)
    result = llm.engine.device.timing("decode", llm.engine.decode_settings([(0, 7, 40)]))
    program = llm.engine.device.program
    return result, program.entries["decode"].symbols, llm.executable.buffers["decode"]


def test_buffers_that_share_bytes_form_groups() -> None:
    rows = [["a", 0, 10], ["b", 10, 10], ["c", 15, 2], ["d", 16, 40], ["e", 56, 1]]
    names = [[row[0] for row in group] for group in shared(rows)]
    assert names == [["a"], ["b", "c", "d"], ["e"]]


def test_live_bytes_are_those_of_the_definition() -> None:
    """At sampled cycles, walk the whole program: a granule is live between a write before the
    cycle and a read after it, with no other write between them."""
    result, symbols, buffers = step()
    found = live(result, symbols, buffers)
    slot = found["slot_cycles"]
    begin, end = data_begin(result, 0), result.end[0]
    touches: dict[int, list[tuple[int, bool]]] = {}
    for row, fields in enumerate(result.rows[0].tolist()):
        touched = footprint(fields, result.chip)
        for regions, time, write in ((touched.reads, end, False), (touched.writes, begin, True)):
            granules = {
                g
                for region in regions
                for first, last in intervals(region)
                if first < result.chip.sram_bytes
                for g in range(first // GRANULE_BYTES, (last - 1) // GRANULE_BYTES + 1)
            }
            for granule in granules:
                touches.setdefault(granule, []).append((int(time[row]), write))
    held = np.zeros(found["cycles"] + 1, np.int64)
    for events in touches.values():
        start, stop = -1, -1
        for time, write in [*events, (0, True)]:
            if not write:
                stop = max(stop, time)
                continue
            if start >= 0 and stop > start:
                held[start:stop] += GRANULE_BYTES
            start, stop = time, -1
    padded = np.pad(held[:-1], (0, len(found["live_bytes"]) * slot - found["cycles"]))
    assert found["live_bytes"] == padded.reshape(-1, slot).max(axis=1).tolist()
    assert found["peak_bytes"] == held.max() > 0


def test_bands_cover_every_buffer_once() -> None:
    result, symbols, buffers = step()
    bands = live(result, symbols, buffers)["bands"]
    spans = [(address, address + size) for _, address, size, _ in bands]
    assert spans == sorted(spans)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    for _, address, size in buffers:
        assert sum(low <= address and address + size <= high for low, high in spans) == 1


def test_no_operation_writes_outside_the_buffers() -> None:
    """What the picture leaves out would be a lie: the compiler's list names all that is used."""
    result, _, buffers = step()
    named = np.zeros(result.chip.sram_bytes, bool)
    for _, address, size in buffers:
        named[address : address + size] = True
    for fields in result.rows[0].tolist():
        touched = footprint(fields, result.chip)
        for region in touched.reads + touched.writes:
            for first, last in intervals(region):
                assert first >= result.chip.sram_bytes or named[first:last].all()
