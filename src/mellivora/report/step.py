"""One decode step, looked at closely: what the timeline and the memory maps are drawn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mellivora.report.live import live
from mellivora.runtime.measure import memory_map, timeline

if TYPE_CHECKING:
    from mellivora.runtime.engine import Engine
    from mellivora.sim.result import TimingResult


def step_facts(engine: Engine, result: TimingResult) -> dict[str, Any]:
    """`timeline` of the first and the last core, `memory` and `live`, of one decode launch whose
    times are `result`. Plain values, for `write_report`.
    """
    symbols = engine.device.program.entries["decode"].symbols
    buffers = engine.executable.buffers.get("decode", [])
    cores = dict.fromkeys((0, len(result.rows) - 1))
    return {
        "timeline": [timeline(result, symbols, core=core) for core in cores],
        "memory": memory_map(engine.executable),
        "live": live(result, symbols, buffers),
    }
