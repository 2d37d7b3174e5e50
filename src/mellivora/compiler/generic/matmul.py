"""Matrix products on MATRIX: rows quantised on VECTOR, B packed beforehand or on the chip."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mellivora import numerics
from mellivora.compiler.blocks import Quantised, Ring, matmul
from mellivora.compiler.generic.move import copy
from mellivora.compiler.generic.tensors import Dram, View
from mellivora.compiler.generic.work import Work, indices, rows_tile, steps
from mellivora.compiler.kernel import Buffer, Ref, Tile
from mellivora.compiler.pack import PackedTile, TileSpec, Weights, pack_tile
from mellivora.errors import CompileError
from mellivora.graph.ir import Graph
from mellivora.isa.modes import Op

FORMATS = {1: "mxint8", 2: "x2", 3: "x3"}
PANEL_BYTES = 128 * 1024


@dataclass(frozen=True)
class BMatrix:
    """B of [n, k] in tiles of at most `columns` rows of n, in the order that MATRIX reads."""

    dram: Dram
    tiles: tuple[tuple[int, TileSpec], ...]
    """(byte in the window, geometry) of each."""


@dataclass(frozen=True)
class Segment:
    """Columns [at, at + count) of A, from 32 to 32 padded with zeros: one thing to load."""

    at: int
    count: int


@dataclass
class Rows:
    """A of [rows, k] in numbered blocks of rows, of counts[i] rows each.

    load(block, segment, near, row_bytes): a segment of all rows of a block, as FP32 to the
    scratchpad. out(block): where its rows go, [rows, n].
    """

    k: int
    segments: list[Segment]
    counts: list[int]
    load: Callable[[int, Segment, Ref, int], None]
    out: Callable[[int], View]


def round32(k: int) -> int:
    return -(-k // 32) * 32


def pack_constant(work: Work, matrix: npt.NDArray[np.float32] | numerics.BlockTensor) -> BMatrix:
    """A matrix [n, k] of constants; a block tensor keeps its format."""
    fmt = FORMATS[work.slices]
    if isinstance(matrix, np.ndarray):
        padded = np.zeros((matrix.shape[0], round32(matrix.shape[1])), np.float32)
        padded[:, : matrix.shape[1]] = matrix
        matrix = numerics.quantize(padded, fmt)
    n, k = matrix.shape
    weights = Weights(Graph("", (), (), [], {}, {}), fmt, {"b": matrix})
    tiles: list[tuple[int, TileSpec]] = []
    parts: list[npt.NDArray[np.uint8]] = []
    at = 0
    for start, count in steps(n, work.chip.columns):
        spec = TileSpec(matrix.fmt, count, k // 32)
        parts.append(pack_tile(PackedTile(0, spec, (("b", start, start + count),)), weights))
        tiles.append((at, spec))
        at += spec.size
    dram = work.arena.constant(np.concatenate(parts))
    return BMatrix(dram, tuple((dram.start + offset, spec) for offset, spec in tiles))


def pack_view(work: Work, b: View) -> BMatrix:
    """A matrix [k, n] of activations, packed on the chip: its columns quantised along k."""
    k, n = b.shape
    kpad, slices = round32(k), work.slices
    specs = [(s, TileSpec(FORMATS[slices], c, kpad // 32)) for s, c in steps(n, work.chip.columns)]
    dram = work.scratch(sum(spec.size for _, spec in specs))
    base = work.kernel.free_bytes
    wide = min(n, work.chip.columns)
    per_k = 2 * wide * (4 + slices + 1)
    step = max(min(kpad, work.room_bytes // per_k // 32 * 32), 32)
    sets = [
        (
            work.pad(f"b.{t}", 4 * wide * step),
            work.pad(f"codes.{t}", slices * wide * step),
            work.pad(f"scales.{t}", wide * step // 32),
        )
        for t in range(2)
    ]
    tiles: list[tuple[int, TileSpec]] = []
    at = dram.start
    for start, spec in specs:
        tiles.append((at, spec))
        for first, width in steps(kpad, step):
            with work.job() as turn:
                _pack_panel(work, b, dram, at, start, spec, first, width, k, *sets[turn])
        at += spec.size
    work.kernel.free_bytes = base
    return BMatrix(dram, tuple(tiles))


def _pack_panel(
    work: Work,
    b: View,
    dram: Dram,
    tile_at: int,
    column: int,
    spec: TileSpec,
    first: int,
    width: int,
    k: int,
    near: Buffer,
    codes: Buffer,
    scales: Buffer,
) -> None:
    """[first, first + width) of k of one tile: load across, quantise, store interleaved."""
    n, real = spec.columns, max(min(k - first, width), 0)
    work.load(b.cut(0, first, real).cut(1, column, n), near.at(), (4, 4 * width))
    if real < width:
        work.fill_zero(near.at(4 * real), n, 4 * (width - real), 4 * width)
    plane = n * width
    work.kernel.vquant(
        Tile(codes.at(), width),
        Tile(scales.at(), width // 32),
        rows_tile(near, width),
        rows=n,
        cols=width,
        slices=spec.slices,
        plane=plane,
    )
    blocks, at = width // 32, tile_at + first // 32 * spec.block_bytes
    for j in range(spec.slices):
        dims = [(n, 4, width), (8, 4 * n, 4), (blocks, spec.block_bytes, 32)]
        work.move("store", dram, at + j * 32 * n, codes.at(j * plane), dims)
    dims = [(n, 1, width // 32), (blocks, spec.block_bytes, 1)]
    work.move("store", dram, at + spec.slices * 32 * n, scales.at(), dims, 1)


def product(
    work: Work, a: Rows, b: BMatrix, bias: View | None, *, relu: bool = False, batch: int = 1
) -> None:
    """A @ B^T (+ bias [n]), stored where `a.out` says. batch: products like this one in a row."""
    kernel, most = work.kernel, max(a.counts)
    kpad = b.tiles[0][1].blocks * 32
    base = kernel.free_bytes
    near_bias = None
    n = sum(spec.columns for _, spec in b.tiles)
    if bias is not None:
        near_bias = work.pad("bias", 4 * n)
        work.load(bias, near_bias.at(), (4,))
    quantised = [
        Quantised.alloc(kernel, f"{work.where}.a.{t}", most, kpad, work.slices) for t in range(1)
    ]
    panels = _panels(a.segments, max(min(PANEL_BYTES, work.room_bytes // 4) // (4 * most), 32))
    widest = max(end - start for start, end, _ in panels)
    near = [work.pad(f"panel.{t}", 4 * most * widest) for t in range(2)]
    wide = min(n, work.chip.columns)
    outs = [work.pad(f"out.{t}", 4 * most * wide) for t in range(2)]
    ring = Ring(work.pad("ring", max(min(work.room_bytes, 512 * 1024), 0)))
    groups = min(max(work.chip.cores // (len(a.counts) * batch), 1), len(b.tiles))
    for block, rows in enumerate(a.counts):
        for group in range(groups):
            with work.job():
                _quantise(work, a, block, rows, panels, near, quantised[0])
                first = 0
                for number, (at, spec) in enumerate(b.tiles):
                    if number % groups == group:
                        tile = _tile_product(work, quantised[0], ring, b.dram, at, spec, rows)
                        out = rows_tile(outs[number % 2], spec.columns)
                        _finish(work, out, tile, near_bias, first, rows, spec.columns, relu)
                        target = a.out(block).cut(1, first, spec.columns)
                        work.store(target, out.ref, (4 * spec.columns, 4))
                    first += spec.columns
    kernel.free_bytes = base


def _finish(
    work: Work,
    out: Tile,
    acc: Tile,
    bias: Buffer | None,
    first: int,
    rows: int,
    cols: int,
    relu: bool,
) -> None:
    """Accumulators to the scratchpad, bias and ReLU on the way."""
    stages: list[tuple[Op, Tile | float]] = []
    if bias is not None:
        stages.append((Op.ADD, Tile(bias.at(4 * first), 0)))
    if relu:
        stages.append((Op.MAX, 0.0))
    stages += [(Op.NONE, 0.0)] * (2 - len(stages))
    (op1, b), (op2, c) = stages
    work.kernel.vew(out, acc, rows=rows, cols=cols, op1=op1, b=b, op2=op2, c=c)


def _panels(segments: Sequence[Segment], cols: int) -> list[tuple[int, int, list[Segment]]]:
    """(start, end, segments) of pieces whose FP32 fits; long ones are cut at multiples of 32."""
    pieces = [
        Segment(s.at + first, count)
        for s in segments
        for first, count in steps(s.count, max(cols // 32 * 32, 32))
    ]
    out: list[tuple[int, int, list[Segment]]] = []
    for piece in pieces:
        end = round32(piece.at + piece.count)
        if out and end - out[-1][0] <= cols:
            out[-1] = (out[-1][0], end, [*out[-1][2], piece])
        else:
            out.append((piece.at, end, [piece]))
    return out


def _quantise(
    work: Work,
    a: Rows,
    block: int,
    rows: int,
    panels: Sequence[tuple[int, int, list[Segment]]],
    near: Sequence[Buffer],
    target: Quantised,
) -> None:
    for turn, (start, end, segments) in enumerate(panels):
        buffer, width = near[turn % 2], end - start
        for segment in segments:
            at = segment.at - start
            a.load(block, segment, buffer.at(4 * at), 4 * width)
            gap = round32(segment.at + segment.count) - segment.at - segment.count
            if gap:
                work.fill_zero(buffer.at(4 * (at + segment.count)), rows, 4 * gap, 4 * width)
        target.write(work.kernel, rows_tile(buffer, width), rows=rows, cols=width, first=start)


def _tile_product(
    work: Work, a: Quantised, ring: Ring, dram: Dram, at: int, spec: TileSpec, rows: int
) -> Tile:
    """acc = A @ tile, its bytes brought in chunks along k."""
    acc = work.kernel.accumulators(rows)
    per_chunk = max(min(spec.blocks, ring.buffer.size // 3 // spec.block_bytes), 1)
    for first, count in steps(spec.blocks, per_chunk):
        size = count * spec.block_bytes
        ref = ring.next(size)
        work.move("load", dram, at + first * spec.block_bytes, ref, [], size)
        matmul(work.kernel, acc, a, ref, spec, rows=rows, first=first, count=count)
    return Tile(acc.at(), 4 * work.chip.columns)


def rows_per_block(work: Work, rows: int, k: int, n: int, batch: int = 1) -> int:
    """Rows of A at a time: what scratchpad and half the accumulators hold, shared by the cores."""
    kpad, wide = round32(k), min(n, work.chip.columns)
    fixed = 4 * n + 3 * wide * (32 * work.slices + 1)
    each = work.slices * kpad + kpad // 32 + 2 * 4 * wide + 2 * 4 * 32
    fit = (work.room_bytes - fixed) // each
    if fit < 1:
        raise CompileError(
            "MV0437",
            "a product is too deep for the scratchpad",
            where=work.where,
            given=f"k = {k} in {work.slices} slices",
            allowed=f"{work.room_bytes} bytes of scratchpad",
            hint="use fewer slices, or a chip with more sram_bytes",
        )
    share = max(-(-rows // max(work.chip.cores // batch, 1)), 16)
    return max(min(fit * 3 // 4, work.chip.accumulator_rows // 2, share, rows), 1)


def view_rows(work: Work, a: View, out: View, n: int, batch: int = 1) -> Rows:
    """A and the result as views, [rows, k] and [rows, n]."""
    step = rows_per_block(work, a.shape[0], a.shape[1], n, batch)
    blocks = list(steps(a.shape[0], step))

    def load(block: int, segment: Segment, near: Ref, row_bytes: int) -> None:
        part = a.cut(0, *blocks[block]).cut(1, segment.at, segment.count)
        work.load(part, near, (row_bytes, 4))

    return Rows(
        a.shape[1],
        [Segment(0, a.shape[1])],
        [count for _, count in blocks],
        load,
        lambda block: out.cut(0, *blocks[block]),
    )


def linear(
    work: Work, x: View, b: BMatrix, n: int, bias: View | None, *, relu: bool = False
) -> View:
    """x [.., k] @ B^T (+ bias), nothing below zero with relu."""
    k = x.shape[-1]
    out = work.new((*x.shape[:-1], n))
    if not out.size:
        return out
    flat = x.reshape((math.prod(x.shape[:-1]), k))
    if flat is None:
        flat = work.temporary(copy(work, x)).reshape((math.prod(x.shape[:-1]), k))
        work.barrier()
        assert flat is not None
    target = out.reshape((flat.shape[0], n))
    assert target is not None
    product(work, view_rows(work, flat, target, n), b, bias, relu=relu)
    return out


def batched(work: Work, a: View, b: View, shape: Sequence[int]) -> View:
    """a @ b of activations, broadcast over leading axes: [.., m, k] @ [.., k, n]."""
    (m, k), n = a.shape[-2:], b.shape[-1]
    out = work.new((*shape, m, n))
    if not out.size:
        return out
    a, b = a.broadcast((*shape, m, k)), b.broadcast((*shape, k, n))
    packed: dict[int, BMatrix] = {}
    batch = math.prod(shape)
    for index in indices(shape):
        view = b.at(index)
        if view.offset not in packed:
            packed[view.offset] = pack_view(work, view)
    work.barrier()
    for index in indices(shape):
        rows = view_rows(work, a.at(index), out.at(index), n, batch)
        product(work, rows, packed[b.at(index).offset], None, batch=batch)
    return out
