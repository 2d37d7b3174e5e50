"""Timing of launches: what adds up must add up, and steps of one tile pair must cost the same."""

from __future__ import annotations

import json
import math

import pytest
from tests.runtime.tiny import IDS, tiny

from mellivora.errors import UsageError
from mellivora.frontends.llm import load_model
from mellivora.runtime.llm import LLM
from mellivora.runtime.measure import measure_decode, measure_prefill, memory_map, timeline


def test_a_step_depends_on_position_only_through_its_tile_pairs() -> None:
    engine = tiny().engine
    one = {position: measure_decode(engine, position, 1).cycles for position in (0, 1, 100, 255)}
    assert len(set(one.values())) == 1
    two = {position: measure_decode(engine, position, 1).cycles for position in (256, 300, 511)}
    assert len(set(two.values())) == 1
    assert two[256] > one[0]
    both = measure_decode(engine, 250, 10)
    assert both.cycles == 6 * one[0] + 4 * two[256]
    assert (both.launches, both.tokens) == (10, 10)


def test_prefill_adds_up_its_launches() -> None:
    engine = tiny(chip="nano", max_batch=1).engine
    chunk = engine.executable.chunk
    whole = measure_prefill(engine, 2 * chunk + 1)
    assert whole.launches == 3
    assert whole.tokens == 2 * chunk + 1
    assert whole.cycles > measure_prefill(engine, 2 * chunk).cycles


@pytest.mark.parametrize(
    "phase_of", [lambda e: measure_prefill(e, 20), lambda e: measure_decode(e, 20, 3)]
)
def test_every_cycle_is_accounted_for(phase_of: object) -> None:
    phase = phase_of(tiny().engine)  # type: ignore[operator]
    for engine, busy in phase.busy_cycles.items():
        total = busy + sum(phase.stall_cycles[engine].values())
        assert abs(total - phase.cycles) <= 1e-6 * phase.cycles  # means over cores, in float
    assert sum(op.cycles for op in phase.ops.values()) == phase.cycles
    assert sum(op.cycles for op in phase.by_kind()) == phase.cycles
    assert sum(op.macs for op in phase.ops.values()) == phase.macs
    assert 0 < phase.roofs.fraction <= 1
    energy = phase.energy_j
    assert 0 < energy["low"] <= energy["typical"] <= energy["high"]
    assert abs(sum(phase.energy_parts_j.values()) / energy["typical"] - 1) < 1e-9
    json.dumps(phase.facts(), allow_nan=False)


def test_every_weight_is_read_in_a_step() -> None:
    llm = tiny()
    tensors = llm.model.graph.params.values()
    matrices = sum(math.prod(t.shape) for t in tensors if len(t.shape) == 2)
    read = measure_decode(llm.engine, 0, 1).read_bytes
    assert read >= 2 * matrices  # x2: two bytes a weight, and scales; the head is the embedding
    assert read <= sum(w.bytes for w in llm.executable.program.windows)


def test_shapes_without_weights_have_the_same_timing_and_cannot_compute() -> None:
    shapes = load_model("tiny", shapes_only=True, weight_format="x2")
    llm = LLM(shapes, "m1", max_batch=4, context=512, shapes_only=True)
    assert measure_decode(llm.engine, 9, 1).cycles == measure_decode(tiny().engine, 9, 1).cycles
    with pytest.raises(UsageError) as caught:
        llm.engine.prefill(0, IDS)
    assert caught.value.code == "MV0820"


def test_the_timeline_and_the_memory_map_are_plain_values() -> None:
    llm = tiny()
    phase = measure_decode(llm.engine, 5, 1)
    assert phase.sample is not None
    drawn = timeline(phase.sample, llm.executable.program.entries["decode"].symbols)
    assert all(start <= end <= phase.cycles for _, start, end, _ in drawn["slices"])
    assert max(row[3] for row in drawn["slices"]) < len(drawn["labels"])
    places = memory_map(llm.executable)
    json.dumps([drawn, places], allow_nan=False)
    assert [row[0] for row in places["dram"]] == [
        "decode",
        "prefill",
        "tables",
        "kv",
        "hidden",
        "logits",
    ]
    for rows in places["sram"].values():
        assert rows
        assert all(address + size <= places["sram_bytes"] for _, address, size in rows)
