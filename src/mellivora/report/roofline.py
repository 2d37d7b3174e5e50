"""The roofline: what each kind of layer reaches of what the chip could give it.

A dot is a kind of layer, all of them together: across, how many operations it makes of a byte of
DRAM; up, how many it did a second of its share of the time. MATRIX operations are two for each
8-bit multiply-accumulate, every pass counted; layers without any are measured by VECTOR's lanes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mellivora.report import figure as f
from mellivora.spec import ChipSpec


@dataclass(frozen=True)
class Dot:
    """One kind of layer in one phase. ops and dram_bytes of the phase; cycles of wall clock."""

    phase: str
    kind: str
    engine: str
    cycles: int
    ops: int
    dram_bytes: int
    chip: ChipSpec
    phase_cycles: int

    @property
    def ops_per_byte(self) -> float:
        """Infinite for an operation that moves nothing."""
        return self.ops / self.dram_bytes if self.dram_bytes else math.inf

    @property
    def ops_per_s(self) -> float:
        return self.ops / self.cycles * self.chip.clock_mhz * 1e6 if self.cycles else 0.0

    @property
    def peak_ops_per_s(self) -> float:
        """Of the engine, without a look at memory."""
        return peaks(self.chip)[self.engine]

    @property
    def roof_ops_per_s(self) -> float:
        """The lower of the engine's peak and what DRAM can feed."""
        if not self.dram_bytes:
            return self.peak_ops_per_s
        return min(self.peak_ops_per_s, self.ops_per_byte * self.chip.dram_gbps * 1e9)

    @property
    def limit(self) -> str:
        """Name of the lower roof: "DRAM", "MATRIX" or "VECTOR"."""
        return "DRAM" if self.roof_ops_per_s < self.peak_ops_per_s else self.engine

    @property
    def reached(self) -> float:
        """Rate over roof, 1 at best; a little more where bytes came while an earlier layer ran."""
        return self.ops_per_s / self.roof_ops_per_s if self.roof_ops_per_s else 0.0


def chip_of(facts: Mapping[str, Any]) -> ChipSpec:
    """The chip of the facts, checked again."""
    return ChipSpec(**facts["chip"])


def peaks(chip: ChipSpec) -> dict[str, float]:
    """Operations a second of MATRIX (two a multiply-accumulate) and of VECTOR (one a lane)."""
    return {
        "MATRIX": chip.peak_ops_per_s(),
        "VECTOR": chip.cores * chip.lanes * chip.clock_mhz * 1e6,
    }


def plain_name(label: str) -> str:
    """The same operation of every layer has one name: "layers.3.qkv" is "qkv"."""
    return re.sub(r"^layers\.\d+\.", "", label)


def dots(phase: Mapping[str, Any], chip: ChipSpec) -> list[Dot]:
    """Dots of one phase: its kinds of layer, those with the most time first."""
    out: list[Dot] = []
    for op in phase.get("by_kind", ()):
        engine = "MATRIX" if op["macs"] else "VECTOR"
        ops = 2 * op["macs"] or op["vector_ops"]
        if ops and op["cycles"]:
            numbers = op["cycles"], ops, op["dram_bytes"]
            out.append(Dot(phase["name"], op["kind"], engine, *numbers, chip, phase["cycles"]))
    return sorted(out, key=lambda dot: -dot.cycles)


def figure(facts: Mapping[str, Any]) -> f.Figure | None:
    """The roofline of all phases; None if nothing was computed."""
    chip = chip_of(facts)
    every = [dot for phase in f.phases(facts) for dot in dots(phase, chip)]
    seen = [dot for dot in every if dot.dram_bytes and dot.ops]
    if not every:
        return None
    low, high = _span(seen, chip)
    data = _roofs(chip, low, high)
    tints = f.colours(f.kinds_of(facts))
    names = list(dict.fromkeys(dot.phase for dot in seen))
    for name in names:
        data.append(
            _dots([dot for dot in seen if dot.phase == name], tints, filled=name != "prefill")
        )
    rates = [dot.ops_per_s for dot in seen if dot.ops_per_s] or [1.0]
    bottom = math.floor(math.log10(min(rates))) - 0.1
    top = math.log10(max(peaks(chip).values())) + 0.45
    return f.Figure(
        "roofline",
        "Roofline",
        "How much of the chip each kind of layer uses. The lines are what the chip can give: DRAM "
        "feeds the slope, the engines cap it. A dot is a kind of layer, all of them together; the "
        "larger, the more of the time it took; the nearer its line, the less there is to win.",
        _alt(every),
        data,
        f.layout(
            xaxis=f.axis(
                "operations for each byte of DRAM",
                type="log",
                range=[low, high],
                dtick=1,
                exponentformat="SI",
            ),
            yaxis=f.axis(
                "operations a second", type="log", range=[bottom, top], dtick=1, exponentformat="SI"
            ),
            hovermode="closest",
        ),
        [_table(every)],
        "MATRIX: two operations for each 8-bit multiply-accumulate, every pass of a wider operand "
        "counted. Layers without any are held against VECTOR, one operation a lane and cycle. "
        "Weights may be loaded while the layer before still runs, so a dot can lie above its "
        "line.",
        height=520,
        closed=True,
    )


def _span(seen: list[Dot], chip: ChipSpec) -> tuple[float, float]:
    """Decades of the lower axis: all dots and the bend of the roof."""
    places = [dot.ops_per_byte for dot in seen] or [1.0]
    if chip.ops_per_dram_byte:
        places.append(chip.ops_per_dram_byte)
    return math.floor(math.log10(min(places))) - 0.1, math.ceil(math.log10(max(places))) + 0.6


def _roofs(chip: ChipSpec, low: float, high: float) -> list[dict[str, Any]]:
    """Lines of DRAM, MATRIX and VECTOR, each with its name on it."""
    out: list[dict[str, Any]] = []
    dram = chip.dram_gbps * 1e9
    left, right = 10**low, 10**high
    for engine, peak in peaks(chip).items():
        bend = max(peak / dram, left) if dram else left
        out.append(
            {
                "type": "scatter",
                "x": [bend, right],
                "y": [peak, peak],
                "mode": "lines+text",
                "text": ["", f"<b>{engine}</b> {f.si(peak, 'op/s')}"],
                "textposition": "top left",
                "line": {
                    "color": "@ink",
                    "width": 2 if engine == "MATRIX" else 1.5,
                    "dash": "solid" if engine == "MATRIX" else "dot",
                },
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    if dram:
        bend = max(peaks(chip).values()) / dram
        middle = max(bend / 3, math.sqrt(left * bend))  # where dots are rare
        out.append(
            {
                "type": "scatter",
                "x": [left, middle, bend],
                "y": [left * dram, middle * dram, bend * dram],
                "mode": "lines+text",
                "text": ["", f"<b>DRAM</b> {f.si(dram, 'B/s')}", ""],
                "textposition": "top left",
                "line": {"color": "@ink", "width": 2},
                "hoverinfo": "skip",
                "showlegend": False,
            }
        )
    return out


def _dots(seen: list[Dot], tints: Mapping[str, str], *, filled: bool) -> dict[str, Any]:
    """One phase's dots: filled, or open so that two phases can be told apart."""
    return {
        "type": "scatter",
        "name": seen[0].phase + (" (filled)" if filled else " (open)"),
        "x": [dot.ops_per_byte for dot in seen],
        "y": [dot.ops_per_s for dot in seen],
        "mode": "markers+text",
        "text": [dot.kind or "other" for dot in seen],
        "textposition": "bottom center" if filled else "top center",
        "textfont": {"size": 12},
        "marker": {
            "size": [8 + 44 * math.sqrt(dot.cycles / dot.phase_cycles) for dot in seen],
            "color": [tints[dot.kind] for dot in seen],
            "symbol": "circle" if filled else "circle-open",
            "opacity": 0.8,
            "line": {"width": 1 if filled else 2.5, "color": "@paper" if filled else None},
        },
        "hovertext": [
            f"<b>{dot.kind or 'other'}</b> ({dot.phase})<br>"
            f"{f.share(dot.cycles, dot.phase_cycles)} of the time, {f.count(dot.cycles)} cycles<br>"
            f"{f.plain(dot.ops_per_byte)} operations a byte<br>"
            f"{f.si(dot.ops_per_s, 'op/s')} of {f.si(dot.roof_ops_per_s, 'op/s')}<br>"
            f"{100 * dot.reached:.1f} % of its roof, which is {dot.limit}"
            for dot in seen
        ],
        "hoverinfo": "text",
    }


def _table(every: list[Dot]) -> f.Table:
    rows = [
        [dot.phase, dot.kind or "other", f.share(dot.cycles, dot.phase_cycles),
         f.plain(dot.ops_per_byte) if dot.dram_bytes else "no DRAM", f.si(dot.ops_per_s, "op/s"),
         dot.limit, f"{100 * dot.reached:.1f} %"]
        for dot in every
    ]  # fmt: skip
    head = ["Phase", "Kind", "Of the time", "Operations a byte", "Rate", "Limit",
            "Reached"]  # fmt: skip
    return f.Table(head, rows, 2, "Each kind and its limiting roof")


def _alt(every: list[Dot]) -> str:
    parts = [
        f"{dot.kind or 'other'} in {dot.phase} reaches {100 * dot.reached:.0f} % of its roof, "
        f"{dot.limit}"
        for dot in every[:6]
    ]
    return "Roofline, both axes logarithmic: " + "; ".join(parts) + "."


if __name__ == "__main__":
    from mellivora.report.alone import main

    main("roofline", lambda facts: [figure(facts)])
