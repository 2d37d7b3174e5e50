"""What the engines did in one decode step: a row an engine, a bar an operation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mellivora.report import figure as f

MAX_BARS = 3000
"""Bars of a core in the page; a browser draws so many without a pause. Later ones are left out."""


def figure(facts: Mapping[str, Any]) -> f.Figure | None:
    """The timeline of the cores in `timeline`; None without any."""
    drawn = [one for one in f.timelines(facts) if one["slices"]]
    if not drawn:
        return None
    clock_mhz = facts["chip"]["clock_mhz"]
    tints = f.colours(f.kinds_of(facts))
    bars, rows, left_out, last = _bars(drawn)
    data = [_trace(kind, some, tints[kind], clock_mhz) for kind, some in bars.items()]
    first = first_layer(drawn[0])
    views = [("one layer", first * 1.02), ("whole step", last * 1.01)]
    cores = " and ".join(str(one["core"]) for one in drawn)
    note = f" The last {f.count(left_out)} operations are not drawn." if left_out else ""
    return f.Figure(
        "timeline",
        "One decode step, engine by engine",
        f"What LOAD, STORE, MATRIX and VECTOR of core {cores} did and when, one bar an operation, "
        "coloured by kind of layer. Gaps are waiting. Drag to zoom, double-click to go back.",
        f"Engine timeline of core {cores}: {len(rows)} rows over {f.count(last)} cycles; "
        + _busy(drawn, last),
        data,
        f.layout(
            barmode="overlay",
            bargap=0.25,
            xaxis=f.axis(
                f"cycles ({1000 / clock_mhz:.4g} ns each)", range=[0, first * 1.02], tickformat=",d"
            ),
            yaxis=f.axis(
                "",
                categoryorder="array",
                categoryarray=rows[::-1],
                fixedrange=True,
                range=[-0.6, len(rows) - 0.4],
            ),
            updatemenus=f.buttons(views),
        ),
        [_table(drawn)],
        "A transfer is drawn where its data moved: its request was made earlier." + note,
        height=110 + 34 * len(rows),
        closed=True,
    )


def first_layer(one: Mapping[str, Any]) -> float:
    """The cycle at which the first layer ends; the end of all where layers have no number."""
    inside = {i for i, (label, _) in enumerate(one["labels"]) if re.match(r"layers\.0\.", label)}
    ends = [end for _, _, end, label in one["slices"] if label in inside]
    return max(ends or [end for _, _, end, _ in one["slices"]]) or 1


Bar = tuple[str, int, int, str]
"""(row, begin, cycles, label)."""


def _bars(drawn: list[Mapping[str, Any]]) -> tuple[dict[str, list[Bar]], list[str], int, int]:
    """Bars by kind, names of rows, slices that were left out, and the last cycle drawn."""
    bars: dict[str, list[Bar]] = {}
    rows: list[str] = []
    left_out = last = 0
    for one in drawn:
        rows += [f"core {one['core']} {engine}" for engine in one["engines"]]
        left_out += one["left_out"] + max(len(one["slices"]) - MAX_BARS, 0)
        for engine, begin, end, label in one["slices"][:MAX_BARS]:
            name, kind = one["labels"][label]
            row = f"core {one['core']} {one['engines'][engine]}"
            bars.setdefault(kind, []).append((row, begin, end - begin, name))
            last = max(last, end)
    return bars, rows, left_out, last


def _trace(kind: str, some: list[Bar], tint: str, clock_mhz: float) -> dict[str, Any]:
    rows, begins, cycles, labels = zip(*some, strict=True)
    return {
        "type": "bar",
        "orientation": "h",
        "name": kind or "other",
        "y": list(rows),
        "base": list(begins),
        "x": list(cycles),
        "customdata": list(labels),
        "marker": {"color": tint, "line": {"width": 0}},
        "hovertemplate": "<b>%{customdata}</b><br>%{y}<br>from cycle %{base:,d}<br>"
        f"%{{x:,d}} cycles of {1000 / clock_mhz:.4g} ns<extra></extra>",
    }


def _table(drawn: list[Mapping[str, Any]]) -> f.Table:
    rows = []
    for one in drawn:
        last = max(end for _, _, end, _ in one["slices"])
        for number, engine in enumerate(one["engines"]):
            spans = [(a, b) for e, a, b, _ in one["slices"] if e == number]
            at_work = sum(b - a for a, b in spans)
            rows.append([str(one["core"]), engine, f.count(len(spans)), f.count(at_work),
                         f.share(at_work, last)])  # fmt: skip
    head = ["Core", "Engine", "Operations", "Cycles at work", "Of the step"]
    return f.Table(head, rows, 2, "The bars, counted (for LOAD and STORE: data moving)")


def _busy(drawn: list[Mapping[str, Any]], last: int) -> str:
    rows = _table(drawn).rows
    return ", ".join(f"core {core} {engine} {busy or '0 %'}" for core, engine, _, _, busy in rows)


if __name__ == "__main__":
    from mellivora.report.alone import main

    main("timeline", lambda facts: [figure(facts)])
