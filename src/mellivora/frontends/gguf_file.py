"""Reads GGUF version 2 and 3 files (little endian) over a memory map, trusting nothing.

A GGUF file is: magic, version, tensor count, key count; the keys (name, type, value); the tensor
records (name, dimensions, type, offset); padding to `general.alignment`; the data. Every count,
length and offset is compared with the bytes that are really there before anything is allocated or
sliced, so a damaged file costs no more than its own size and ends in a `ModelError`.

Layout and block encodings: the GGUF specification (github.com/ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mellivora.errors import ModelError
from mellivora.numerics import BlockTensor, quantize

BLOCK_VALUES = 32
MAX_DIMENSIONS = 4
MAX_ARRAY_DEPTH = 4
MAX_ALIGNMENT_BYTES = 1 << 16
BLOCK_FORMATS = {"Q8_0": "q8_0", "Q4_0": "q4_0", "Q4_1": "q4_1"}  # kept as they are

# ggml type number -> (name, values in a block, bytes of a block)
GGML_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}

# metadata value type number -> little-endian NumPy dtype; 8 is a string, 9 an array
_SCALARS: dict[int, str] = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "|b1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies: `shape` outermost first, `offset_bytes` from the start of the file."""

    name: str
    type_name: str
    shape: tuple[int, ...]
    offset_bytes: int
    size_bytes: int


class GgufFile:
    """An open GGUF file: `metadata` (key -> scalar, str, list or array) and `tensors` by name.

    Raises ModelError MV0201 to MV0214 for a file that is missing, truncated or inconsistent.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._map = _map_file(self.path)
        self._at = 0
        self._what = "the magic"
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, GgufTensor] = {}
        self._read_all()

    def __repr__(self) -> str:
        return f"GgufFile({str(self.path)!r})"

    # -- tensors ---------------------------------------------------------------------------------

    def tensor(
        self, name: str, *, convert_to: str = "mxint8", notes: list[str] | None = None
    ) -> np.ndarray | BlockTensor:
        """One tensor, copied out of the map.

        Q8_0, Q4_0 and Q4_1 matrices keep their block format. F32 and F16 keep theirs, BF16 becomes
        float32 (exact). Every other type is dequantised and quantised to `convert_to`, which is
        said in `notes`; a vector is always float32. Raises ModelError MV0215 for an unknown name.
        """
        record = self.tensors.get(name)
        if record is None:
            raise ModelError(
                "MV0215",
                f"the model has no tensor named {name!r}",
                where=str(self.path),
                given=f"{len(self.tensors)} tensors",
                allowed="the tensors its architecture needs",
                hint="check that the file is complete, or download it again",
            )
        raw = np.frombuffer(
            self._map, np.uint8, count=record.size_bytes, offset=record.offset_bytes
        )
        kind = record.type_name
        if kind in ("F32", "F16"):
            dtype = np.dtype("<f4" if kind == "F32" else "<f2")
            return raw.view(dtype).reshape(record.shape).copy()
        if kind == "BF16":
            wide = raw.view("<u2").astype(np.uint32) << np.uint32(16)
            return wide.view(np.float32).reshape(record.shape)
        matrix = len(record.shape) == 2
        if matrix and kind in BLOCK_FORMATS:
            return BlockTensor.from_ggml(raw, BLOCK_FORMATS[kind], *record.shape)
        values = self._dequantised(raw, record)
        if not matrix or record.shape[1] % BLOCK_VALUES:
            return values
        if notes is not None:
            notes.append(f"{name}: {kind} converted to {convert_to} at load")
        return quantize(values, convert_to)

    def _dequantised(self, raw: np.ndarray, record: GgufTensor) -> np.ndarray:
        """float32 [shape] of a type that has no block format here, through the gguf package."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        try:
            flat = dequantize(raw, GGMLQuantizationType[record.type_name])
        except (KeyError, NotImplementedError) as error:
            raise ModelError(
                "MV0216",
                f"tensor {record.name!r} has a type that cannot be converted",
                where=str(self.path),
                given=record.type_name,
                allowed="F32, F16, BF16, Q8_0, Q4_0, Q4_1 and what the gguf package dequantises",
                hint="requantise the model to Q8_0",
            ) from error
        return np.ascontiguousarray(flat, np.float32).reshape(record.shape)

    # -- the reader ------------------------------------------------------------------------------

    def _read_all(self) -> None:
        magic = self._take(4)
        if magic != b"GGUF":
            raise self._error("MV0202", "this is not a GGUF file", repr(magic), "b'GGUF'")
        self._what = "the version"
        version = self._u32()
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            what = "this GGUF file is big endian" if swapped in (2, 3) else "unknown GGUF version"
            raise self._error("MV0203", what, str(version), "version 2 or 3, little endian")
        self._what = "the counts"
        tensor_count, key_count = self._u64(), self._u64()
        # A key takes at least 8 (name) + 4 (type) + 1 bytes, a tensor record 8 + 4 + 8 + 4 + 8.
        self._check_count("keys", key_count, 13)
        self._check_count("tensors", tensor_count, 32)
        for index in range(key_count):
            self._read_key(index)
        alignment = self.metadata.get("general.alignment", 32)
        good = isinstance(alignment, int) and 0 < alignment <= MAX_ALIGNMENT_BYTES
        if not good or alignment & (alignment - 1):
            raise self._error(
                "MV0207",
                "general.alignment is not a usable alignment",
                repr(alignment),
                f"a power of two up to {MAX_ALIGNMENT_BYTES}",
            )
        records = [self._read_record(index) for index in range(tensor_count)]
        self._place(records, -(-self._at // alignment) * alignment, alignment)

    def _read_key(self, index: int) -> None:
        self._what = f"key {index}"
        name = self._string()
        self._what = f"key {name!r}"
        value = self._value(self._u32(), depth=0)
        if name in self.metadata:
            raise self._error("MV0206", "a key occurs twice", repr(name), "unique keys")
        self.metadata[name] = value

    def _value(self, kind: int, depth: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind in _SCALARS:
            dtype = np.dtype(_SCALARS[kind])
            return np.frombuffer(self._take(dtype.itemsize), dtype)[0].item()
        if kind != _ARRAY or depth >= MAX_ARRAY_DEPTH:
            raise self._error(
                "MV0205", "unknown metadata value type", str(kind), "0 to 12, arrays 4 deep"
            )
        item_kind, count = self._u32(), self._u64()
        if item_kind in _SCALARS:
            dtype = np.dtype(_SCALARS[item_kind])
            self._check_count("array values", count, dtype.itemsize)
            return np.frombuffer(self._take(count * dtype.itemsize), dtype)
        self._check_count("array values", count, 12 if item_kind == _ARRAY else 8)
        return [self._value(item_kind, depth + 1) for _ in range(count)]

    def _read_record(self, index: int) -> tuple[str, int, tuple[int, ...], int]:
        self._what = f"the record of tensor {index}"
        name = self._string()
        self._what = f"the record of tensor {name!r}"
        dimensions = self._u32()
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self._error(
                "MV0208", "wrong number of dimensions", str(dimensions), f"1 to {MAX_DIMENSIONS}"
            )
        inner_first = [self._u64() for _ in range(dimensions)]
        kind, offset = self._u32(), self._u64()
        if kind not in GGML_TYPES:
            allowed = ", ".join(entry[0] for entry in GGML_TYPES.values())
            raise self._error("MV0209", "unknown tensor type", f"type number {kind}", allowed)
        return name, kind, tuple(reversed(inner_first)), offset

    def _place(self, records: list[Any], start: int, alignment: int) -> None:
        """Checks each tensor's place in the data and fills `tensors`. Tensors may not overlap."""
        for name, kind, shape, offset in records:
            self._what = f"tensor {name!r}"
            type_name, block_values, block_bytes = GGML_TYPES[kind]
            values = 1
            for extent in shape:
                values *= extent
            if values == 0 or shape[-1] % block_values:
                raise self._error(
                    "MV0210",
                    f"the shape does not fit blocks of {type_name}",
                    str(shape),
                    f"non-zero, the last a multiple of {block_values}",
                )
            if offset % alignment:
                raise self._error(
                    "MV0211", "misaligned data", f"offset {offset}", f"a multiple of {alignment}"
                )
            size = values // block_values * block_bytes
            if start + offset + size > len(self._map):
                raise ModelError(
                    "MV0204",
                    "the file is truncated",
                    where=f"{self.path}: data of tensor {name!r}",
                    given=f"a file of {len(self._map)} bytes",
                    allowed=f"{start + offset + size} bytes or more",
                    hint="download the file again",
                )
            if name in self.tensors:
                raise self._error("MV0212", "a tensor occurs twice", repr(name), "unique names")
            self.tensors[name] = GgufTensor(name, type_name, shape, start + offset, size)
        end, last = start, "the header"
        for tensor in sorted(self.tensors.values(), key=lambda entry: entry.offset_bytes):
            if tensor.offset_bytes < end:
                raise self._error(
                    "MV0213", "tensors overlap", f"{last!r} and {tensor.name!r}", "disjoint data"
                )
            end, last = tensor.offset_bytes + tensor.size_bytes, tensor.name

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._map):
            raise ModelError(
                "MV0204",
                "the file is truncated",
                where=f"{self.path}: {self._what} at byte {self._at}",
                given=f"{len(self._map) - self._at} bytes left",
                allowed=f"{count} bytes",
                hint="download the file again",
            )
        piece = self._map[self._at : end]
        self._at = end
        return piece

    def _u32(self) -> int:
        return struct.unpack("<I", self._take(4))[0]

    def _u64(self) -> int:
        return struct.unpack("<Q", self._take(8))[0]

    def _string(self) -> str:
        raw = self._take(self._u64())
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._error(
                "MV0214", "a string is not UTF-8", repr(raw[:40]), "valid UTF-8"
            ) from error

    def _check_count(self, noun: str, count: int, least_bytes: int) -> None:
        left = len(self._map) - self._at
        if count * least_bytes > left:
            raise ModelError(
                "MV0204",
                f"the file is truncated: it cannot hold its {noun}",
                where=f"{self.path}: {self._what} at byte {self._at}",
                given=f"{count} {noun}, {left} bytes left",
                allowed=f"at most {left // least_bytes} {noun}",
                hint="download the file again",
            )

    def _error(self, code: str, what: str, given: str, allowed: str) -> ModelError:
        return ModelError(
            code,
            what,
            where=f"{self.path}: {self._what} at byte {self._at}",
            given=given,
            allowed=allowed,
            hint="download the file again, or convert the model anew with llama.cpp",
        )


def _map_file(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ModelError(
            "MV0201",
            "the model file cannot be read",
            where=str(path),
            given=str(error),
            allowed="a readable, non-empty file",
            hint="check the path and the permissions",
        ) from error
