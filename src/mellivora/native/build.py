"""Builds `native/<name>.cpp` once per machine and loads it.

The library lies in the cache folder under a name that is a hash of all that made it (sources,
generated headers, flags, compiler, CPU), so a stale one is never found. It is compiled under a
temporary name and renamed: nobody ever loads half a file. Two headers are generated, so that
nothing is written twice:

    isa.inc               enumerations, opcodes, engines, columns and limits, from `mellivora.isa`
    function_tables.inc   the tables of the VECTOR functions, from `mellivora.numerics`
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mellivora.errors import HostError

SOURCES = Path(__file__).parent
FLAGS = (
    *("-O3", "-march=native", "-ffp-contract=off", "-fno-fast-math", "-std=c++17"),
    # These two change no value, only flags and errno that nobody reads; loops vectorise with them.
    *("-fno-math-errno", "-fno-trapping-math"),
    *("-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-psabi"),
)
_INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def cache_dir() -> Path:
    """MELLIVORA_CACHE, or `mellivora` in XDG_CACHE_HOME, or ~/.cache/mellivora; not created."""
    if given := os.environ.get("MELLIVORA_CACHE"):
        return Path(given)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "mellivora"
    return Path.home() / ".cache" / "mellivora"


def load(name: str, *, flags: Iterable[str] = ()) -> ctypes.CDLL:
    """The library of native/<name>.cpp, compiled if the cache does not have it.

    flags: further compiler flags (tests build the portable kernels so).
    Raises HostError MV0901 (no compiler), MV0902 (compilation failed), MV0903 (cache not writable).
    """
    return _load(name, tuple(flags), str(cache_dir()))


@functools.cache
def _load(name: str, flags: tuple[str, ...], cache: str) -> ctypes.CDLL:
    compiler = _compiler()
    texts = _texts(f"{name}.cpp")
    digest = hashlib.sha256("\0".join((*FLAGS, *flags, *_host(compiler))).encode())
    for part in sorted(texts):
        digest.update(part.encode() + b"\0" + texts[part] + b"\0")
    target = Path(cache) / "native" / f"{name}-{digest.hexdigest()[:24]}.so"
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target.with_suffix(".lock"), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes one compiles, the rest wait
                if not target.exists():
                    _compile(compiler, f"{name}.cpp", texts, flags, target)
        except OSError as error:
            raise HostError(
                "MV0903",
                "cannot write compiled code to the cache",
                where=str(target.parent),
                given=str(error),
                hint="Set MELLIVORA_CACHE to a folder that can be written.",
            ) from error
    return ctypes.CDLL(str(target))


def _compile(
    compiler: str, source: str, texts: dict[str, bytes], flags: tuple[str, ...], target: Path
) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        for part, text in texts.items():
            (Path(folder) / part).write_bytes(text)
        out = Path(folder) / target.name
        command = [compiler, *FLAGS, *flags, "-o", str(out), str(Path(folder) / source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HostError("MV0902", f"compiling {source} failed", where=compiler,
                            given=done.stderr.strip()[:2000],
                            allowed="g++ 11 or newer, or clang++ 14 or newer",
                            hint="Install a newer C++ compiler, or name one in CXX.")  # fmt: skip
        os.replace(out, target)


def _compiler() -> str:
    for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++"):
        if name and (path := shutil.which(name)):
            return path
    raise HostError(
        "MV0901",
        "no C++ compiler found",
        given=f"PATH={os.environ.get('PATH', '')}",
        allowed="g++ or clang++ with C++17",
        hint="Install one (Debian, Ubuntu: apt install g++), or name it in CXX.",
    )


@functools.cache
def _host(compiler: str) -> tuple[str, ...]:
    """What `-march=native` depends on: compiler, its version, the CPU's features."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    features = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                features = " ".join(sorted(line.split(":", 1)[1].split()))
                break
    except OSError:  # not Linux
        features = platform.processor()
    return compiler, version.stdout.split("\n", 1)[0], platform.machine(), features


def _texts(source: str) -> dict[str, bytes]:
    """The source and all it includes by "name", generated headers too, by file name."""
    texts: dict[str, bytes] = {}
    todo = [source]
    while todo:
        name = todo.pop()
        if name in texts:
            continue
        make = _GENERATED.get(name)
        texts[name] = make().encode() if make else (SOURCES / name).read_bytes()
        todo += [found.decode() for found in _INCLUDE.findall(texts[name])]
    return texts


def function_tables() -> str:
    """Text of function_tables.inc."""
    from mellivora import numerics

    return numerics.cpp_tables()


def isa_header() -> str:
    """Text of isa.inc: every number of the instruction set that the C++ code uses."""
    from mellivora.isa import encoding, meaning, modes, table

    lines = [
        "// Generated from mellivora.isa by native/build.py.",
        "#pragma once",
        "#include <cstdint>",
    ]
    names = [
        *("SLOTS", "SLOT_BITS", "REGISTER_FLAG", "REGISTERS", "SEMAPHORES", "SEMAPHORE_MAX"),
        *("PARAMETERS", "LOOP_LEVELS", "ACCUMULATOR_BASE", "DRAM_UNIT_BYTES", "GATHER_PAGES"),
        *("RESOLVED_FIELDS", "R_PC", "R_GAP", "R_SLOT", "R_CONFIG"),
    ]
    lines += [f"constexpr int64_t {name} = {getattr(encoding, name)};" for name in names]
    lines += _enum("Engine", {name: code for code, name in enumerate(encoding.ENGINES)})
    lines += _enum("Opcode", {row.name.upper(): row.opcode for row in table.TABLE})
    for kind in (
        modes.BFormat,
        modes.Op,
        modes.Func,
        modes.Kind,
        modes.Reduce,
        modes.Store,
        modes.Deq,
    ):
        lines += _enum(kind.__name__, {member.name: int(member) for member in kind})
    engine, configures = [-1] * 256, [-1] * 256
    for row in table.TABLE:
        engine[row.opcode], configures[row.opcode] = row.engine, row.configures
    formats = list(modes.BFormat)
    fractions = meaning._FRACTION_BITS
    lines += [
        _array("int8_t", "ENGINE_OF[256]", engine),
        _array("int8_t", "CONFIGURES[256]", configures),
        _array("int", "B_DWORDS[]", [modes.B_DWORDS[f] for f in formats]),
        _array("int", "B_SCALE_BYTES[]", [modes.B_SCALE_BYTES[f] for f in formats]),
        _array("int", "FRACTION_BITS[]", [fractions.get(f, -1) for f in formats]),
        "struct Pass { int i, j; };",
        "struct Passes { int count; Pass at[9]; };",
    ]
    rows = [[_passes(modes.passes(a, b) if a and b else []) for b in range(4)] for a in range(4)]
    body = ",\n".join("  {" + ", ".join(row) + "}" for row in rows)
    lines.append(f"constexpr Passes PASSES[4][4] = {{\n{body}}};")
    return "\n".join(lines) + "\n"


def _enum(name: str, members: dict[str, int]) -> list[str]:
    body = " ".join(f"constexpr int {key} = {value};" for key, value in members.items())
    return [f"namespace {name} {{ {body} }}"]


def _array(kind: str, name: str, values: list[int]) -> str:
    return f"constexpr {kind} {name} = {{{', '.join(map(str, values))}}};"


def _passes(pairs: list[tuple[int, int]]) -> str:
    inner = ", ".join(f"{{{i}, {j}}}" for i, j in pairs)
    return f"{{{len(pairs)}, {{{inner}}}}}"


_GENERATED = {"isa.inc": isa_header, "function_tables.inc": function_tables}
