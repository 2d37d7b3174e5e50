"""A picture with its words: what every module of the report makes and the page shows.

Colours that depend on the page's theme are written as "@ink", "@soft", "@grid" and "@paper"; the
page puts the theme's own there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

KINDS = {
    "linear": "#3f7fd6",
    "attention": "#e2873b",
    "norm": "#2f9e77",
    "rope": "#b267c4",
    "embedding": "#c4a21a",
}
OTHER_KINDS = ("#d65a7a", "#5aa9b8", "#8d7a5b", "#7d86e0", "#7fa33a")
GREY = "#8b929c"


@dataclass(frozen=True)
class Table:
    """Rows of text under `head`. The first `words` columns are words, the others figures."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """One section of the report: a plotly picture, what it shows in words, and its table.

    data, layout: plotly's, as plain values. lead: what to see. alt: the picture for those who do
    not see it. closed: the table is behind a click.
    """

    key: str
    title: str
    lead: str
    alt: str = ""
    data: list[dict[str, Any]] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    note: str = ""
    height: int = 420
    closed: bool = False


def colours(kinds: Iterable[str]) -> dict[str, str]:
    """A colour for each kind of layer; a kind has the same one in every picture of a report."""
    others = sorted({kind for kind in kinds if kind and kind not in KINDS})
    extra = {kind: OTHER_KINDS[i % len(OTHER_KINDS)] for i, kind in enumerate(others)}
    return {**KINDS, **extra, "": GREY}


def kinds_of(facts: Mapping[str, Any]) -> list[str]:
    """All kinds of layer that the facts name."""
    found = [op["kind"] for phase in phases(facts) for op in phase.get("by_kind", ())]
    for one in timelines(facts):
        found += [kind for _, kind in one["labels"]]
    return list(dict.fromkeys(found))


def phases(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Facts of each phase, prefill first."""
    return list((facts.get("phases") or {}).values())


def timelines(facts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The timelines of the facts, one a core."""
    drawn = facts.get("timeline") or []
    return [drawn] if isinstance(drawn, Mapping) else list(drawn)


_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ"))


def si(value: float, unit: str = "", digits: int = 4) -> str:
    """With a decimal prefix: 12.35 ms, 1.234 GB."""
    if not value:
        return f"0 {unit}".strip()
    for factor, prefix in (*_PREFIXES, (1e-9, "n")):
        if abs(value) >= factor or factor == 1e-9:
            return f"{value / factor:.{digits}g} {prefix}{unit}".strip()
    raise AssertionError


def plain(value: float) -> str:
    """Four digits at least, no prefix: 8,289 and 36.75."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def binary(size_bytes: float) -> str:
    """Bytes of a memory: 768 B, 32 KiB, 1.934 MiB."""
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.4g} {unit}"
    return f"{size_bytes:g} B"


def share(part: float, whole: float) -> str:
    """Percent, "" of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,.0f}"


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis in the theme's colours."""
    return {
        "title": {"text": title, "font": {"size": 13}},
        "gridcolor": "@grid",
        "linecolor": "@grid",
        "zeroline": False,
        "automargin": True,
        **more,
    }


def stacked(rows: Sequence[str], title: str, **more: Any) -> dict[str, Any]:
    """A layout of bars across, stacked, the first of `rows` at the top."""
    return layout(
        barmode="stack",
        bargap=0.3,
        xaxis=axis(title, **more),
        yaxis=axis("", categoryorder="array", categoryarray=list(rows)[::-1], fixedrange=True),
        legend={
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "traceorder": "normal",
        },
    )


def layout(**more: Any) -> dict[str, Any]:
    """A layout in the theme's colours, transparent, with the legend above the picture."""
    return {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "@ink", "family": "system-ui, sans-serif", "size": 12},
        "hoverlabel": {
            "bgcolor": "@paper",
            "bordercolor": "@grid",
            "font": {"color": "@ink"},
            "align": "left",
        },
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "yref": "paper"},
        "margin": {"l": 8, "r": 24, "t": 8, "b": 8},
        "uirevision": "kept",
        **more,
    }


def buttons(views: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    """Buttons above the picture, right, each of which shows x from 0 to an edge: (text, edge)."""
    choices = [
        {"label": text, "method": "relayout", "args": [{"xaxis.range": [0, edge]}]}
        for text, edge in views
    ]
    return [
        {
            "type": "buttons",
            "direction": "right",
            "x": 1,
            "xanchor": "right",
            "y": 1,
            "yanchor": "bottom",
            "pad": {"b": 4},
            "showactive": False,
            "buttons": choices,
            "bgcolor": "@paper",
            "bordercolor": "@grid",
        }
    ]
