"""Matrix products with ranges of a model's features: (linear, first, end) to tiles and MATMULs.

Feature ranges of several matrices, laid side by side, make the columns of one product; a tile keeps
to one storage format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from mellivora.compiler.blocks import Quantised, Stream
from mellivora.compiler.ir import Operand
from mellivora.compiler.kernel import Tile
from mellivora.compiler.pack import Image, Part, TileSpec, Weights
from mellivora.compiler.plan import Linear
from mellivora.compiler.rounding import split

Segment: TypeAlias = tuple[Linear, int, int]
"""Output features [first, end) of a matrix; those past its end are zeros."""


def tile_spec(weights: Weights, linear: Linear, columns: int) -> TileSpec:
    """Geometry of a tile of so many output features."""
    blocks = weights.shape(linear.weight)[1] // 32
    return TileSpec(weights.fmt(linear.weight), columns, blocks)


def project(
    a: Quantised,
    stream: Stream,
    segments: list[list[Segment]],
    rows: Operand,
    consume: Callable[[int, int, Tile], None],
    *,
    weights: Weights,
    images: list[Image],
    rows_max: int,
    width: int = 0,
) -> None:
    """A @ weights for feature ranges side by side; segments: one list an image, of equal widths.

    consume(first, columns, accumulators) is called for each tile in order of virtual columns. A
    tile keeps to one storage format and at most `width` (default: the chip's) columns.
    """
    for run_first, run in _runs(segments, weights):
        total = sum(end - start for _, start, end in run[0])
        for first, end in split(total, width or stream.kernel.chip.columns):
            tile = None
            for image, parts in zip(images, run, strict=True):
                picked = _pick(parts, first, end)
                tile = image.tile(tile_spec(weights, parts[0][0], end - first), picked)
            assert tile is not None
            consume(run_first + first, end - first, stream.matmul(a, tile, rows, rows_max))


def _runs(
    segments: list[list[Segment]], weights: Weights
) -> Iterator[tuple[int, list[list[Segment]]]]:
    """Neighbouring segments of one format: (first virtual column, segments of every image)."""
    first, count = 0, len(segments[0])
    start = 0
    while start < count:
        fmt = weights.fmt(segments[0][start][0].weight)
        end = start
        while end < count and weights.fmt(segments[0][end][0].weight) == fmt:
            end += 1
        yield first, [parts[start:end] for parts in segments]
        first += sum(stop - begin for _, begin, stop in segments[0][start:end])
        start = end


def _pick(parts: list[Segment], first: int, end: int) -> list[Part]:
    """Feature ranges behind virtual columns first..end."""
    picked: list[Part] = []
    at = 0
    for linear, start, stop in parts:
        low, high = max(first, at), min(end, at + stop - start)
        if low < high:
            picked.append((linear.weight, start + low - at, start + high - at))
        at += stop - start
    return picked
