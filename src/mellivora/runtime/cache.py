"""Compiled models on disk: in the cache folder, or as a program file that a person asked for.

An `Executable` is what the compiler made and the runtime needs, wherever it came from. On disk it
is a program (.mvp) and a safetensors file with the images of its weight windows. The cache finds
one by a hash of all that makes it: contents of the model file, chip, options, and the compiler's
own source.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mellivora.compiler.layout import KvLayout
from mellivora.errors import HostError, ProgramError
from mellivora.isa.program import Program, WeightsReference
from mellivora.native.build import cache_dir

Bytes = npt.NDArray[np.uint8]
PROGRAM, WEIGHTS = "model.mvp", "model.safetensors"
KEEP_BYTES = 8 << 30
"""The cache forgets what was not used for longest beyond this."""
SOURCES = ("spec", "numerics", "isa", "graph", "frontends", "compiler")
_SIZES = ("slots", "chunk", "rows_per_core", "logits_pitch", "vocab")
_FACTS = (*_SIZES, "notes", "buffers", "formats")


@dataclass
class Executable:
    """A compiled language model.

    images: window name -> its first contents, uint8 (memory-mapped when it came from disk); empty
    for shapes without weights. slots: sequences the KV window holds. chunk: rows a prefill launch
    takes. logits_pitch: FP32 values from row to row of the LOGITS window, at least vocab. buffers:
    scratchpad of each entry, (name, address, bytes). formats: of the model's matrices as it came.
    """

    program: Program
    kv: KvLayout
    slots: int
    chunk: int
    rows_per_core: int
    logits_pitch: int
    vocab: int
    notes: list[str] = field(default_factory=list)
    buffers: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)
    formats: list[str] = field(default_factory=list)
    images: dict[str, Bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, compiled: Any, *, formats: Sequence[str] = ()) -> Executable:
        """From what `mellivora.compiler.compile_model` returns."""
        facts = {name: getattr(compiled, name) for name in _FACTS if name != "formats"}
        facts |= {"formats": list(formats), "notes": condensed(compiled.notes)}
        return cls(compiled.program, compiled.kv, images=dict(compiled.images or {}), **facts)

    @property
    def context(self) -> int:
        """Tokens a slot holds."""
        return self.kv.context

    def save(self, path: str | Path) -> list[Path]:
        """Write program and weights beside it; whole or not at all. Returns the files written.

        Raises ProgramError MV0514 (by the program), MV0515 (by the weights).
        """
        path = Path(path)
        weights = path.with_suffix(".safetensors")
        made: list[Path] = []
        program = dataclasses.replace(
            self.program, meta={**self.program.meta, "runtime": self._facts()}, weights=None
        )
        try:
            if self.images:
                _write_weights(weights, self.images)
                made.append(weights)
                program.weights = WeightsReference.of(weights)
            program.windows = [
                dataclasses.replace(w, tensors=((w.name, 0),) if w.name in self.images else ())
                for w in program.windows
            ]
            program.save(path)
        except BaseException:
            for done in made:
                done.unlink(missing_ok=True)
            raise
        return [path, *made]

    def _facts(self) -> dict[str, Any]:
        return {"kv": dataclasses.asdict(self.kv), **{name: getattr(self, name) for name in _FACTS}}

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = True) -> Executable:
        """From a program file. Raises ProgramError MV0501 to MV0522, MV0516.

        verify: whether the weights' hash is checked, which reads all of them.
        """
        path = Path(path)
        program = Program.load(path)
        facts = program.meta.get("runtime")
        try:
            values = {name: facts[name] for name in _FACTS}  # type: ignore[index]
            kv = KvLayout(**{k: int(v) for k, v in facts["kv"].items()})  # type: ignore[index]
            if not all(isinstance(values[name], int) for name in _SIZES):
                raise TypeError("a size is no whole number")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ProgramError(
                "MV0516",
                "the program is not one of a language model",
                where=str(path),
                given=f"meta.runtime: {error}",
                allowed="a file that `mellivora compile` wrote",
                hint="compile the model again",
            ) from None
        images: dict[str, Bytes] = {}
        if program.weights is not None:
            images = _map_weights(program.weights.beside(path, verify=verify), program)
        return cls(program, kv, images=images, **values)


def condensed(notes: Sequence[str]) -> list[str]:
    """Notes "tensor: what was done"; of those that say the same, one with a count."""
    told: dict[str, list[str]] = {}
    for note in notes:
        name, colon, what = note.partition(": ")
        told.setdefault(what if colon else note, []).append(name)
    return [
        f"{names[0]} and {len(names) - 1} more: {what}"
        if len(names) > 1
        else (f"{names[0]}: {what}" if names[0] != what else what)
        for what, names in told.items()
    ]


# ------------------------------------------------------------------------------------------ weights


def _write_weights(path: Path, images: Mapping[str, Bytes]) -> None:
    """A safetensors file of uint8 tensors, renamed into place when whole."""
    from safetensors.numpy import save_file

    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file({name: np.ascontiguousarray(image) for name, image in images.items()}, part)
        part.chmod(0o666 & ~_umask())
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, MemoryError | KeyboardInterrupt):
            raise
        raise ProgramError(
            "MV0515",
            "the weights cannot be written",
            where=str(path),
            given=str(error),
            hint="choose a folder that can be written and has room",
        ) from error


def _umask() -> int:
    """What new files are denied; the system tells it only by changing it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _map_weights(path: Path, program: Program) -> dict[str, Bytes]:
    """The images of a weights file, mapped: nothing is read before it is used. ProgramError
    MV0517.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        images: dict[str, Bytes] = {}
        for window in program.windows:
            for name, at in window.tensors:
                start, end = header[name]["data_offsets"]
                image = data[8 + size :][start:end]
                if header[name]["dtype"] != "U8" or at != 0 or len(image) != end - start:
                    raise ValueError(f"tensor {name} is not the image of a window")
                if len(image) > window.bytes:
                    raise ValueError(f"tensor {name} is longer than its window")
                images[window.name] = image
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProgramError(
            "MV0517",
            "the weights file of the program is damaged",
            where=str(path),
            given=f"{type(error).__name__}: {error}",
            hint="compile the model again",
        ) from None
    return images


# -------------------------------------------------------------------------------------------- cache


def obtain(
    key: str, compile: Callable[[], Executable], *, use: bool = True
) -> tuple[Executable, bool]:
    """The executable of a key, and whether the cache had it; if not, `compile` makes it and it is
    kept.

    A cache that cannot be read or written costs time, never an error. use False leaves the cache
    alone.
    """
    if not use:
        return compile(), False
    folder = cache_dir() / "models" / key
    try:
        found = Executable.load(folder / PROGRAM, verify=False)
        os.utime(folder)
        return found, True
    except (ProgramError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
    made = compile()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
        try:
            made.save(part / PROGRAM)
            os.rename(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        _forget_oldest(folder)
        return Executable.load(
            folder / PROGRAM, verify=False
        ), False  # mapped: the copy in memory goes
    except (ProgramError, OSError):
        return made, False


def _forget_oldest(newest: Path, keep_bytes: int | None = None) -> None:
    """Remove the entries unused for longest until the rest fits; never the newest."""
    keep_bytes = KEEP_BYTES if keep_bytes is None else keep_bytes
    entries = sorted(
        (p for p in newest.parent.iterdir() if p.is_dir()), key=lambda p: -p.stat().st_mtime
    )
    total = 0
    for entry in sorted(entries, key=lambda p: p != newest):  # stable: the newest first
        total += sum(file.stat().st_size for file in entry.iterdir())
        if total > keep_bytes and entry != newest:
            shutil.rmtree(entry, ignore_errors=True)


def key_of(model: str, fingerprint: str, options: Mapping[str, Any]) -> str:
    """Name of a cache entry. model: `content_hash` of its files, or any text that stands for
    them.
    """
    parts = [model, fingerprint, json.dumps(dict(options), sort_keys=True), source_hash()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


@functools.cache
def source_hash() -> str:
    """SHA-256 of every source file that a compiled model depends on."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parents[1]
    for package in SOURCES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def content_hash(path: str | Path) -> str:
    """SHA-256 of a model: of a file, or of the config and weights in a folder.

    Remembered by path, size and modification time. Raises HostError MV0912 if a file cannot be
    read.
    """
    path = Path(path).resolve()
    if not path.is_dir():
        return _file_hash(path)
    digest = hashlib.sha256()
    for file in sorted([*path.glob("*.json"), *path.glob("*.safetensors")]):
        digest.update(f"{file.name}\0{_file_hash(file)}\0".encode())
    return digest.hexdigest()


def _file_hash(path: Path) -> str:
    memo = cache_dir() / "hashes" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    try:
        stat = path.stat()
        facts = [str(path), stat.st_size, stat.st_mtime_ns]
        try:
            known = json.loads(memo.read_text("utf-8"))
            if known[:3] == facts:
                return str(known[3])
        except (OSError, ValueError, LookupError, TypeError):
            pass
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise HostError(
            "MV0912",
            "a model file cannot be read",
            where=str(path),
            given=str(error.strerror),
            hint="check the path and its permissions",
        ) from None
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        part = memo.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps([*facts, digest]), "utf-8")
        os.replace(part, memo)
    except OSError:  # a memo only
        pass
    return digest
