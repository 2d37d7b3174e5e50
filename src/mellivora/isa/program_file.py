"""The `.mvp` file of a program: a prefix, a JSON header, raw sections. Nothing in it is executed.

    8 magic | 4 version | 4 header bytes | 32 SHA-256 of the header | header | sections, in order

Numbers are little endian. A section is an array of the header's shape and SHA-256; sections follow
each other without gaps and the file ends with the last. A reader believes nothing: sizes are held
against the file's own size before anything is allocated, and the program against its law before it
is returned.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
import numpy.typing as npt

from mellivora.errors import ProgramError, SpecError
from mellivora.isa.encoding import PARAMETERS
from mellivora.isa.program import Entry, Program, WeightsReference, Window
from mellivora.spec import ChipSpec

MAGIC = b"\x93MVPROG\n"
VERSION = 1
PREFIX_BYTES = 48
MAX_HEADER_BYTES = 64 << 20
_AGAIN = "compile the model again, or copy the file again"
_BIG = 1 << 62


def save(program: Program, path: Path) -> None:
    """See Program.save: a temporary file in the same folder, flushed, then renamed over `path`."""
    program.validate()
    data = to_bytes(program)
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise ProgramError(
            "MV0514",
            "the program cannot be written",
            where=str(path),
            given=str(error.strerror),
            hint="check that the folder exists, may be written and has space",
        ) from None


def to_bytes(program: Program) -> bytes:
    """The file's contents; equal programs give equal bytes."""
    sections: list[bytes] = []

    def section(array: npt.NDArray[Any], dtype: str) -> dict[str, Any]:
        raw = np.ascontiguousarray(array, dtype).tobytes()
        sections.append(raw)
        return {"shape": list(array.shape), "sha256": hashlib.sha256(raw).hexdigest()}

    header = {
        "name": program.name,
        "chip": program.chip.values(),
        "fingerprint": program.chip.fingerprint(),
        "windows": [
            {
                "name": w.name,
                "bytes": w.bytes,
                "writable": w.writable,
                "role": w.role,
                "tensors": [list(t) for t in w.tensors],
            }
            for w in program.windows
        ],
        "weights": program.weights and vars(program.weights),
        "meta": program.meta,
        "entries": {
            name: {
                "code": section(entry.code, "<u8"),
                "core_constants": section(entry.core_constants, "<i4"),
                "symbols": [list(s) for s in entry.symbols],
                "parameters": entry.parameters,
                "check_points": entry.check_points,
            }
            for name, entry in program.entries.items()
        },
    }
    try:
        text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        _refuse("MV0519", "the program's meta data cannot be stored", str(error), "JSON values")
    if len(text) > MAX_HEADER_BYTES:
        _refuse(
            "MV0506", "the header is too long", f"{len(text)} bytes", f"{MAX_HEADER_BYTES} bytes"
        )
    prefix = MAGIC + VERSION.to_bytes(4, "little") + len(text).to_bytes(4, "little")
    return b"".join([prefix, hashlib.sha256(text).digest(), text, *sections])


def load(path: Path, *, chip: ChipSpec | None = None) -> Program:
    """See Program.load."""
    try:
        if not path.is_file():  # also refuses pipes, which could block for ever
            raise OSError(0, "it is not a file")
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(PREFIX_BYTES)
            header_bytes = _check_prefix(prefix, size, str(path))
            data = prefix + file.read(size - PREFIX_BYTES) if header_bytes else prefix
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ProgramError(
            "MV0501",
            "the program file cannot be read",
            where=str(path),
            given=str(reason),
            hint="check the path; `mellivora compile MODEL -o FILE` writes a program",
        ) from None
    return from_bytes(data, where=str(path), chip=chip)


def _check_prefix(prefix: bytes, size: int, where: str) -> int:
    """Length of the header; the file is long enough to hold it."""
    if prefix[:8] != MAGIC[: len(prefix[:8])] or len(prefix) < 8:
        _refuse(
            "MV0502",
            "this is not a Mellivora program",
            repr(prefix[:8]),
            repr(MAGIC),
            where,
            "give a file that `mellivora compile` wrote",
        )
    version = int.from_bytes(prefix[8:12], "little")
    if len(prefix) == PREFIX_BYTES and version != VERSION:
        _refuse(
            "MV0503",
            "the program has another format version",
            str(version),
            str(VERSION),
            where,
            "compile the model again with this version, or use the version that wrote it",
        )
    header_bytes = int.from_bytes(prefix[12:16], "little")
    if len(prefix) < PREFIX_BYTES or PREFIX_BYTES + header_bytes > size:
        _refuse(
            "MV0504",
            "the program file is cut short",
            f"{size} bytes",
            f"{PREFIX_BYTES + header_bytes} or more",
            where,
        )
    if not 2 <= header_bytes <= MAX_HEADER_BYTES:
        _refuse(
            "MV0506",
            "the header has an impossible length",
            f"{header_bytes} bytes",
            f"2..{MAX_HEADER_BYTES}",
            where,
        )
    return header_bytes


def from_bytes(data: bytes, *, where: str = "bytes", chip: ChipSpec | None = None) -> Program:
    """The program of a file's contents. Raises as Program.load."""
    end = PREFIX_BYTES + _check_prefix(data[:PREFIX_BYTES], len(data), where)
    text = data[PREFIX_BYTES:end]
    if hashlib.sha256(text).digest() != data[16:PREFIX_BYTES]:
        _refuse("MV0505", "the header is damaged: its hash differs", "", "", where)
    header = _Node(_parse(text, where), "header").fields(
        "name", "chip", "fingerprint", "windows", "weights", "meta", "entries"
    )
    needed = _chip(header["chip"])
    if header["fingerprint"].text() != needed.fingerprint():
        _refuse(
            "MV0509",
            "the chip of the program does not match its own fingerprint",
            header["fingerprint"].text(),
            needed.fingerprint(),
            where,
        )
    if chip is not None and chip.fingerprint() != needed.fingerprint():
        _refuse(
            "MV0510",
            "the program is for another chip",
            f"{needed.name} ({needed.fingerprint()[:12]})",
            f"{chip.name} ({chip.fingerprint()[:12]})",
            where,
            f"compile it for {chip.name}",
        )
    reader = _Sections(data, end, where)
    weights = header["weights"]
    program = Program(
        name=header["name"].text(),
        chip=needed,
        entries={name: _entry(node, reader) for name, node in header["entries"].mapping().items()},
        windows=[_window(node) for node in header["windows"].items()],
        meta=header["meta"].plain_object(),
        weights=None if weights.value is None else _weights(weights),
    )
    reader.finish()
    program.validate()
    return program


def _refuse(
    code: str, what: str, given: str, allowed: str, where: str = "", hint: str = _AGAIN
) -> NoReturn:
    raise ProgramError(code, what, where=where, given=given[:300], allowed=allowed, hint=hint)


def _parse(text: bytes, where: str) -> object:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key appears twice")
        return found

    def finite(word: str) -> float:
        value = float(word)
        if not math.isfinite(value):
            raise ValueError(f"{word} is no JSON number")
        return value

    try:
        return json.loads(
            text.decode("utf-8"), object_pairs_hook=once, parse_float=finite, parse_constant=finite
        )
    except (ValueError, RecursionError) as error:
        _refuse(
            "MV0506", "the header is not JSON", str(error), "a JSON object, each key once", where
        )


class _Node:
    """A JSON value and its path; each method demands a type or raises MV0507 or MV0518."""

    def __init__(self, value: object, path: str) -> None:
        self.value, self.path = value, path

    def _demand(self, good: bool, allowed: str) -> None:
        if not good:
            _refuse(
                "MV0507",
                "the header has a value of the wrong kind",
                json.dumps(self.value)[:80],
                allowed,
                self.path,
            )

    def plain_object(self) -> dict[str, Any]:
        self._demand(isinstance(self.value, dict), "an object")
        return cast("dict[str, Any]", self.value)

    def mapping(self) -> dict[str, _Node]:
        return {k: _Node(v, f"{self.path}.{k[:80]}") for k, v in self.plain_object().items()}

    def fields(self, *names: str) -> dict[str, _Node]:
        """Exactly these keys."""
        found = self.mapping()
        if set(found) != set(names):
            odd = sorted(set(found) ^ set(names))
            _refuse(
                "MV0507",
                "the header has keys too many or too few",
                ", ".join(odd)[:200],
                ", ".join(names),
                self.path,
            )
        return found

    def items(self) -> list[_Node]:
        self._demand(isinstance(self.value, list), "a list")
        return [
            _Node(v, f"{self.path}[{i}]") for i, v in enumerate(cast("list[object]", self.value))
        ]

    def pair(self, count: int) -> list[_Node]:
        found = self.items()
        self._demand(len(found) == count, f"a list of {count}")
        return found

    def text(self) -> str:
        self._demand(isinstance(self.value, str), "a text")
        return cast("str", self.value)

    def flag(self) -> bool:
        self._demand(isinstance(self.value, bool), "true or false")
        return cast("bool", self.value)

    def integer(self, low: int = 0, high: int = _BIG) -> int:
        self._demand(
            isinstance(self.value, int) and not isinstance(self.value, bool), "a whole number"
        )
        value = cast("int", self.value)
        if not low <= value <= high:
            _refuse(
                "MV0518",
                "a number of the header is out of range",
                str(value)[:40],
                f"{low}..{high}",
                self.path,
            )
        return value


def _chip(node: _Node) -> ChipSpec:
    values = node.plain_object()
    try:
        return ChipSpec(**values)
    except (SpecError, TypeError) as error:
        _refuse("MV0509", "the program's chip description is wrong", str(error), "", node.path)


def _window(node: _Node) -> Window:
    f = node.fields("name", "bytes", "writable", "role", "tensors")
    tensors = [t.pair(2) for t in f["tensors"].items()]
    return Window(
        f["name"].text(),
        f["bytes"].integer(),
        f["writable"].flag(),
        f["role"].text(),
        tuple((name.text(), at.integer()) for name, at in tensors),
    )


def _weights(node: _Node) -> WeightsReference:
    f = node.fields("file", "sha256", "size_bytes")
    return WeightsReference(f["file"].text(), f["sha256"].text(), f["size_bytes"].integer())


def _entry(node: _Node, reader: _Sections) -> Entry:
    f = node.fields("code", "core_constants", "symbols", "parameters", "check_points")
    int32 = (-(1 << 31), (1 << 31) - 1)
    symbols = [s.pair(4) for s in f["symbols"].items()]
    return Entry(
        code=reader.take(f["code"], "<u8").astype(np.uint64),
        core_constants=reader.take(f["core_constants"], "<i4").astype(np.int32),
        symbols=[(a.integer(), b.integer(), c.text(), d.text()) for a, b, c, d in symbols],
        parameters={k: v.integer() for k, v in f["parameters"].mapping().items()},
        check_points=[
            {k: v.integer(*int32) for k, v in p.mapping().items()}
            for p in f["check_points"].items()
        ],
    )


class _Sections:
    """Hands out the raw sections one after the other."""

    def __init__(self, data: bytes, at: int, where: str) -> None:
        self.data, self.at, self.where = data, at, where

    def take(self, node: _Node, dtype: str) -> npt.NDArray[Any]:
        """The next section, an array [rows, columns] of the node's shape; its hash is checked."""
        f = node.fields("shape", "sha256")
        rows, columns = (n.integer() for n in f["shape"].pair(2))
        size = rows * columns * np.dtype(dtype).itemsize
        if size > len(self.data) - self.at:
            _refuse(
                "MV0504",
                "the program file is cut short",
                f"{len(self.data) - self.at} bytes left",
                f"{size} bytes for {node.path}",
                self.where,
            )
        # Empty arrays have no bytes that could bound their shape.
        if not size and max(rows, columns) > PARAMETERS:
            _refuse(
                "MV0518",
                "an empty section has an impossible shape",
                f"[{rows}, {columns}]",
                f"at most {PARAMETERS} each way",
                node.path,
            )
        raw = self.data[self.at : self.at + size]
        self.at += size
        if hashlib.sha256(raw).hexdigest() != f["sha256"].text():
            _refuse("MV0505", "a section is damaged: its hash differs", "", "", node.path)
        return np.frombuffer(raw, dtype).reshape(rows, columns)

    def finish(self) -> None:
        if self.at != len(self.data):
            _refuse(
                "MV0504",
                "the program file is too long",
                f"{len(self.data)} bytes",
                f"{self.at} bytes",
                self.where,
            )
