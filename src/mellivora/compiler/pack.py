"""Weight tiles in the order in which MATRIX reads them, and the images they make up.

A tile is up to `columns` output features times all of k: for each block of 32 along k, `dwords`
rows of [column][4 bytes], then the columns' scales. Codes keep their block format; packing only
moves bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mellivora import numerics
from mellivora.compiler.rounding import round_up
from mellivora.errors import CompileError
from mellivora.graph.ir import Graph, ParamSpec
from mellivora.isa.modes import B_DWORDS, B_SCALE_BYTES, BFormat

Bytes = npt.NDArray[np.uint8]
ALIGN_BYTES = 64

B_FORMAT = {
    "mxint8": BFormat.MX8,
    "x2": BFormat.MX8,
    "x3": BFormat.MX8,
    "mxfp6": BFormat.MXFP6,
    "mxfp4": BFormat.MXFP4,
    "q8_0": BFormat.Q8_0,
    "q4_0": BFormat.Q4_0,
    "q4_1": BFormat.Q4_1,
}
SLICES = {"x2": 2, "x3": 3}
Part = tuple[str, int, int]
"""Parameter name, first row, end row; rows past the parameter's end are zeros."""


@dataclass(frozen=True)
class TileSpec:
    """Geometry of a packed tile."""

    fmt: str
    columns: int
    blocks: int

    @property
    def b_format(self) -> BFormat:
        return B_FORMAT[self.fmt]

    @property
    def slices(self) -> int:
        return SLICES.get(self.fmt, 1)

    @property
    def block_bytes(self) -> int:
        b = self.b_format
        return self.columns * (4 * B_DWORDS[b] * self.slices + B_SCALE_BYTES[b])

    @property
    def size(self) -> int:
        return self.blocks * self.block_bytes


@dataclass(frozen=True)
class PackedTile:
    """A tile at byte `offset` of its image; parts say which features its columns are."""

    offset: int
    spec: TileSpec
    parts: tuple[Part, ...]


@dataclass
class Image:
    """What one core (or all, by multicast) loads, in order of use: tiles and constant blocks."""

    size: int = 0
    tiles: list[PackedTile] = field(default_factory=list)
    constants: list[tuple[int, list[tuple[str, int, int]]]] = field(default_factory=list)

    def place(self, size: int) -> int:
        offset = self.size
        self.size = round_up(offset + size, ALIGN_BYTES)
        return offset

    def tile(self, spec: TileSpec, parts: Sequence[Part]) -> PackedTile:
        self.tiles.append(PackedTile(self.place(spec.size), spec, tuple(parts)))
        return self.tiles[-1]

    def constant(self, parts: list[tuple[str, int, int]]) -> tuple[int, int]:
        """FP32 vectors side by side, each (parameter, start, end): (offset, bytes)."""
        size = 4 * sum(end - start for _, start, end in parts)
        offset = self.place(size)
        self.constants.append((offset, parts))
        return offset, size


@dataclass
class Weights:
    """Parameters of a graph in the formats the chip keeps them in."""

    graph: Graph
    dense_format: str
    cache: dict[str, numerics.BlockTensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def fmt(self, name: str) -> str:
        """Storage format of a matrix; unquantised ones get `dense_format` (slices)."""
        fmt = getattr(self.graph.params[name], "fmt", None)
        if isinstance(fmt, str) and fmt in B_FORMAT:
            return fmt
        return self.dense_format

    def shape(self, name: str) -> tuple[int, int]:
        rows, k = self.graph.params[name].shape
        if k % 32:
            raise CompileError(
                "MV0411",
                "a weight's width is no multiple of 32",
                where=name,
                given=str(k),
                allowed="a multiple of 32",
                hint="pad the model's width",
            )
        return int(rows), int(k)

    @property
    def shapes_only(self) -> bool:
        return any(isinstance(p, ParamSpec) for p in self.graph.params.values())

    def matrix(self, name: str) -> numerics.BlockTensor:
        if name not in self.cache:
            tensor: Any = self.graph.params[name]
            if not isinstance(tensor, numerics.BlockTensor):
                self.notes.append(f"{name}: {tensor.dtype} kept as {self.dense_format}")
                tensor = numerics.quantize(np.asarray(tensor, np.float32), self.dense_format)
            elif tensor.fmt not in B_FORMAT:
                self.notes.append(f"{name}: {tensor.fmt} converted to {self.dense_format}")
                tensor = numerics.quantize(tensor.dequantize(), self.dense_format)
            self.cache[name] = tensor
        return self.cache[name]

    def vector(self, name: str) -> npt.NDArray[np.float32]:
        tensor: Any = self.graph.params[name]
        values = tensor.dequantize() if hasattr(tensor, "dequantize") else tensor
        return np.asarray(values, np.float32).reshape(-1)


def pack_image(image: Image, weights: Weights) -> Bytes:
    """The bytes of an image."""
    out = np.zeros(image.size, np.uint8)
    for tile in image.tiles:
        out[tile.offset : tile.offset + tile.spec.size] = pack_tile(tile, weights)
    for offset, parts in image.constants:
        at = offset
        for name, start, end in parts:
            values = np.zeros(end - start, np.float32)
            source = weights.vector(name)[start:end]
            values[: len(source)] = source
            out[at : at + values.nbytes] = values.view(np.uint8)
            at += values.nbytes
    return out


def _rows(array: npt.NDArray[Any], start: int, end: int) -> npt.NDArray[Any]:
    """Rows start..end, zero beyond the array's end."""
    part = array[start : min(end, len(array))]
    if end - start == len(part):
        return part
    padded = np.zeros((end - start, *array.shape[1:]), array.dtype)
    padded[: len(part)] = part
    return padded


def pack_tile(tile: PackedTile, weights: Weights) -> Bytes:
    """Bytes of one tile."""
    tensors = [(weights.matrix(name), start, end) for name, start, end in tile.parts]

    def gather(pick: Any) -> npt.NDArray[Any]:
        return np.concatenate([_rows(pick(t), start, end) for t, start, end in tensors])

    spec = tile.spec
    n, blocks, dwords = spec.columns, spec.blocks, B_DWORDS[spec.b_format]
    rows: list[Bytes] = []
    for j in range(spec.slices):
        codes = gather(lambda t, j=j: t.codes[j])
        if dwords == 8:
            packed = codes.view(np.uint8).reshape(n, blocks, 8, 4)
        else:
            packed = _pack_narrow(codes.reshape(n, blocks, 32), spec.fmt).reshape(
                n, blocks, dwords, 4
            )
        rows.append(packed.transpose(1, 2, 0, 3).reshape(blocks, -1))
    scales = np.ascontiguousarray(gather(lambda t: t.scales).T)
    rows.append(scales.view(np.uint8).reshape(blocks, -1))
    if spec.b_format == BFormat.Q4_1:
        offsets = np.ascontiguousarray(gather(lambda t: t.offsets).T)
        rows.append(offsets.view(np.uint8).reshape(blocks, -1))
    return np.concatenate(rows, axis=1).reshape(-1)


def _pack_narrow(codes: npt.NDArray[Any], fmt: str) -> Bytes:
    """Codes [n, blocks, 32] of 4 or 6 bits to bytes [n, blocks, 16 or 24]."""
    if fmt == "mxfp6":
        return numerics.pack_fp6(codes)
    if fmt == "mxfp4":
        nibbles = numerics.fp4_nibbles(codes)
    else:
        nibbles = (codes + (8 if fmt == "q4_0" else 0)).astype(np.uint8)
    return (nibbles[..., :16] | nibbles[..., 16:] << 4).astype(np.uint8)


def row_table(tensor: numerics.BlockTensor) -> tuple[Bytes, int]:
    """Embedding rows for VDEQ: [codes | scales | offsets], pitch a multiple of 32 bytes."""
    rows, k = tensor.shape
    if tensor.fmt in ("q4_0", "q4_1"):
        parts = [
            _pack_narrow(tensor.codes[0].reshape(rows, k // 32, 32), tensor.fmt).reshape(rows, -1)
        ]
    else:
        parts = [tensor.codes[j].view(np.uint8).reshape(rows, k) for j in range(tensor.slices)]
    parts.append(np.ascontiguousarray(tensor.scales).view(np.uint8).reshape(rows, -1))
    if tensor.offsets is not None:
        parts.append(np.ascontiguousarray(tensor.offsets).view(np.uint8).reshape(rows, -1))
    size = sum(p.shape[1] for p in parts)
    pitch = round_up(size, 32)
    table = np.zeros((rows, pitch), np.uint8)
    table[:, :size] = np.concatenate(parts, axis=1)
    return table, pitch
