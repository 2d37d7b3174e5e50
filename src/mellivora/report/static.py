"""The roofline and one layer of the timeline as an SVG, for pages that hold no scripts.

python -m mellivora.report.static smollm2 -o docs/images/smollm2-m1.svg
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mellivora.errors import HostError, MellivoraError
from mellivora.report import figure as f
from mellivora.report.roofline import chip_of, dots, peaks
from mellivora.report.timeline import first_layer

WIDTH, HEIGHT = 960, 640
INK, SOFT, GRID, PAPER = "#1c2430", "#5b6573", "#dfe0dc", "#fbfaf7"
LEFT, RIGHT = 96, 936
"""Edges of both pictures, pixels."""


def svg(facts: Mapping[str, Any]) -> str:
    """The picture of the last phase of the facts, decode where there is one."""
    phase = f.phases(facts)[-1]
    title = f"{facts['model']} on {facts['chip']['name']}: {phase['name']}"
    cards = [
        f"{f.plain(phase['tokens_per_s'])} tokens/s",
        f"{f.count(phase['cycles'] / max(phase['tokens'], 1))} cycles a token",
        f"{100 * phase['roof']['fraction']:.0f} % of the {phase['roof']['limit'].upper()} roof",
    ]
    body = [
        _text(24, 34, title, size=20, weight=650),
        _text(24, 56, " · ".join(cards) + " (simulated)", size=14, fill=SOFT),
        *_roofline(facts, phase, top=84, bottom=350),
        *_timeline(facts, top=420, bottom=592),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" font-family="system-ui, sans-serif">'
        f"<title>{escape(title)}</title>"
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{PAPER}"/>'
    )
    return "\n".join([head, *body, "</svg>", ""])


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    fill: str = INK,
    anchor: str = "start",
    weight: int = 400,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )


def _line(x0: float, y0: float, x1: float, y1: float, *, fill: str = GRID, more: str = "") -> str:
    ends = f'x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"'
    return f'<line {ends} stroke="{fill}"{more}/>'


def _roofline(
    facts: Mapping[str, Any], phase: Mapping[str, Any], *, top: int, bottom: int
) -> list[str]:
    """Both axes logarithmic, a circle for each kind of layer, its area its share of time."""
    chip = chip_of(facts)
    seen = [dot for dot in dots(phase, chip) if dot.dram_bytes]
    tints, caps, dram = f.colours(f.kinds_of(facts)), peaks(chip), chip.dram_gbps * 1e9
    places = [dot.ops_per_byte for dot in seen] + [chip.ops_per_dram_byte or 1]
    rates = [dot.ops_per_s for dot in seen] + [min(caps.values())]
    low, high = math.log10(min(places)) - 0.5, math.log10(max(places)) + 0.9
    floor, roof = math.log10(min(rates)) - 0.5, math.log10(max(caps.values())) + 0.3

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - low) / (high - low) * (RIGHT - LEFT)

    def y(value: float) -> float:
        return bottom - (math.log10(value) - floor) / (roof - floor) * (bottom - top)

    out: list[str] = []
    for decade in range(math.ceil(low), math.floor(high) + 1):
        out.append(_line(x(10**decade), top, x(10**decade), bottom))
        out.append(_text(x(10**decade), bottom + 16, f"{10**decade:g}", fill=SOFT, anchor="middle"))
    for decade in range(math.ceil(floor), math.floor(roof) + 1):
        out.append(_line(LEFT, y(10**decade), RIGHT, y(10**decade)))
        words = f.si(10**decade, "op/s")
        out.append(_text(LEFT - 8, y(10**decade) + 4, words, fill=SOFT, anchor="end"))
    axis = "operations for each byte of DRAM"
    out.append(_text((LEFT + RIGHT) / 2, bottom + 34, axis, fill=SOFT, anchor="middle"))
    for engine, peak in caps.items():
        dash = ' stroke-width="2"' if engine == "MATRIX" else ' stroke-dasharray="3 4"'
        start = max(peak / dram, 10**low) if dram else 10**low
        out.append(_line(x(start), y(peak), RIGHT, y(peak), fill=INK, more=dash))
        words = f"{engine} {f.si(peak, 'op/s')}"
        out.append(_text(RIGHT, y(peak) - 6, words, anchor="end", weight=600))
    if dram:
        bend, start = caps["MATRIX"] / dram, max(10**low, 10**floor / dram)
        ends = x(start), y(start * dram), x(bend), y(bend * dram)
        out.append(_line(*ends, fill=INK, more=' stroke-width="2"'))
        words = f"DRAM {f.si(dram, 'B/s')}"
        out.append(_text(x(bend / 4) - 8, y(bend / 4 * dram), words, anchor="end", weight=600))
    labels: list[tuple[float, float]] = []
    for dot in seen:
        radius = 4 + 22 * math.sqrt(dot.cycles / dot.phase_cycles)
        at = x(dot.ops_per_byte), y(dot.ops_per_s)
        out.append(
            f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:.1f}" '
            f'fill="{tints[dot.kind]}" fill-opacity="0.85"/>'
        )
        words = f"{dot.kind or 'other'} {f.share(dot.cycles, dot.phase_cycles)} of the time"
        beside, height = at[0] + radius + 5, at[1] + 4
        while any(abs(beside - x1) < 190 and abs(height - y1) < 13 for x1, y1 in labels):
            height += 2
        labels.append((beside, height))
        out.append(_text(beside, height, words))
    return out


def _timeline(facts: Mapping[str, Any], *, top: int, bottom: int) -> list[str]:
    """The first layer of the first timeline, a row an engine."""
    drawn = f.timelines(facts)
    if not drawn or not drawn[0]["slices"]:
        return []
    one, tints = drawn[0], f.colours(f.kinds_of(facts))
    end = 1.02 * first_layer(one)
    pitch = (bottom - top) / len(one["engines"])
    words = f"One layer of a decode step on core {one['core']}"
    out = [_text(24, top - 14, words, size=14, weight=600)]
    for number, engine in enumerate(one["engines"]):
        middle = top + (number + 0.5) * pitch
        out.append(_line(LEFT, middle, RIGHT, middle))
        out.append(_text(LEFT - 8, middle + 4, engine, anchor="end"))
    for engine, begin, stop, label in one["slices"]:
        if begin >= end:
            continue
        at, size = LEFT + begin / end * (RIGHT - LEFT), (min(stop, end) - begin) / end
        tint = tints[one["labels"][label][1]]
        out.append(
            f'<rect x="{at:.1f}" y="{top + (engine + 0.15) * pitch:.1f}" '
            f'width="{max(size * (RIGHT - LEFT), 0.5):.1f}" height="{0.7 * pitch:.1f}" '
            f'fill="{tint}"/>'
        )
    step = 10 ** math.floor(math.log10(end / 3))
    step *= 2 if end / step > 12 else 1
    for tick in range(0, int(end) + 1, step):
        at = LEFT + tick / end * (RIGHT - LEFT)
        out.append(_text(at, bottom + 16, f.count(tick), fill=SOFT, anchor="middle"))
    out.append(_text((LEFT + RIGHT) / 2, bottom + 34, "cycles", fill=SOFT, anchor="middle"))
    return out


def write_svg(path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
    """Write `svg(facts)`, whole or not at all. Raises HostError MV0981 if that fails."""
    target, text = Path(path), svg(facts)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise HostError(
            "MV0981",
            "the picture cannot be written",
            where=str(path),
            given=str(error.strerror),
            hint="choose a folder that can be written and has room",
        ) from error


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the SVG of a model, or of facts in a JSON file. Exits 2 on a user's error."""
    from mellivora.report.alone import add_source, facts_of

    parser = argparse.ArgumentParser(prog="python -m mellivora.report.static", description=__doc__)
    parser.add_argument("-o", "--output", default="report.svg", metavar="FILE")
    add_source(parser)
    args = parser.parse_args(argv)
    try:
        write_svg(args.output, facts_of(args))
    except MellivoraError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
