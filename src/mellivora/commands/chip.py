"""`mellivora chip [CHIP]`: a chip's fields, every figure that follows from them, its area."""

from __future__ import annotations

import argparse
from typing import Any

from mellivora.commands._models import check_output
from mellivora.errors import UsageError
from mellivora.spec import PASSES, ChipSpec, load_chip, preset_names
from mellivora.spec.area import ChipArea, Range, chip_area
from mellivora.spec.chip import GIB, KIB, MIB, rules
from mellivora.spec.rules import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `chip`."""
    parser.add_argument(
        "chip", metavar="CHIP", nargs="?", help="a preset or a TOML file (default: list presets)"
    )
    parser.add_argument(
        "--toml", action="store_true", help="print the description as TOML, to edit and use"
    )
    parser.add_argument(
        "--floorplan", metavar="FILE", help="draw its area to scale as SVG, by part, with mm2"
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the chip, or the presets if none is named; return the same facts."""
    output = check_output(args.floorplan)
    if args.chip is None:
        if output:
            raise UsageError(
                "MV0818",
                "a floorplan is of one chip, and none is named",
                given=f"--floorplan {args.floorplan}",
                allowed="a preset or a TOML file: " + ", ".join(preset_names()),
                hint="mellivora chip m1 --floorplan m1.svg",
            )
        chips = [load_chip(name) for name in preset_names()]
        for chip in chips:
            print(f"{chip.name:12s} {chip.description}")
        return {"presets": {chip.name: chip.description for chip in chips}}
    chip = load_chip(args.chip)
    area = chip_area(chip)
    print(chip.text() if args.toml else table(chip) + "\n" + area_table(area), end="")
    facts = {
        "chip": chip.values(),
        "derived": derived(chip),
        "area": area_facts(area),
        "fingerprint": chip.fingerprint(),
    }
    if output:
        from mellivora.report.floorplan import svg

        output.write_text(svg(chip, area), "utf-8")
        print(f"{output}: floorplan")
        facts["floorplan"] = str(output)
    return facts


def area_facts(area: ChipArea) -> dict[str, Any]:
    """mm2 by part, each as [value, low, high]."""

    def plain(one: Range) -> list[float]:
        return [one.value, one.low, one.high]

    return {
        "total_mm2": plain(area.total_mm2),
        "core_mm2": {name: plain(one) for name, one in area.core_mm2.items()},
        "once_mm2": {name: plain(one) for name, one in area.once_mm2.items()},
    }


def area_table(area: ChipArea) -> str:
    """The area for people: parts of a core, of all cores, and what there is once."""
    lines = [f"{'area, mm2':26s} {'a core':>9s} {'in all':>9s}   low to high"]
    rows = [(name, one, one * area.cores) for name, one in area.core_mm2.items()]
    rows += [(name, None, one) for name, one in area.once_mm2.items()]
    for name, mine, all_ in [*rows, ("total", area.one_core_mm2, area.total_mm2)]:
        one = f"{mine.value:9.4f}" if mine else " " * 9
        lines.append(f"  {name:24s} {one} {all_.value:9.3f}   {all_.low:.3f} to {all_.high:.3f}")
    lines += [
        "",
        "Cells from our own synthesis in a predictive 7-nm library, the rest from cited figures",
        "(spec/area_figures.toml). Not in it: host link, memory controllers, wires, clock tree.",
    ]
    return "\n".join(lines) + "\n"


def derived(chip: ChipSpec) -> dict[str, Any]:
    """The derived figures by name, as ChipSpec computes them."""
    return {
        "peak_macs_per_cycle": chip.peak_macs_per_cycle,
        **{f"peak_ops_per_s_x{slices}": chip.peak_ops_per_s(slices) for slices in PASSES},
        "dram_bursts_num": chip.dram_bursts_num,
        "dram_bursts_den": chip.dram_bursts_den,
        "dram_bytes_per_cycle": chip.dram_bytes_per_cycle,
        "ops_per_dram_byte": chip.ops_per_dram_byte,
        "sram_total_bytes": chip.sram_total_bytes,
        "accumulator_bytes": chip.accumulator_bytes,
        "tpp": chip.tpp,
    }


def table(chip: ChipSpec) -> str:
    """The chip for people: fields with their meaning, then what follows from them."""
    lines = [f"{chip.name}: {chip.description}"]
    section = ""
    for name, rule in rules().items():
        if rule.section and rule.section != section:
            section = rule.section
            lines += ["", f"[{section}]"]
        if rule.section:
            value = getattr(chip, name)
            if isinstance(value, tuple):
                lines.append(f"  {name}: {' '.join(value)}")
            else:
                lines.append(f"  {name:27s} {_quantity(name, value):>12s}  {rule.about}")
    rate = "none"
    if chip.dram_bursts_num:
        rate = f"{chip.dram_bursts_num}/{chip.dram_bursts_den} bursts"
        rate += f" = {chip.dram_bytes_per_cycle:g} bytes"
    bend = chip.ops_per_dram_byte
    tops = "  ".join(f"{chip.peak_ops_per_s(slices) / 1e12:.4g}" for slices in PASSES)
    rows = [
        ("multiply-accumulates a cycle", f"{chip.peak_macs_per_cycle:,}"),
        ("peak at 1, 2, 3 slices, TOP/s", tops),
        ("DRAM a cycle", rate),
        ("roofline bends at, op/byte", "no DRAM" if bend is None else f"{bend:.4g}"),
        ("scratchpad of all cores", _binary(chip.sram_total_bytes)),
        ("accumulators of a core", _binary(chip.accumulator_bytes)),
        ("TPP (2 x MacTOPS x bits)", f"{chip.tpp:,.0f}"),
        ("density at the largest die", f"{chip.tpp / chip.max_die_mm2:.2f} TPP/mm2"),
        ("fingerprint", chip.fingerprint()[:16]),
    ]
    lines += ["", "what follows"] + [f"  {label:32s} {text}" for label, text in rows]
    lines += [
        "",
        "TPP as in 3A090, read from quotations of the official text: check against the eCFR before",
        "relying on it.",
    ]
    return "\n".join(lines) + "\n"


def _quantity(name: str, value: object) -> str:
    if isinstance(value, int) and name.endswith("_bytes"):
        return _binary(value)
    return f"{value:g}" if isinstance(value, float) else show(value).strip('"')


def _binary(count: int) -> str:
    """Bytes with the largest binary unit that divides them evenly."""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if count and count % size == 0:
            return f"{count // size} {unit}"
    return f"{count} bytes"
