"""Energy of a timing run: counts times figures, each figure with a range and a source
(`energy.toml`).

The figures are for a 7-nm class. For a chip of another process those of logic and SRAM are scaled
by the ratio of feature sizes; the range then reaches from no scaling to the ratio's square: more
is not known.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mellivora.errors import SpecError

if TYPE_CHECKING:
    from mellivora.sim.result import TimingResult
    from mellivora.spec import ChipSpec

TABLE = Path(__file__).with_name("energy.toml")
TABLE_NM = 7
UNITS = ("pJ", "W")


@dataclass(frozen=True)
class Figure:
    """One sourced figure: low <= value <= high, in `unit` for each thing that the name says."""

    value: float
    low: float
    high: float
    unit: str
    source: str


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


def load_figures(path: Path = TABLE) -> dict[str, Figure]:
    """All figures by name ("int8_mac", "dram_bit.GDDR7"). Raises SpecError MV0190..MV0193, one
    fault at a time."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SpecError("MV0190", "the energy table cannot be read", where=str(path),
                        given=str(error),
                        hint="restore it, or correct the TOML") from error  # fmt: skip
    out: dict[str, Figure] = {}
    for name, entry in tree.items():
        deeper = (
            {} if not isinstance(entry, dict) or "value" in entry or "source" in entry else entry
        )
        for sub, figure in deeper.items() or [("", entry)]:
            full = f"{name}.{sub}" if sub else name
            out[full] = _figure(full, figure, str(path))
    return out


def _figure(name: str, entry: Any, path: str) -> Figure:
    where = f"{path}: {name}"
    keys = set(Figure.__dataclass_fields__)
    given = set(entry) if isinstance(entry, Mapping) else set()
    if not isinstance(entry, Mapping) or given - keys or keys - {"source"} - given:
        raise SpecError("MV0191", "an energy figure has the wrong keys", where=where,
                        given=", ".join(sorted(given)) or str(entry),
                        allowed=", ".join(sorted(keys)),
                        hint="write all of them and no others")  # fmt: skip
    source = entry.get("source", "")
    if not isinstance(source, str) or not source.strip():
        raise SpecError("MV0192", "an energy figure has no source", where=where, given=repr(source),
                        allowed="who measured or published it, and where",
                        hint="cite one: a figure without a source is a bug")  # fmt: skip
    numbers = [entry[key] for key in ("low", "value", "high")]
    fine = all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in numbers)
    if not fine or not 0 < numbers[0] <= numbers[1] <= numbers[2] or entry["unit"] not in UNITS:
        raise SpecError("MV0193", "an energy figure is not a range", where=where,
                        given=f"low, value, high = {numbers}, unit {entry['unit']!r}",
                        allowed="0 < low <= value <= high, unit " + " or ".join(UNITS),
                        hint="correct the numbers")  # fmt: skip
    low, value, high = (float(x) for x in numbers)
    return Figure(value, low, high, entry["unit"], source)


@functools.cache
def _standard() -> dict[str, Figure]:
    return load_figures()


def energy(
    result: TimingResult, chip: ChipSpec | None = None, *, figures: dict[str, Figure] | None = None
) -> Energy:
    """Energy of a run. chip: by default the one it ran on; figures: by default those of
    energy.toml.

    Parts: matrix, vector, sram, dram, exchange, static. Static power is that of the largest die
    the chip may have.
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
        "static": [("static_mm2", chip.max_die_mm2 * seconds * 1e12)],
    }
    scale = chip.process_nm / TABLE_NM
    logic = (min(scale, scale**2, 1.0), scale, max(scale, scale**2, 1.0))
    parts: dict[str, tuple[float, float, float]] = {}
    for part, terms in counts.items():
        low, value, high = (1.0, 1.0, 1.0) if part in ("dram", "static") else logic
        parts[part] = (
            value * sum(count * table[name].value for name, count in terms),
            low * sum(count * table[name].low for name, count in terms),
            high * sum(count * table[name].high for name, count in terms),
        )
    totals = [sum(part[i] for part in parts.values()) for i in range(3)]
    return Energy(*totals, by_part=parts)
