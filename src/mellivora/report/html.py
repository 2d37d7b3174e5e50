"""The page: one HTML file that opens without a network, light or dark, with a table beside every
picture."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mellivora.errors import HostError
from mellivora.report import breakdown, memory_map, roofline, timeline
from mellivora.report import figure as f
from mellivora.report.figure import Figure, Table

HERE = Path(__file__).parent
TALL_ROWS = 16
"""Tables with more rows scroll."""


def write_report(path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
    """Write the report of a run, whole or not at all. Raises HostError MV0980 if that fails.

    facts: what `mellivora run --json` prints; with `timeline`, `memory` and `live` of
    report.step.step_facts, the pictures of one decode step too. What is not in the facts is left
    out.
    """
    write_page(path, _title(facts), figures(facts), head=_head(facts), foot=_foot(facts))


def figures(facts: Mapping[str, Any]) -> list[Figure]:
    """All pictures that the facts give, in the page's order."""
    time = [breakdown.layers(facts), breakdown.engines(facts), breakdown.rest(facts)]
    found = [
        roofline.figure(facts),
        *time,
        timeline.figure(facts),
        *memory_map.figures(facts),
        breakdown.energy(facts),
    ]
    return [one for one in found if one]


def write_page(
    path: str | os.PathLike[str],
    title: str,
    drawn: Sequence[Figure],
    *,
    head: str = "",
    foot: str = "",
) -> None:
    """Write figures as a page: `head` and `foot` are HTML before and after them. HostError
    MV0980.
    """
    text = page(title, drawn, head=head, foot=foot)
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise HostError(
            "MV0980",
            "the report cannot be written",
            where=str(path),
            given=str(error.strerror),
            hint="choose a folder that can be written and has room",
        ) from error


def page(title: str, drawn: Sequence[Figure], *, head: str = "", foot: str = "") -> str:
    """The whole HTML text."""
    has_pictures = any(one.data for one in drawn)
    scripts = f"<script>{_plotly()}</script>" if has_pictures else ""
    links = "\n".join(f'<a href="#{one.key}">{escape(one.title)}</a>' for one in drawn)
    more = '\n<a href="#chip">The chip</a>\n<a href="#how">How it was obtained</a>' if foot else ""
    body = "\n".join(_section(one) for one in drawn)
    return f"""<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="Mellivora">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<script>if (matchMedia("(prefers-color-scheme: dark)").matches) \
document.documentElement.dataset.theme = "dark";</script>
<style>
{_asset("page.css")}</style>
</head>
<body>
<header>
<div class="top"><span class="brand">Mellivora</span>\
<button class="theme" type="button">theme</button></div>
<h1>{escape(title)}</h1>
{head}
<nav aria-label="Sections">{links}{more}</nav>
</header>
<main>
{body}
{foot}
</main>
<footer>Made by Mellivora {_version()}. All figures are of the simulated chip, where they do not \
say otherwise.</footer>
{scripts}
<script>
{_asset("page.js")}</script>
</body>
</html>
"""


def _version() -> str:
    from mellivora import __version__

    return __version__


@functools.cache
def _asset(name: str) -> str:
    return (HERE / name).read_text("utf-8")


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script")


def _section(one: Figure) -> str:
    parts = [
        f'<section id="{one.key}" aria-labelledby="{one.key}-title">',
        f'<h2 id="{one.key}-title">{escape(one.title)}</h2>',
        f"<p>{escape(one.lead)}</p>",
    ]
    if one.data:
        spec = json.dumps({"data": one.data, "layout": one.layout}, separators=(",", ":"))
        spec = spec.replace("<", "\\u003c")
        parts += [
            f'<div class="picture" id="{one.key}-picture" role="img" '
            f'aria-label="{escape(one.alt, quote=True)}" style="height:{one.height}px"></div>',
            f'<script type="application/json" id="{one.key}-picture-spec">{spec}</script>',
        ]
    tables = "\n".join(table(one) for one in one.tables)
    if tables and one.closed:
        tables = f"<details><summary>The same as a table</summary>{tables}</details>"
    parts.append(tables)
    if one.note:
        parts.append(f'<p class="note">{escape(one.note)}</p>')
    return "\n".join([*parts, "</section>"])


def table(one: Table) -> str:
    """A table as HTML; figures stand right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = [
            ' class="number"' if i >= one.words else ' class="long"' if len(text) > 30 else ""
            for i, text in enumerate(row)
        ]
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(
            f"<{tag}{scope}{kind}>{escape(text)}</{tag}>"
            for kind, text in zip(kinds, row, strict=True)
        )

    tall = " tall" if len(one.rows) > TALL_ROWS else ""
    caption = f"<caption>{escape(one.caption)}</caption>" if one.caption else ""
    rows = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in one.rows)
    return (
        f'<div class="scroll{tall}" tabindex="0"><table>{caption}<thead><tr>'
        f"{cells('th', one.head)}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


# ---------------------------------------------------------------------------------- words and cards


def _title(facts: Mapping[str, Any]) -> str:
    return f"{facts.get('model', 'A model')} on {facts['chip']['name']}"


def cards(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, value, more) of the figures that matter most."""
    phases = facts.get("phases") or {}
    prefill, decode = phases.get("prefill"), phases.get("decode")
    out: list[tuple[str, str, str]] = []
    if facts.get("tokens_per_s"):
        batch = facts.get("batch", 1)
        more = f"decode, {batch} sequences at once" if batch > 1 else "decode, one sequence"
        out.append(("On the chip", f"{f.plain(facts['tokens_per_s'])} tokens/s", more))
    if facts.get("first_token_seconds"):
        more = f"prefill of {facts.get('prompt_tokens', '?')} tokens"
        out.append(("Time to first token", f.si(facts["first_token_seconds"], "s"), more))
    main = decode or prefill
    if main and main["tokens"]:
        name = "decode" if decode else "prefill"
        tokens, roof, spent = main["tokens"], main["roof"], main["energy_j_per_token"]
        moved = main["read_bytes"] + main["write_bytes"]
        out.append(("Cycles a token", f.count(main["cycles"] / tokens), name))
        out.append(("DRAM a token", f.si(moved / tokens, "B"), f"{name}, read and written"))
        if any(spent.values()):
            low, high = f.si(spent["low"], "J", 3), f.si(spent["high"], "J", 3)
            out.append(("Energy a token", f.si(spent["typical"], "J", 3), f"from {low} to {high}"))
        roof_name = roof["limit"].upper()
        out.append(("Roof reached", f.share(roof["fraction"], 1), f"of {roof_name}, {name}"))
    return out


def _value_html(value: str) -> str:
    """The number large, its unit small."""
    number, _, unit = value.partition(" ")
    return f'{escape(number)} <span class="unit">{escape(unit)}</span>'


def _head(facts: Mapping[str, Any]) -> str:
    source = Path(str(facts.get("source", ""))).name
    words = [
        source if source != facts.get("model") else "",
        f"{', '.join(facts.get('weight_formats', ()))} weights",
        f"{facts['activations']} activations" if facts.get("activations") else "",
        facts["chip"].get("description", ""),
    ]
    line = " · ".join(escape(word) for word in words if word and word != " weights")
    items = "".join(
        f'<li><div class="name">{escape(name)}</div><div class="value">{_value_html(value)}</div>'
        f'<div class="more">{escape(more)}</div></li>'
        for name, value, more in cards(facts)
    )
    ending = {"length": " (ended at its limit of tokens)", "stop": ""}.get(
        facts.get("finish", ""), ""
    )
    answer = ""
    if "text" in facts:
        said = f"{facts.get('tokens', '')} tokens{ending}"
        answer = (
            f'<blockquote><p class="prompt">{escape(str(facts.get("prompt", "")))}</p>'
            f'<p class="text scroll-text">{escape(facts["text"]) or "(no text)"}</p>'
            f'<p class="note">{escape(said)}</p></blockquote>'
        )
    return f'<p class="soft">{line}</p>\n{answer}\n<ul class="cards">{items}</ul>'


def _foot(facts: Mapping[str, Any]) -> str:
    return "\n".join([_chip(facts), _how(facts)])


def _chip(facts: Mapping[str, Any]) -> str:
    from mellivora.spec.chip import rules

    chip = roofline.chip_of(facts)
    rows = [
        [rule.about, _value(getattr(chip, name))]
        for name, rule in rules().items()
        if name not in ("name", "description")
    ]
    peaks = roofline.peaks(chip)
    derived = [
        ["peak of MATRIX", f.si(peaks["MATRIX"], "op/s")],
        ["peak of VECTOR", f.si(peaks["VECTOR"], "op/s")],
        ["scratchpad of all cores", f.binary(chip.sram_total_bytes)],
        ["DRAM, bytes a cycle", f"{chip.dram_bytes_per_cycle:.6g}"],
        ["operations a DRAM byte where the roof bends", f"{chip.ops_per_dram_byte or 0:.4g}"],
    ]
    made = Table(["What follows", "Value"], derived, 1, "Derived")
    declared = Table(["What", "Value"], rows, 1, f"Fingerprint {facts.get('fingerprint', '')[:16]}")
    return (
        f'<section id="chip" aria-labelledby="chip-title"><h2 id="chip-title">The chip</h2>'
        f"<p>{escape(chip.name)}: {escape(chip.description)}</p>"
        f"{table(made)}<details><summary>All that it is declared to be</summary>"
        f"{table(declared)}</details></section>"
    )


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "not set"
    return f"{value:,}" if isinstance(value, int) else str(value)


HOW = (
    (
        "Text",
        "The functional simulator computed every bit of it, with the chip's own arithmetic and no "
        "other.",
    ),
    (
        "Cycles",
        "The timing simulator timed the same launches. DRAM is a rate and a fixed latency with a "
        "round-robin arbiter; its banks and refresh are not in it.",
    ),
    (
        "Seconds",
        "Cycles over the chip's clock. The time of the host link is not in them.",
    ),
    (
        "Bytes",
        "What LOAD and STORE asked of DRAM; a byte that goes to several cores at once counts once.",
    ),
    (
        "Roofs",
        "The cycles that each resource alone would need for the work if it never waited; the "
        "highest is the limit, and the roof reached is its share of the cycles.",
    ),
    (
        "Energy",
        "Counts of operations and bytes times published figures for a 7-nm class, each with its "
        "source and range in sim/energy.toml. Not measured on silicon.",
    ),
    (
        "Where the time went",
        "Each idle cycle of an engine has one cause: what the operation it waited for was doing.",
    ),
)


def _how(facts: Mapping[str, Any]) -> str:
    rows = list(HOW)
    host = facts.get("host") or {}
    if host.get("tokens_per_s"):
        rows.append(
            (
                "This host",
                f"The simulation made {f.plain(host['tokens_per_s'])} tokens/s, the first after "
                f"{f.si(host['first_token_seconds'], 's')}; timing took "
                f"{f.si(host['timing_seconds'], 's')}.",
            )
        )
    if "off_chip_operators" in facts:
        off = facts["off_chip_operators"]
        rows.append(("Off the chip", ", ".join(off) if off else "No operator ran off the chip."))
    rows += [("Note", note) for note in facts.get("notes") or ()]
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return (
        '<section id="how" aria-labelledby="how-title"><h2 id="how-title">How every figure was '
        f"obtained</h2><dl>{items}</dl></section>"
    )
