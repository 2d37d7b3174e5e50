"""A compiled program: code of each entry, its DRAM windows, its chip, weights by reference.

Plain data and its law. `save` and `load` are in `program_file`; a program that breaks the law is
neither written nor returned. Weights are not inside: they stay in a safetensors file beside the
program, named here with size and SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mellivora.errors import ProgramError
from mellivora.isa.control import wrap
from mellivora.isa.encoding import PARAMETERS, WINDOWS
from mellivora.isa.legal import check_code
from mellivora.spec import ChipSpec

ROLES = ("weights", "constants", "kv", "scratch", "io")
"""Use of a window; weights and constants come from the safetensors file, others start unset."""
WINDOW_ALIGNMENT_BYTES = 4096
MAX_NAME = 256

Symbol = tuple[int, int, str, str]
"""(first pc, pc past the last, label, kind): which part of the code belongs to what."""


@dataclass(frozen=True)
class Window:
    """A range of DRAM that the program may touch.

    tensors: (name in the safetensors file, byte offset in the window), copied there before launch.
    """

    name: str
    bytes: int
    writable: bool
    role: str
    tensors: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", tuple((name, at) for name, at in self.tensors))


@dataclass(frozen=True)
class WeightsReference:
    """The safetensors file that belongs to a program: a file name in the program's own folder."""

    file: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: str | Path) -> WeightsReference:
        """The reference of an existing file. Raises ProgramError MV0520 if it cannot be read."""
        path = Path(path)
        return cls(path.name, _file_sha256(path), path.stat().st_size)

    def beside(self, program_path: str | Path, *, verify: bool = True) -> Path:
        """Path of the weights of the program at `program_path`; size (and hash, if `verify`) fit.

        Raises ProgramError MV0520 (absent), MV0521 (another size), MV0522 (another content).
        """
        path = Path(program_path).parent / self.file
        hint = f"put the {self.file} that was written with this program beside it, or compile again"
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise ProgramError(
                "MV0520", "the program's weights are not there", where=str(path), hint=hint
            )
        if size != self.size_bytes:
            raise ProgramError(
                "MV0521",
                "the weights file is not the one the program was compiled with",
                where=str(path),
                given=f"{size} bytes",
                allowed=f"{self.size_bytes} bytes",
                hint=hint,
            )
        if verify and (digest := _file_sha256(path)) != self.sha256:
            raise ProgramError(
                "MV0522",
                "the contents of the weights file are not those the program was compiled with",
                where=str(path),
                given=f"SHA-256 {digest}",
                allowed=self.sha256,
                hint=hint,
            )
        return path


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ProgramError(
            "MV0520",
            "the program's weights cannot be read",
            where=str(path),
            given=str(error.strerror),
            hint="check the path and its permissions",
        ) from None


@dataclass(eq=False)
class Entry:
    """One thing the program can be launched to do, "prefill" for instance.

    code: uint64 [n, 2], low half first.  parameters: name -> index in the parameter memory.
    core_constants: int32 [cores, c]: core i finds row i at indices 0..c-1.
    check_points: parameter settings on which the checker proves the entry; left out ones are 0.
    """

    code: npt.NDArray[np.uint64]
    symbols: list[Symbol] = field(default_factory=list[Symbol])
    parameters: dict[str, int] = field(default_factory=dict[str, int])
    core_constants: npt.NDArray[np.int32] = field(
        default_factory=lambda: np.zeros((0, 0), np.int32)
    )
    check_points: list[dict[str, int]] = field(default_factory=list[dict[str, int]])

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Entry)
            and np.array_equal(self.code, other.code)
            and np.array_equal(self.core_constants, other.core_constants)
            and (self.symbols, self.parameters, self.check_points)
            == (other.symbols, other.parameters, other.check_points)
        )

    def parameter_memory(self, core_id: int, settings: Mapping[str, int]) -> list[int]:
        """Parameter memory of one core, as long as the entry can name.

        Raises ProgramError MV0530 for a setting that the entry does not have.
        """
        constants = (
            [int(v) for v in self.core_constants[core_id]] if self.core_constants.size else []
        )
        size = max([len(constants) - 1, *self.parameters.values()], default=-1) + 1
        memory = constants + [0] * (size - len(constants))
        for name, value in settings.items():
            if name not in self.parameters:
                raise ProgramError(
                    "MV0530",
                    "the entry has no such parameter",
                    given=name,
                    allowed=", ".join(self.parameters) or "none",
                    hint="set only parameters the entry names",
                )
            memory[self.parameters[name]] = wrap(int(value))
        return memory

    def label(self, pc: int) -> str:
        """Label of the innermost symbol over pc, "" if none."""
        over = [s for s in self.symbols if s[0] <= pc < s[1]]
        return min(over, key=lambda s: s[1] - s[0])[2] if over else ""


@dataclass
class Program:
    """A program for one chip. meta: JSON values for people and tools; nothing depends on them."""

    name: str
    chip: ChipSpec
    entries: dict[str, Entry]
    windows: list[Window]
    meta: dict[str, Any] = field(default_factory=dict[str, Any])
    weights: WeightsReference | None = None

    def placement(self) -> list[tuple[int, int]]:
        """(base, limit) in bytes of each window in DRAM: in order, each aligned to 4 KiB."""
        places: list[tuple[int, int]] = []
        at = 0
        for window in self.windows:
            places.append((at, window.bytes))
            at += -(-window.bytes // WINDOW_ALIGNMENT_BYTES) * WINDOW_ALIGNMENT_BYTES
        return places

    def validate(self) -> None:
        """The law. Raises ProgramError MV0508, MV0511, MV0512, MV0513 or MV0523."""
        _name("name", self.name)
        _check_windows(self)
        if not self.entries:
            raise _wrong("entries", "none", "at least one")
        for name, entry in self.entries.items():
            _name("entries", name)
            _check_entry(self.chip, name, entry)
            check_code(entry.code, self.chip, where=f"entry {name}")

    def save(self, path: str | Path) -> None:
        """Write the file whole or not at all. Raises ProgramError MV0514 if that cannot be done."""
        from mellivora.isa.program_file import save

        save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path, *, chip: ChipSpec | None = None) -> Program:
        """The program of a file, everything checked first; `chip`: it must be for that chip.

        Raises ProgramError MV0501..MV0523, each with the reason and the next step.
        """
        from mellivora.isa.program_file import load

        return load(Path(path), chip=chip)


def _wrong(where: str, given: object, allowed: str) -> ProgramError:
    return ProgramError(
        "MV0508",
        "a value of the program is out of range",
        where=where,
        given=str(given)[:200],
        allowed=allowed,
        hint="compile the model again",
    )


def _contradiction(where: str, given: object, allowed: str) -> ProgramError:
    return ProgramError(
        "MV0513",
        "the entry contradicts itself",
        where=where,
        given=str(given)[:200],
        allowed=allowed,
        hint="compile the model again",
    )


def _name(where: str, name: str) -> None:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise _wrong(where, repr(name), f"1 to {MAX_NAME} printable characters")


def _check_windows(program: Program) -> None:
    names: set[str] = set()
    for index, window in enumerate(program.windows):
        where = f"windows[{index}]"
        _name(f"{where}.name", window.name)
        if window.name in names:
            raise _wrong(f"{where}.name", window.name, "each name once")
        names.add(window.name)
        if window.role not in ROLES:
            raise _wrong(f"{where}.role", window.role, ", ".join(ROLES))
        if window.bytes < 0:
            raise _wrong(f"{where}.bytes", window.bytes, "0 or more")
        if window.tensors and program.weights is None:
            raise _wrong(
                f"{where}.tensors", window.tensors[0][0], "no tensors without a weights file"
            )
        for name, at in window.tensors:
            _name(f"{where}.tensors", name)
            if not 0 <= at < window.bytes:
                raise _wrong(f"{where}.tensors[{name}]", at, f"an offset below {window.bytes}")
    chip, most = program.chip, min(program.chip.windows, WINDOWS)
    total = sum(base_limit[1] for base_limit in program.placement()[-1:])
    total += program.placement()[-1][0] if program.windows else 0
    if len(program.windows) > most or total > chip.dram_bytes:
        raise ProgramError(
            "MV0512",
            "the program's windows do not fit the chip",
            where=f"chip {chip.name}",
            given=f"{len(program.windows)} windows, {total} bytes",
            allowed=f"{most} windows, {chip.dram_bytes} bytes of DRAM",
            hint="compile for a chip with more DRAM, or with a smaller context or batch",
        )
    weights = program.weights
    if weights is not None:
        plain = weights.file not in ("", ".", "..") and not set(weights.file) & set("/\\:\0")
        if not plain or not weights.file.isprintable() or len(weights.file) > MAX_NAME:
            raise _wrong("weights.file", repr(weights.file), "a file name without a folder")
        if len(weights.sha256) != 64 or set(weights.sha256) - set("0123456789abcdef"):
            raise _wrong("weights.sha256", weights.sha256, "64 lower-case hexadecimal digits")
        if weights.size_bytes < 0:
            raise _wrong("weights.size_bytes", weights.size_bytes, "0 or more")


def _check_entry(chip: ChipSpec, name: str, entry: Entry) -> None:
    where = f"entries.{name}"
    constants = entry.core_constants
    if constants.dtype != np.int32 or constants.ndim != 2:
        raise _contradiction(
            f"{where}.core_constants", f"{constants.dtype} {constants.shape}", "int32 [cores, n]"
        )
    if constants.shape[0] not in (0, chip.cores):
        given, allowed = f"{constants.shape[0]} rows", f"{chip.cores}, one a core, or none"
        raise _contradiction(f"{where}.core_constants", given, allowed)
    if constants.shape[1] > PARAMETERS:
        given, allowed = f"{constants.shape[1]} a core", f"at most {PARAMETERS}"
        raise _contradiction(f"{where}.core_constants", given, allowed)
    count = constants.shape[1] if constants.size else 0
    for key, index in entry.parameters.items():
        _name(f"{where}.parameters", key)
        if not count <= index < PARAMETERS:
            allowed = f"{count}..{PARAMETERS - 1}, after the core's constants"
            raise _contradiction(f"{where}.parameters.{key}", index, allowed)
    if len(set(entry.parameters.values())) != len(entry.parameters):
        raise _contradiction(f"{where}.parameters", "an index twice", "each index once")
    for index, point in enumerate(entry.check_points):
        for key, value in point.items():
            if key not in entry.parameters or wrap(value) != value:
                allowed = "32-bit values of the entry's parameters"
                raise _contradiction(f"{where}.check_points[{index}]", f"{key} = {value}", allowed)
    for index, (start, stop, label, kind) in enumerate(entry.symbols):
        _name(f"{where}.symbols[{index}]", label)
        _name(f"{where}.symbols[{index}]", kind)
        if not 0 <= start <= stop <= len(entry.code):
            allowed = f"0 <= start <= end <= {len(entry.code)}"
            raise _contradiction(f"{where}.symbols[{index}]", f"{start}..{stop}", allowed)
