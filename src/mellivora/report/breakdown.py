"""Where time and energy went: by engine and cause, by kind of layer, by part of the chip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mellivora.report import figure as f
from mellivora.report.roofline import chip_of, plain_name
from mellivora.spec import ChipSpec

CAUSES = {
    "busy": ("at work", "#2f9e77"),
    "dispatch": ("not yet dispatched", "#c9b458"),
    "load": ("for LOAD to issue", "#5aa9b8"),
    "store": ("for STORE to issue", "#b267c4"),
    "matrix": ("for MATRIX", "#3f7fd6"),
    "vector": ("for VECTOR", "#e2873b"),
    "latency": ("for DRAM's first word", "#d65a7a"),
    "rendezvous": ("for other cores", "#8d7a5b"),
    "bandwidth": ("for DRAM's rate", "#b8433f"),
    "finished": ("nothing left to do", "#aab0b8"),
}
PARTS = {
    "matrix": "#3f7fd6",
    "vector": "#e2873b",
    "sram": "#2f9e77",
    "dram": "#b8433f",
    "exchange": "#b267c4",
    "static": "#8b929c",
}


def figures(facts: Mapping[str, Any]) -> list[f.Figure]:
    """Time by engine, time by layer, what eats the rest, energy: those that the facts have."""
    found = (engines(facts), layers(facts), rest(facts), energy(facts))
    return [one for one in found if one]


def engines(facts: Mapping[str, Any]) -> f.Figure | None:
    """Each engine's cycles: at work, and waiting by cause, mean over cores."""
    seen = [p for p in f.phases(facts) if p["cycles"] and p.get("busy_cycles")]
    if not seen:
        return None
    bars = [(phase, engine) for phase in seen for engine in phase["busy_cycles"]]
    data: list[dict[str, Any]] = []
    for cause, (words, tint) in CAUSES.items():
        values = [_cycles(phase, engine, cause) for phase, engine in bars]
        if not any(values):
            continue
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": words,
                "y": [f"{phase['name']} {engine}" for phase, engine in bars],
                "x": [100 * v / p["cycles"] for v, (p, _) in zip(values, bars, strict=True)],
                "customdata": values,
                "marker": {"color": tint, "opacity": 1 if cause == "busy" else 0.75},
                "hovertemplate": f"%{{y}}: <b>{words}</b><br>%{{x:.1f}} %, %{{customdata:,.0f}} "
                "cycles<extra></extra>",
            }
        )
    names = [f"{phase['name']} {engine}" for phase, engine in bars]
    rows = []
    for phase, engine in bars:
        waits = {c: _cycles(phase, engine, c) for c in CAUSES if c != "busy"}
        first = sorted(waits, key=lambda c: -waits[c])[:3]
        why = ", ".join(f"{CAUSES[c][0]} {f.share(waits[c], phase['cycles'])}"
                        for c in first if waits[c])  # fmt: skip
        busy = _cycles(phase, engine, "busy")
        rows.append([phase["name"], engine, why, f.count(busy), f.share(busy, phase["cycles"])])
    return f.Figure(
        "engines",
        "Time by engine",
        "How much of the time each engine worked, and what it waited for when it did not. Mean "
        "over the cores. LOAD and STORE work only while they issue; data moves while they wait.",
        "Busy share of each engine: " + ", ".join(f"{p} {e} {share}" for p, e, _, _, share in rows),
        data,
        f.stacked(names, "of all cycles", ticksuffix=" %", range=[0, 100.5]),
        [f.Table(["Phase", "Engine", "Waits most", "Cycles at work", "At work"], rows, 3,
                 "Engines, mean over cores")],
        height=150 + 30 * len(bars),
    )  # fmt: skip


def _cycles(phase: Mapping[str, Any], engine: str, cause: str) -> float:
    if cause == "busy":
        return phase["busy_cycles"].get(engine, 0.0)
    return phase.get("stall_cycles", {}).get(engine, {}).get(cause, 0.0)


def layers(facts: Mapping[str, Any]) -> f.Figure | None:
    """Share of the wall clock of each kind of layer, and each operation's in the table."""
    seen = [p for p in f.phases(facts) if p["cycles"] and p.get("by_kind")]
    if not seen:
        return None
    tints = f.colours(f.kinds_of(facts))
    kinds = list(dict.fromkeys(op["kind"] for phase in seen for op in phase["by_kind"]))
    data = []
    for kind in kinds:
        ops = [next((op for op in p["by_kind"] if op["kind"] == kind), None) for p in seen]
        cycles = [op["cycles"] if op else 0 for op in ops]
        shares = [100 * c / p["cycles"] for c, p in zip(cycles, seen, strict=True)]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": kind or "other",
                "y": [p["name"] for p in seen],
                "x": shares,
                "customdata": cycles,
                "text": [f"{kind or 'other'} {s:.0f} %" if s >= 8 else "" for s in shares],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "insidetextfont": {"color": "#fff"},
                "textangle": 0,
                "marker": {"color": tints[kind]},
                "hovertemplate": f"%{{y}}: <b>{kind or 'other'}</b><br>%{{x:.1f}} %, "
                "%{customdata:,d} cycles<extra></extra>",
            }
        )
    names = [p["name"] for p in seen]
    rows = [
        [phase["name"], op["kind"] or "other", f.count(op["cycles"]),
         f.share(op["cycles"], phase["cycles"]), f.count(op["macs"]), f.count(op["vector_ops"]),
         f.si(op["dram_bytes"], "B")]
        for phase in seen for op in phase["by_kind"]
    ]  # fmt: skip
    head = ["Phase", "Kind", "Cycles", "Of the time", "Multiply-accumulates", "VECTOR operations",
            "DRAM"]  # fmt: skip
    return f.Figure(
        "layers",
        "Time by kind of layer",
        "A cycle belongs to the oldest operation, in program order, that has not ended on the "
        "slowest core; so the parts add up to the whole.",
        "Time by kind: " + ", ".join(f"{row[0]} {row[1]} {row[3]}" for row in rows),
        data,
        f.stacked(names, "of the time", ticksuffix=" %", range=[0, 100.5]),
        [f.Table(head, rows, 2, "Kinds of layer")],
        height=120 + 46 * len(seen),
    )  # fmt: skip


def rest(facts: Mapping[str, Any]) -> f.Figure | None:
    """Where the cycles above the roof are, by operation, for the phase that matters most."""
    seen = f.phases(facts)
    if not seen or not seen[-1].get("ops") or not seen[-1]["cycles"]:
        return None
    phase, chip = seen[-1], chip_of(facts)
    limit = phase["roof"]["limit"]
    least = phase["roof"][f"{limit}_cycles"]
    total = phase["cycles"] - least
    groups: dict[tuple[str, str], list[float]] = {}
    for label, kind, cycles, macs, moved in (op[:5] for op in phase["ops"]):
        group = groups.setdefault((plain_name(label), kind), [0, 0.0])
        group[0] += cycles
        group[1] += _least(limit, macs, moved, chip)
    rows = [
        [name, kind, f.count(cycles), f.count(own), f.count(cycles - own),
         f.share(cycles - own, total)]
        for (name, kind), (cycles, own) in sorted(groups.items(), key=lambda g: g[1][1] - g[1][0])
    ]  # fmt: skip
    head = ["Operation", "Kind", "Cycles", f"Least for {limit.upper()}", "Above it", "Of the rest"]
    reached = f"{100 * phase['roof']['fraction']:.1f} %"
    return f.Figure(
        "rest",
        "What eats the rest",
        f"{phase['name'].capitalize()} needs {f.count(phase['cycles'])} cycles; {limit.upper()} "
        f"alone would need {f.count(least)}, {reached} of them. The other {f.count(total)} are "
        "here: what each operation took above its own need of that resource.",
        tables=[
            f.Table(head, rows, 2, f"Cycles above the {limit.upper()} roof, all layers together")
        ],
        note="Weights are loaded ahead: an operation below zero found its bytes there, and one "
        "above it may have waited for memory that was busy with bytes of later ones. DRAM moves "
        "whole bursts, so the last column need not add up to 100 %.",
    )


def _least(limit: str, macs: int, moved: int, chip: ChipSpec) -> float:
    """Cycles that this work needs of the limiting resource."""
    if limit == "dram":
        return moved / chip.dram_bytes_per_cycle if chip.dram_bytes_per_cycle else 0.0
    return macs / chip.peak_macs_per_cycle if limit == "matrix" else 0.0


def energy(facts: Mapping[str, Any]) -> f.Figure | None:
    """Energy of a token by part of the chip."""
    seen = [p for p in f.phases(facts) if any((p.get("energy_parts_j") or {}).values())]
    if not seen:
        return None
    parts = list(dict.fromkeys(part for phase in seen for part in phase["energy_parts_j"]))
    names = [phase["name"] for phase in seen]
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "y": names,
            "x": [_per_token(phase, part) for phase in seen],
            "marker": {"color": PARTS.get(part, f.GREY)},
            "hovertemplate": f"%{{y}}: <b>{part}</b><br>%{{x:.4s}}J a token<extra></extra>",
        }
        for part in parts
    ]
    rows = [
        [phase["name"], part, f.si(_per_token(phase, part), "J"),
         f.share(phase["energy_parts_j"].get(part, 0.0), sum(phase["energy_parts_j"].values()))]
        for phase in seen for part in sorted(parts, key=lambda p, e=phase: -_per_token(e, p))
    ]  # fmt: skip
    return f.Figure(
        "energy",
        "Energy of a token",
        " ".join(_range(phase) for phase in seen)
        + " Static is leakage and clocks of the largest die that the chip may have.",
        "Energy by part: " + ", ".join(" ".join(row) for row in rows),
        data,
        f.stacked(names, "energy of a token", tickformat=".3~s", ticksuffix="J"),
        [f.Table(["Phase", "Part", "A token", "Share"], rows, 2, "Energy by part, typical")],
        height=120 + 46 * len(seen),
    )  # fmt: skip


def _per_token(phase: Mapping[str, Any], part: str) -> float:
    return phase["energy_parts_j"].get(part, 0.0) / max(phase["tokens"], 1)


def _range(phase: Mapping[str, Any]) -> str:
    spent = phase["energy_j_per_token"]
    low, typical, high = (f.si(spent[name], "J") for name in ("low", "typical", "high"))
    return f"{phase['name'].capitalize()}: {typical}, from {low} to {high}."


if __name__ == "__main__":
    from mellivora.report.alone import main

    main("breakdown", figures)
