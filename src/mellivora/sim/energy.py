"""Energy of a timing run: counts times figures, each figure with a range and a source
(`energy.toml`).

The figures are for a 7-nm class. For a chip of another process those of logic and SRAM are scaled
by the ratio of feature sizes; the range then reaches from no scaling to the ratio's square: more
is not known.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mellivora.spec.area import chip_area
from mellivora.spec.figures import Figure, load_figures

if TYPE_CHECKING:
    from mellivora.sim.result import TimingResult
    from mellivora.spec import ChipSpec

TABLE = Path(__file__).with_name("energy.toml")
TABLE_NM = 7


@dataclass(frozen=True)
class Energy:
    """pJ of a run: the figure to print, its range, and (value, low, high) of each part."""

    pj: float
    low_pj: float
    high_pj: float
    by_part: dict[str, tuple[float, float, float]]

    @property
    def joules(self) -> float:
        return self.pj * 1e-12

    def watts(self, seconds: float) -> float:
        """Mean power over `seconds`; 0 for an empty run."""
        return self.joules / seconds if seconds else 0.0


@functools.cache
def _standard() -> dict[str, Figure]:
    return load_figures(TABLE)


def energy(
    result: TimingResult, chip: ChipSpec | None = None, *, figures: dict[str, Figure] | None = None
) -> Energy:
    """Energy of a run. chip: by default the one it ran on; figures: by default those of
    energy.toml.

    Parts: matrix, vector, sram, dram, exchange, static. Static power is that of the area that
    `spec.area` finds; at most that of the largest die the chip may have, as not all is in it.
    """
    chip = result.chip if chip is None else chip
    table = _standard() if figures is None else figures
    work, seconds = result.work, result.seconds
    dram_bits = 8 * work.bursts * chip.dram_burst_bytes
    counts: dict[str, list[tuple[str, float]]] = {
        "matrix": [
            ("int8_mac", work.macs),
            ("matrix_scale", work.scale_ops),
            ("accumulator_byte", work.accumulator_bytes),
        ],
        "vector": [("fp32_op", work.vector_ops)],
        "sram": [("sram_byte", work.sram_bytes)],
        "dram": [(f"dram_bit.{chip.dram_kind}", dram_bits)] if dram_bits else [],
        "exchange": [("exchange_byte", work.exchange_bytes)],
    }
    scale = chip.process_nm / TABLE_NM
    logic = (min(scale, scale**2, 1.0), scale, max(scale, scale**2, 1.0))
    parts: dict[str, tuple[float, float, float]] = {}
    for part, terms in counts.items():
        low, value, high = (1.0, 1.0, 1.0) if part == "dram" else logic
        parts[part] = (
            value * sum(count * table[name].value for name, count in terms),
            low * sum(count * table[name].low for name, count in terms),
            high * sum(count * table[name].high for name, count in terms),
        )
    die, static = chip_area(chip).total_mm2, table["static_mm2"]
    parts["static"] = (
        static.value * die.value * seconds * 1e12,
        static.low * die.low * seconds * 1e12,
        static.high * max(die.high, chip.max_die_mm2) * seconds * 1e12,
    )
    totals = [sum(part[i] for part in parts.values()) for i in range(3)]
    return Energy(*totals, by_part=parts)
