"""A chip on an FPGA that is too small for it: every distinct module is placed and routed alone.

    found = place_modules(Chip(load_chip("nano")))
    found.used()["LUT"], found.slowest().fmax_mhz

A module is mapped without those it places: what was wired to them is ports, open ends as its own
are. It counts as often as it is placed. The crossbars of a memory are taken apart by port, its
banks are named where block RAM cannot be them. Rows are kept in the cache by the module's RTLIL.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mellivora.native.build import cache_dir
from mellivora.rtl import fpga
from mellivora.rtl.banked_memory import Bank, BankedMemory
from mellivora.rtl.core import Core
from mellivora.rtl.fpga import AVAILABLE, Cells
from mellivora.rtl.hierarchy import Part, hierarchy

FLOW = 1
"""Part of what the cache goes by: one more when `synthesise` or `route` makes something else."""
LIMIT_S = 600.0
"""What nextpnr may take for a module."""


@dataclass(frozen=True)
class Row:
    """A module alone. used: LUT, FF, DSP, BRAM, as placed, or as mapped where it could not be.

    fmax_mhz, longest_path (as of `FpgaResult.facts`): None without a path between registers.
    lacks: why it could not be placed; "" if it was. limit_s: what nextpnr was allowed.
    """

    used: dict[str, int]
    fmax_mhz: float | None = None
    longest_path: dict[str, Any] | None = None
    lacks: str = ""
    limit_s: float = LIMIT_S


@dataclass(frozen=True)
class Modules:
    """rows: {module: row}; places: {module: how often it is placed}.

    banks: [bank, how often] of memories with more ports than a block RAM has; in no row.
    """

    rows: dict[str, Row]
    places: dict[str, int]
    banks: list[tuple[str, int]]

    def used(self) -> dict[str, int]:
        """LUT, FF, DSP, BRAM of all places."""
        return {
            kind: sum(row.used[kind] * self.places[name] for name, row in self.rows.items())
            for kind in AVAILABLE
        }

    def devices(self) -> dict[str, float]:
        """The same in units of what a device has."""
        return {kind: count / AVAILABLE[kind] for kind, count in self.used().items()}

    def slowest(self) -> str | None:
        """The module of the lowest fmax; None if none has any."""
        clocks = {n: row.fmax_mhz for n, row in self.rows.items() if row.fmax_mhz is not None}
        return min(clocks, key=lambda name: clocks[name], default=None)

    def not_placed(self) -> dict[str, str]:
        """{module: why}."""
        return {name: row.lacks for name, row in self.rows.items() if row.lacks}

    def facts(self) -> dict[str, Any]:
        """The same as plain values, for `--json`."""
        slowest = self.slowest()
        return {
            "device": fpga.DEVICE,
            "tools": fpga.tools(),
            "available": AVAILABLE,
            "used": self.used(),
            "devices": {kind: round(share, 2) for kind, share in self.devices().items()},
            "fmax_mhz": self.rows[slowest].fmax_mhz if slowest else None,
            "slowest": slowest,
            "not_placed": self.not_placed(),
            "banks": Cells(dict.fromkeys(AVAILABLE, 0), self.banks).lacks(),
            "modules": {
                name: {
                    "places": self.places[name],
                    "used": row.used,
                    "fmax_mhz": row.fmax_mhz,
                    "longest_path": row.longest_path,
                }
                for name, row in self.rows.items()
            },
        }


def place_modules(
    component: Any,
    *,
    target_mhz: float = 100.0,
    seed: int = 1,
    limit_s: float = LIMIT_S,
    say: Callable[[str], None] | None = None,
) -> Modules:
    """Place and route every distinct module of a component, what is quick first.

    target_mhz, seed: as of `place_and_route`. limit_s: what nextpnr may take for one module.
    say: told what is done, and how long it took.
    Raises HostError MV0936 without nextpnr, MV0933 or MV0937 if a tool fails.
    """
    totals = hierarchy(component).totals().values()
    parts = {_name(part): (part, count) for part, count in totals if part.text}
    rows: dict[str, Row] = {}
    for name in sorted(parts, key=lambda one: _effort(parts[one][0])):
        started_s = time.monotonic()
        if say:
            say(f"{len(rows) + 1}/{len(parts)} {name}")
        rows[name] = row = _row(parts[name][0], target_mhz, seed, limit_s)
        if say:
            clock = "no clock" if row.fmax_mhz is None else f"{row.fmax_mhz:.1f} MHz"
            took_s = time.monotonic() - started_s
            say(f"{len(rows)}/{len(parts)} {name}: {row.lacks or clock}, {took_s:.0f} s")
    banks: Counter[str] = Counter()
    for part, count in totals:
        if isinstance(part.component, BankedMemory) and not part.text:
            banks[_bank(part.component)] += count * part.component.banks
    return Modules(
        rows,
        {name: count for name, (_, count) in parts.items()},
        sorted(pair for pair in banks.items() if fpga.is_wide(pair[0])),
    )


def _effort(part: Part) -> tuple[bool, int, str]:
    """Ports of a memory are short texts and many tables."""
    return isinstance(part.component, BankedMemory), len(part.text), part.name


def _name(part: Part) -> str:
    """Of the module; a core's is a fingerprint, which says nothing."""
    core = part.component
    return f"core_{core.chip.name}" if isinstance(core, Core) else part.name


def _bank(memory: BankedMemory) -> str:
    """The name of a memory's banks."""
    ports = len(memory.reads) + memory.ecc, len(memory.writes) + memory.ecc
    bank = Bank(memory.depth, memory.bank_bytes, memory.byte_bits, *ports)
    bank._MustUse__used = True  # its name alone is wanted
    return bank.module_name


def _row(part: Part, target_mhz: float, seed: int, limit_s: float) -> Row:
    """From the cache if it was ever placed like this, or given up after as long a time."""
    file = _file(part, target_mhz, seed)
    if file.exists():
        kept = Row(**json.loads(file.read_text("utf-8")))
        if not kept.lacks or kept.limit_s >= limit_s:
            return kept
    row = _placed(part, target_mhz, seed, limit_s)
    file.parent.mkdir(parents=True, exist_ok=True)
    half = file.with_suffix(f".{os.getpid()}")
    half.write_text(json.dumps(asdict(row)), "utf-8")
    os.replace(half, file)
    return row


def _file(part: Part, target_mhz: float, seed: int) -> Path:
    """Where the cache has the module's row, by all that decides it but the limit."""
    facts = [FLOW, fpga.tools(), fpga.DEVICE, float(target_mhz), seed, part.boxes]
    text = "\0".join([part.component.module_name, part.text, part.around, repr(facts)])
    return cache_dir() / "fpga" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _placed(part: Part, target_mhz: float, seed: int, limit_s: float) -> Row:
    top = part.component.module_name
    with tempfile.TemporaryDirectory(prefix="mellivora-fpga-") as scratch:
        work = Path(scratch)
        need = fpga.synthesise(work, part.text + part.around, top, boxes=part.boxes)
        if lacks := Cells(need, []).lacks():
            return Row(need, lacks="; ".join(lacks), limit_s=limit_s)
        try:
            report = fpga.route(work, target_mhz=target_mhz, seed=seed, limit_s=limit_s)
        except TimeoutError as error:
            return Row(need, lacks=str(error), limit_s=limit_s)
    if not report["fmax"]:
        return Row(fpga.used(report), limit_s=limit_s)
    result = fpga.result_of(top, report)
    facts = result.facts()
    return Row(result.used, facts["fmax_mhz"], facts["longest_path"], limit_s=limit_s)
