"""What simulations need of this machine: a C++ compiler, and a folder for what it made."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from mellivora.errors import HostError


def cache_dir() -> Path:
    if given := os.environ.get("MELLIVORA_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mellivora"


@functools.cache
def compiler() -> tuple[str, str]:
    """Path and version line of a C++ compiler. Raises HostError MV0921 where there is none."""
    for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++"):
        if name and (path := shutil.which(name)):
            done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            return path, done.stdout.split("\n", 1)[0]
    raise HostError(
        "MV0921",
        "no C++ compiler to simulate RTL with",
        given=f"PATH={os.environ.get('PATH', '')}",
        allowed="g++ or clang++ with C++17",
        hint="Install one (Debian, Ubuntu: apt install g++), or name it in CXX.",
    )


def compile_failed(where: str, said: str) -> HostError:
    """The error of a C++ compiler that did not take a simulation."""
    return HostError(
        "MV0922",
        "compiling the simulation of RTL failed",
        where=where,
        given=said.strip()[:2000],
        allowed="g++ 11 or newer, or clang++ 14 or newer",
        hint="Install a newer C++ compiler, or name one in CXX.",
    )
