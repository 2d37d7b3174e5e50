"""Figures of a run for people: rates, roofs, energy, and where the time went."""

from __future__ import annotations

from mellivora.runtime.measure import RANGE, OpTime, Phase

TOP = 8
"""Rows of a list that are shown; the rest become one row."""


def scaled(value: float, unit: str) -> str:
    """Four significant digits with a decimal prefix: 12.35 ms, 1.234 GB."""
    for factor, prefix in (
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
        (1, ""),
        (1e-3, "m"),
        (1e-6, "u"),
        (1e-9, "n"),
    ):
        if abs(value) >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}"


def phase_lines(phase: Phase, title: str) -> list[str]:
    """One phase: totals, roofs, then engines and kinds of layer."""
    roofs, per = phase.roofs, max(phase.tokens, 1)
    moved = phase.read_bytes + phase.write_bytes
    rows = [
        ("time", f"{scaled(phase.seconds, 's')}, {phase.tokens_per_s:,.1f} tokens/s"),
        ("cycles", f"{phase.cycles:,} in {phase.launches} launches"),
        ("DRAM", f"{scaled(moved, 'B')}, {scaled(moved / per, 'B')} a token"),
        ("roof", f"{roofs.limit}: {roofs.fraction:.1%} of it"),
        (
            "roofs, cycles",
            f"dram {roofs.dram_cycles:,.0f}  matrix {roofs.matrix_cycles:,.0f}"
            f"  vector {roofs.vector_cycles:,.0f}",
        ),
    ]
    if phase.energy_j:
        typical, low, high = (scaled(phase.energy_j[name] / per, "J") for name in RANGE)
        rows.append(("energy a token", f"{typical} (from {low} to {high})"))
    lines = [title, *(f"  {name:16s} {text}" for name, text in rows)]
    lines += ["  engine    busy   waits most for"]
    for engine, busy in phase.busy_cycles.items():
        causes = sorted(phase.stall_cycles[engine].items(), key=lambda item: -item[1])[:3]
        why = ", ".join(
            f"{name} {share(cycles, phase.cycles)}" for name, cycles in causes if cycles
        )
        lines.append(f"  {engine:7s} {share(busy, phase.cycles):>6s}   {why}")
    lines += ["  layers         time          cycles  of matrix  of dram"]
    kinds = phase.by_kind()
    rest = OpTime(f"{len(kinds) - TOP} others", "")
    for op in kinds[TOP:]:
        rest.add(op)
    for op in [*kinds[:TOP], *([rest] if kinds[TOP:] else [])]:
        matrix = op.macs / phase.chip.peak_macs_per_cycle
        dram = op.dram_bytes / (phase.chip.dram_bytes_per_cycle or 1)
        lines.append(
            f"  {op.label or '(none)':13s} {share(op.cycles, phase.cycles):>6s}  {op.cycles:14,}"
            f"  {share(matrix, op.cycles):>9s}  {share(dram, op.cycles):>7s}"
        )
    return lines


def share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"
