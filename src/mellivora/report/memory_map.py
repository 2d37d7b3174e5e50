"""Where things lie: the scratchpad by address and over time, and the windows of DRAM."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from mellivora.report import figure as f
from mellivora.report.live import FREE, LETTERS, shared
from mellivora.report.timeline import first_layer

Buffer = Sequence[Any]


def figures(facts: Mapping[str, Any]) -> list[f.Figure]:
    """Memory over time, buffers by address, DRAM windows: those that the facts have."""
    memory = facts.get("memory") or {}
    entries = reversed((memory.get("sram") or {}).items())  # decode first
    maps = [by_address(entry, rows, memory["sram_bytes"]) for entry, rows in entries if rows]
    return [one for one in (over_time(facts), *maps, windows(memory)) if one]


def over_time(facts: Mapping[str, Any]) -> f.Figure | None:
    """What is live in a core's scratchpad and accumulators during the decode step."""
    live = facts.get("live")
    if not live or not live["lines"]:
        return None
    kinds, lines, bands = live["kinds"], live["lines"], live["bands"]
    tints = f.colours(f.kinds_of(facts))
    capacity = facts["memory"]["sram_bytes"]
    columns, slot = len(lines[0]), live["slot_cycles"]
    middles = [slot * (i + 0.5) for i in range(columns)]
    timelines = f.timelines(facts)
    whole = live["cycles"]
    layer = first_layer(timelines[0]) * 2 if timelines and timelines[0]["slices"] else whole
    views = [("two layers", min(layer, whole)), ("whole step", whole)]
    at, ticks, edges = 0, [], []
    for _, _, _, height in bands:
        ticks.append(at + height / 2 - 0.5)
        at += height
        edges.append(at - 0.5)
    data = [
        {
            "type": "scatter",
            "x": middles,
            "y": live["live_bytes"],
            "yaxis": "y2",
            "mode": "lines",
            "fill": "tozeroy",
            "line": {"color": f.GREY, "width": 1, "shape": "hvh"},
            "hovertemplate": "%{y:,d} bytes live near cycle %{x:,.0f}<extra></extra>",
            "showlegend": False,
        },
        _heat(lines, kinds, tints, middles, bands),
        *(
            {"type": "scatter", "x": [None], "y": [None], "mode": "markers",
             "name": kind or "other",
             "marker": {"color": tints[kind], "symbol": "square", "size": 11}}
            for letter, kind in zip(LETTERS, kinds, strict=False)
            if any(letter in line for line in lines)
        ),
    ]  # fmt: skip
    peak = f"{f.binary(live['peak_bytes'])} of {f.binary(capacity)} at most"
    return f.Figure(
        "live",
        "What the scratchpad holds, over time",
        f"Core {live['core']} in one decode step. Coloured from a write to the last read of what "
        "it wrote, by the kind of layer that wrote it; empty is free. A band is a buffer, or "
        f"buffers that share bytes; higher bands are larger buffers. Live at once: {peak}.",
        f"Map of memory over {f.count(whole)} cycles in {len(bands)} bands of buffers. "
        f"Live at once: {peak}.",
        data,
        f.layout(
            xaxis=f.axis("cycles", range=[0, min(layer, whole)], tickformat=",d", anchor="y"),
            yaxis=f.axis(
                "",
                range=[at - 0.5, -0.5],
                domain=[0, 0.8],
                tickvals=ticks,
                ticktext=[name for name, *_ in bands],
                fixedrange=True,
                showgrid=False,
                tickfont={"size": 10},
            ),
            yaxis2=f.axis(
                "",
                domain=[0.84, 1],
                fixedrange=True,
                rangemode="tozero",
                tickformat=".2s",
                nticks=3,
                ticksuffix="B",
            ),
            shapes=[
                {
                    "type": "line",
                    "xref": "paper",
                    "x0": 0,
                    "x1": 1,
                    "y0": edge,
                    "y1": edge,
                    "line": {"color": "@grid", "width": 1},
                }
                for edge in edges[:-1]
            ],
            updatemenus=f.buttons(views),
        ),
        [_bands(live)],
        "Found from the bytes that each operation reads and writes, in granules of 64. Grey above: "
        "bytes of the scratchpad that are live.",
        height=max(420, 150 + 6 * at),
        closed=True,
    )


def _heat(
    lines: list[str],
    kinds: list[str],
    tints: Mapping[str, str],
    middles: list[float],
    bands: list[list[Any]],
) -> dict[str, Any]:
    """The map as a picture of one byte a cell: 0 is free, i + 1 is kinds[i]."""
    letters = str.maketrans({FREE: "\0"} | {LETTERS[i]: chr(i + 1) for i in range(len(LETTERS))})
    cells = "".join(lines).translate(letters).encode("latin-1")
    steps = ["rgba(0,0,0,0)", *(tints[kind] for kind in kinds)]
    scale = [[(i + side) / len(steps), tint] for i, tint in enumerate(steps) for side in (0, 1)]
    packed = base64.b64encode(cells).decode("ascii")
    return {
        "type": "heatmap",
        "z": {"dtype": "u1", "bdata": packed, "shape": f"{len(lines)}, {len(lines[0])}"},
        "x": middles,
        "y": list(range(len(lines))),
        "zmin": -0.5,
        "zmax": len(kinds) + 0.5,
        "colorscale": scale,
        "showscale": False,
        "hovertemplate": "near cycle %{x:,.0f}<extra></extra>",
    }


def _bands(live: Mapping[str, Any]) -> f.Table:
    rows, at = [], 0
    for name, address, size, height in live["bands"]:
        cells = "".join(live["lines"][at : at + height])
        used = len(cells) - cells.count(FREE)
        rows.append([name, f"{address:#x}", f.binary(size), f.share(used, len(cells))])
        at += height
    return f.Table(["Band", "Address", "Size", "Live, of the step"], rows, 1, "Bands of the map")


def by_address(entry: str, rows: Sequence[Buffer], capacity: int) -> f.Figure:
    """Buffers of an entry by address; those that share bytes lie in lanes above each other."""
    placed = _lanes(rows)
    depth = max(lane for _, lane in placed) + 1
    top = max(at + size for _, at, size in rows)
    largest = max(rows, key=lambda row: row[2])
    before = [at + size for _, at, size in rows if at + size <= largest[1]]
    edge = 1.02 * max(before) if before and 2 * largest[2] > top else capacity
    views = (
        [("all", capacity)] if edge == capacity else [("before the ring", edge), ("all", capacity)]
    )
    cut = (
        "" if edge == capacity else f" Right of the view lies {largest[0]}, {f.binary(largest[2])}."
    )
    return f.Figure(
        f"buffers-{entry}",
        f"The scratchpad in {entry}, by address",
        f"{len(rows)} buffers, {f.binary(top)} of the {f.binary(capacity)} of a core. Buffers that "
        f"never live at once share bytes: they lie above each other.{cut}",
        f"{len(rows)} buffers by address, the largest {largest[0]} with {f.binary(largest[2])}.",
        [_boxes(entry, placed)],
        f.layout(
            barmode="overlay",
            bargap=0.12,
            showlegend=False,
            xaxis=f.axis("bytes", range=[0, edge], tickformat=",d"),
            yaxis=f.axis(
                "", showticklabels=False, fixedrange=True, showgrid=False, range=[-0.7, depth - 0.3]
            ),
            uniformtext={"mode": "hide", "minsize": 9},
            updatemenus=f.buttons(views),
        ),
        [_buffer_table(entry, rows, capacity)],
        height=100 + 30 * depth,
        closed=True,
    )


def _lanes(rows: Sequence[Buffer]) -> list[tuple[Buffer, int]]:
    """Each buffer with the lowest lane that is free at its address."""
    tops: list[int] = []
    placed: list[tuple[Buffer, int]] = []
    for row in sorted(rows, key=lambda one: (one[1], -one[2])):
        lane = next((i for i, top in enumerate(tops) if top <= row[1]), len(tops))
        tops[lane : lane + 1] = [row[1] + row[2]]
        placed.append((row, lane))
    return placed


_BOXES = ("#3f7fd6", "#7aa7e6")


def _boxes(entry: str, placed: list[tuple[Buffer, int]]) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "name": entry,
        "base": [row[1] for row, _ in placed],
        "x": [row[2] for row, _ in placed],
        "y": [lane for _, lane in placed],
        "text": [row[0] for row, _ in placed],
        "textposition": "inside",
        "textangle": 0,
        "insidetextanchor": "middle",
        "insidetextfont": {"color": "#fff", "size": 11},
        "marker": {
            "color": ["#b267c4" if lane else _BOXES[i % 2] for i, (_, lane) in enumerate(placed)],
            "line": {"width": 0.5, "color": "@paper"},
        },
        "customdata": [f"{row[1]:#x} to {row[1] + row[2]:#x}" for row, _ in placed],
        "hovertemplate": f"<b>%{{text}}</b> ({entry})<br>%{{x:,d}} bytes<br>%{{customdata}}"
        "<extra></extra>",
    }  # fmt: skip


def _buffer_table(entry: str, rows: Sequence[Buffer], capacity: int) -> f.Table:
    lines = []
    for group in shared(rows):
        for name, address, size in group:
            others = [
                other for other, a, s in group
                if other != name and a < address + size and address < a + s
            ]  # fmt: skip
            also = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if others[4:] else "")
            lines.append([name, also, f"{address:#x}", f.count(size), f.share(size, capacity)])
    head = ["Buffer", "Shares bytes with", "Address", "Bytes", "Of the scratchpad"]
    return f.Table(head, lines, 2, f"Buffers of {entry}, by address")


def windows(memory: Mapping[str, Any]) -> f.Figure | None:
    """DRAM windows: what each is for and its share of the memory that is used."""
    rows = memory.get("dram")
    if not rows:
        return None
    used, capacity = sum(size for *_, size in rows), memory["dram_bytes"]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "y": [f"{name} ({role})" for name, role, _, _ in rows][::-1],
            "x": [size for *_, size in rows][::-1],
            "text": [f"{f.binary(size)}, {f.share(size, used)}" for *_, size in rows][::-1],
            "textposition": "auto",
            "cliponaxis": False,
            "marker": {"color": _BOXES[0]},
            "hovertemplate": "%{y}: %{x:,d} bytes<extra></extra>",
        }
    ]
    lines = [[name, role, f"{base:#x}", f.count(size), f.share(size, used), f.share(size, capacity)]
             for name, role, base, size in rows]  # fmt: skip
    head = ["Window", "Role", "Base", "Bytes", "Of what is used", "Of the memory"]
    total = f"{f.binary(used)} of {f.binary(capacity)} ({f.share(used, capacity)})"
    return f.Figure(
        "dram",
        "DRAM windows",
        f"All that the program may touch in memory, {total}. Every access is checked against its "
        "window.",
        "DRAM windows by size: "
        + ", ".join(f"{name} {f.binary(size)}" for name, _, _, size in rows)
        + ".",
        data,
        f.layout(
            xaxis=f.axis("bytes", tickformat=".2s", ticksuffix="B"),
            yaxis=f.axis("", fixedrange=True, showgrid=False),
            showlegend=False,
        ),
        [f.Table(head, lines, 2, "Windows by address")],
        height=70 + 34 * len(rows),
    )


if __name__ == "__main__":
    from mellivora.report.alone import main

    main("memory_map", figures)
