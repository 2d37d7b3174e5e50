"""A floorplan to scale: what a chip's area is for, and how large each part is in mm2.

    svg(load_chip("m1")) -> text of an SVG picture; python -m mellivora.report.floorplan m1 out.svg

Places are by size alone (a squarified treemap in each core, Bruls et al., 2000): no wires were
asked where they want to be.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from math import isqrt, sqrt
from pathlib import Path

from mellivora.spec import ChipSpec, load_chip
from mellivora.spec.area import ChipArea, Range, chip_area

COLOURS = {
    "matrix": "#3f7fd6",
    "vector": "#a865bd",
    "scratchpad": "#3f9b5f",
    "accumulators": "#7cc492",
    "crossbars": "#dd9a2b",
    "load and store": "#d3605c",
    "control": "#7d8590",
    "exchange and memory port": "#b58863",
    "DRAM interface": "#56657a",
}
DIE_PX, MARGIN_PX, SIDE_PX = 760, 28, 380
TOP_PX = 84
FONT = "font-family='Helvetica,Arial,sans-serif'"


@dataclass(frozen=True)
class Tile:
    """A rectangle in mm, from the die's top left corner."""

    name: str
    x: float
    y: float
    width: float
    height: float

    @property
    def mm2(self) -> float:
        return self.width * self.height


def tiles(area: ChipArea) -> list[list[Tile]]:
    """The tiles of each core, then those that the chip has once. All together fill a square."""
    side = sqrt(area.total_mm2.value)
    drive = area.once_mm2.get("DRAM interface", Range(0.0, 0.0, 0.0)).value
    shared = {name: r.value for name, r in area.once_mm2.items() if name != "DRAM interface"}
    edge = drive / 2 / side
    inner = side - 2 * edge
    middle = sum(shared.values()) / inner
    rows = max(d for d in range(1, isqrt(area.cores) + 1) if area.cores % d == 0)
    across = area.cores // rows
    width, height = inner / across, (side - middle) / rows
    before = (rows + 1) // 2  # rows of cores above what is shared
    parts = {name: r.value for name, r in area.core_mm2.items()}
    found: list[list[Tile]] = []
    for row in range(rows):
        y = row * height + (middle if row >= before else 0.0)
        for column in range(across):
            found.append(list(treemap(parts, edge + column * width, y, width, height)))
    once = list(treemap(shared, edge, before * height, inner, middle))
    if drive:
        once += [Tile("DRAM interface", x, 0.0, edge, side) for x in (0.0, side - edge)]
    return [*found, once]


def treemap(
    parts: dict[str, float], x: float, y: float, width: float, height: float
) -> Iterator[Tile]:
    """Tiles of these areas that fill a rectangle of their sum, as square as rows of them can be."""
    left = sorted(parts.items(), key=lambda part: -part[1])
    while left:
        short = min(width, height)
        row = [left[0]]
        for part in left[1:]:
            if _worst([*row, part], short) > _worst(row, short):
                break
            row.append(part)
        left = left[len(row) :]
        deep = sum(mm2 for _, mm2 in row) / short
        at = 0.0
        for name, mm2 in row:
            long = mm2 / deep
            if width >= height:
                yield Tile(name, x, y + at, deep, long)
            else:
                yield Tile(name, x + at, y, long, deep)
            at += long
        if width >= height:
            x, width = x + deep, width - deep
        else:
            y, height = y + deep, height - deep


def _worst(row: list[tuple[str, float]], short: float) -> float:
    """The largest ratio of sides in a row along the short side."""
    deep = sum(mm2 for _, mm2 in row) / short
    return max(max(mm2 / deep**2, deep**2 / mm2) for _, mm2 in row)


def svg(chip: ChipSpec, area: ChipArea | None = None) -> str:
    """The picture."""
    area = chip_area(chip) if area is None else area
    total = area.total_mm2
    groups = tiles(area)
    scale = DIE_PX / sqrt(total.value)
    width, height = DIE_PX + 3 * MARGIN_PX + SIDE_PX, DIE_PX + TOP_PX + 2 * MARGIN_PX
    out = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' "
        f"width='{width}' height='{height}' {FONT}>",
        f"<title>{escape(chip.name)}: floorplan, {total.value:.3g} mm2</title>",
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
        _text(MARGIN_PX, 36, f"{chip.name}: {_mm2(total.value)}", 24, weight=600),
        _text(MARGIN_PX, 60, f"{_mm2(total.low)} to {_mm2(total.high)}; {_what(chip)}", 14, "#555"),
    ]
    for group in groups:
        for tile in group:
            out += _tile(tile, MARGIN_PX, TOP_PX, scale, 11, mm2_only=True)
    for group in groups[:-1]:
        out.append(_frame(group, scale))
    out += _scale_bar(scale, height)
    out += _side(area, groups[0], 2 * MARGIN_PX + DIE_PX)
    return "\n".join([*out, "</svg>"]) + "\n"


def _what(chip: ChipSpec) -> str:
    cores = "one core" if chip.cores == 1 else f"{chip.cores} cores"
    return f"{cores} of {chip.columns} columns and {chip.lanes} lanes, {chip.process_nm} nm"


def _mm2(value: float) -> str:
    """Three digits, two where there is little."""
    return f"{value:.0f} mm²" if value >= 100 else f"{value:.3g} mm²"


def _text(
    x: float, y: float, words: str, size: float, fill: str = "#111", *, weight: int = 400,
    anchor: str = "start",
) -> str:  # fmt: skip
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size:g}' fill='{fill}' "
        f"font-weight='{weight}' text-anchor='{anchor}'>{escape(words)}</text>"
    )


def _tile(
    tile: Tile, left: float, top: float, scale: float, size: float, *, mm2_only: bool
) -> list[str]:
    """A rectangle, and what of its label has room: name and mm2, mm2, or nothing."""
    x, y = left + tile.x * scale, top + tile.y * scale
    width, height = tile.width * scale, tile.height * scale
    out = [
        f"<rect x='{x:.2f}' y='{y:.2f}' width='{width:.2f}' height='{height:.2f}' "
        f"fill='{COLOURS[tile.name]}' stroke='#fff' stroke-width='0.8'>"
        f"<title>{escape(tile.name)}: {tile.mm2:.4f} mm²</title></rect>"
    ]
    number = f"{tile.mm2:.2f}" if mm2_only else _mm2(tile.mm2)
    lines = [number] if mm2_only else [tile.name, number]
    while lines:
        long = max(map(len, lines)) * 0.62 * size + 8
        tall = 1.25 * size * len(lines) + 4
        turned = long > width and long <= height and tall <= width
        if (long <= width and tall <= height) or turned:
            out += _label(lines, x + width / 2, y + height / 2, size, turned=turned)
            break
        lines = lines[1:]
    return out


def _label(lines: list[str], x: float, y: float, size: float, *, turned: bool) -> list[str]:
    first = y - 1.25 * size * (len(lines) - 1) / 2 + 0.35 * size
    texts = [
        _text(x, first + 1.25 * size * i, words, size, "#fff", anchor="middle")
        for i, words in enumerate(lines)
    ]
    return [f"<g transform='rotate(-90 {x:.1f} {y:.1f})'>", *texts, "</g>"] if turned else texts


def _frame(group: list[Tile], scale: float) -> str:
    """The outline of a core."""
    x, y = min(t.x for t in group), min(t.y for t in group)
    width = max(t.x + t.width for t in group) - x
    height = max(t.y + t.height for t in group) - y
    return (
        f"<rect x='{MARGIN_PX + x * scale:.2f}' y='{TOP_PX + y * scale:.2f}' fill='none' "
        f"width='{width * scale:.2f}' height='{height * scale:.2f}' stroke='#111' "
        "stroke-width='1.6'/>"
    )


def _scale_bar(scale: float, height: float) -> list[str]:
    length_mm = next(mm for mm in (5.0, 2.0, 1.0, 0.5, 0.2, 0.1, 0.05) if mm * scale < DIE_PX / 3)
    x, y = MARGIN_PX, height - MARGIN_PX + 4
    end = x + length_mm * scale
    return [
        f"<path d='M{x} {y - 5}V{y + 5}M{x} {y}H{end:.1f}M{end:.1f} {y - 5}V{y + 5}' "
        "stroke='#111' stroke-width='1.4' fill='none'/>",
        _text(end + 8, y + 4, f"{length_mm:g} mm", 12),
    ]


def _side(area: ChipArea, core: list[Tile], left: float) -> list[str]:
    """One core enlarged, and the legend with the figures of every part."""
    x0, y0 = min(t.x for t in core), min(t.y for t in core)
    width = max(t.x + t.width for t in core) - x0
    height = max(t.y + t.height for t in core) - y0
    scale = min(SIDE_PX / width, 330 / height)
    one = area.one_core_mm2
    out = [_text(left, TOP_PX + 14, f"One core: {_mm2(one.value)}", 16, weight=600)]
    top = TOP_PX + 26
    for tile in core:
        at = Tile(tile.name, tile.x - x0, tile.y - y0, tile.width, tile.height)
        out += _tile(at, left, top, scale, 12, mm2_only=False)
    y = top + height * scale + 40
    columns = (left + 262, left + SIDE_PX)
    out += [
        _text(columns[0], y, "mm² in a core", 12, "#555", anchor="end"),
        _text(columns[1], y, "in all", 12, "#555", anchor="end"),
    ]
    rows = [(name, r.value, r.value * area.cores) for name, r in area.core_mm2.items()]
    rows += [(name, None, r.value) for name, r in area.once_mm2.items()]
    for name, mine, whole in [*rows, ("total", one.value, area.total_mm2.value)]:
        y += 24
        weight = 600 if name == "total" else 400
        if name in COLOURS:
            out.append(
                f"<rect x='{left}' y='{y - 11}' width='14' height='14' fill='{COLOURS[name]}'/>"
            )
        out.append(_text(left + 22, y, name, 14, weight=weight))
        for column, value in zip(columns, (mine, whole), strict=True):
            if value is not None:
                out.append(_text(column, y, f"{value:.3f}", 14, weight=weight, anchor="end"))
    notes = (
        "Areas to scale, places not optimised. Cells by synthesis, at the",
        "share of area that placement leaves them; SRAM from bits alone.",
        "No host link, memory controllers, pads, wires, clock tree.",
    )
    return out + [
        _text(left, y + 30 + 16 * i, words, 11.5, "#555") for i, words in enumerate(notes)
    ]


def main() -> int:
    """python -m mellivora.report.floorplan CHIP FILE"""
    chip, output = sys.argv[1:]
    Path(output).write_text(svg(load_chip(chip)), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
