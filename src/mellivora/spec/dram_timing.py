"""What DRAM does beneath the arbiter: channels, banks, refresh, turnaround, in cycles of a chip.

    dram_timing(load_chip("nano")).activate        # 19

docs/design/0008-dram.md defines the device; `dram_timing.toml` has the figures and their sources.
"""

from __future__ import annotations

import functools
import math
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mellivora.errors import SpecError

if TYPE_CHECKING:
    from mellivora.spec.chip import ChipSpec

_TABLE = Path(__file__).with_suffix(".toml")


class DramTiming(NamedTuple):
    """Same as `DramTiming` in native/dram_device.hpp.

    A burst holds the bus of its channel for burst_num / burst_den cycles. From `precharge` to
    `refresh` all are cycles, an interval of 0 is never. write_batch: writes that go together;
    window: of the oldest requests of a channel so many are chosen from.
    """

    channels: int
    interleave_bytes: int
    banks: int
    row_bytes: int
    burst_num: int
    burst_den: int
    precharge: int
    activate: int
    row_cycle: int
    to_read: int
    to_write: int
    refresh_interval: int
    refresh: int
    write_batch: int
    window: int


LEAST_LATENCY_CYCLES = 8
"""Of a chip's `dram_latency_cycles`, for the memory port: what passes on the chip is part of it."""
IDEAL = DramTiming(1, 256, 1, 1 << 40, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1 << 30, 1 << 30)
"""A device that is never late."""


def dram_timing(chip: ChipSpec) -> DramTiming:
    """The device behind a chip's memory port: as many channels as its rate needs, each with an
    equal share of it. Raises SpecError MV0119 for a chip without DRAM, or with one too near."""
    tables = _tables()
    far_enough = chip.dram_latency_cycles >= LEAST_LATENCY_CYCLES
    if chip.dram_kind not in tables or not far_enough:
        kinds = ", ".join(name for name in tables if name != "policy")
        raise SpecError(
            "MV0119",
            "the chip has no DRAM whose banks could be timed",
            where=f"chip {chip.name}",
            given=f"dram_kind {chip.dram_kind}, dram_latency_cycles {chip.dram_latency_cycles}",
            allowed=f"{kinds}; {LEAST_LATENCY_CYCLES} cycles or more",
        )
    kind, policy = tables[chip.dram_kind], tables["policy"]
    channels = max(1, round(chip.dram_gbps / kind["channel_gbps"]))
    burst = Fraction(channels * chip.dram_bursts_den, chip.dram_bursts_num)

    def cycles(name: str) -> int:
        return math.ceil(kind[name] * chip.clock_mhz / 1000)

    return DramTiming(
        channels=channels,
        interleave_bytes=max(policy["interleave_bytes"], chip.dram_burst_bytes),
        banks=kind["banks"],
        row_bytes=kind["row_bytes"],
        burst_num=burst.numerator,
        burst_den=burst.denominator,
        precharge=cycles("precharge_ns"),
        activate=cycles("activate_ns"),
        row_cycle=cycles("row_cycle_ns"),
        to_read=cycles("to_read_ns"),
        to_write=cycles("to_write_ns"),
        refresh_interval=cycles("refresh_interval_ns"),
        refresh=cycles("refresh_ns"),
        write_batch=policy["write_batch"],
        window=policy["window"],
    )


@functools.cache
def _tables() -> dict[str, dict[str, Any]]:
    return tomllib.loads(_TABLE.read_text("utf-8"))
