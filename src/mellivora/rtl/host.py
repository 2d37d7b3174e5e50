"""What simulations need of this machine: a C++ compiler, and a folder for what it made."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mellivora.errors import HostError
from mellivora.native.build import cache_dir

__all__ = ["cache_dir", "compile_failed", "compiler", "locked"]


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Holds the lock beside a file of the cache: one process makes it, others wait."""
    with open(target.with_name(f"{target.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
