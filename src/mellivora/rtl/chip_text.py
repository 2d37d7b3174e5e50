"""RTLIL of a whole chip, elaborated once for the sources that make it.

Elaboration takes Python ten seconds and more; simulation, Verilog and synthesis all begin with its
result. It lies in the cache under a hash of every source that has a part in it.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from mellivora.rtl.host import cache_dir

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

_SOURCES = ("rtl", "isa", "numerics", "spec")


def chip_rtlil(chip: ChipSpec, *, ecc: bool = False) -> str:
    """RTLIL of `Chip(chip, ecc=ecc)`. Raises SpecError MV0120 for a chip that the RTL cannot be."""
    from mellivora.rtl.chip import Chip
    from mellivora.rtl.emit import rtlil

    design = Chip(chip, ecc=ecc)
    name = f"{design.module_name}{'-ecc' if ecc else ''}"
    path = cache_dir() / "rtl" / f"{name}-{digest(sources_hash(), chip.fingerprint())}.il.gz"
    if text := _kept(path):
        design._MustUse__used = True  # it is in the cache already
        return text
    text = rtlil(design)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(gzip.compress(text.encode(), 1))
    os.replace(part, path)
    return text


def _kept(path: Path) -> str:
    """What lies there; nothing if there is none or it is damaged."""
    try:
        return gzip.decompress(path.read_bytes()).decode()
    except (OSError, EOFError, zlib.error):
        return ""


def top_name(chip: ChipSpec) -> str:
    """The name of the chip's top module."""
    return f"mellivora_{chip.name}"


def digest(*parts: str) -> str:
    """A name for a file in the cache that depends on all of the parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@functools.cache
def sources_hash() -> str:
    """Of all sources that have a part in a design, and of Amaranth's version."""
    import amaranth

    root = Path(__file__).resolve().parents[1]
    found = hashlib.sha256(amaranth.__version__.encode())
    for part in _SOURCES:
        for path in sorted((root / part).rglob("*")):
            if path.suffix in (".py", ".cpp"):
                found.update(path.read_bytes())
    return found.hexdigest()
