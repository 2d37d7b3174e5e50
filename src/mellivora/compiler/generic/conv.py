"""Convolution and pooling over two axes: channels last, rows of pixels as rows of A.

A convolution is a product whose A is cut out of the image by strided LOADs: a row for each output
pixel, its columns (ky, kx, channel), so that a row of the kernel is one run of DRAM. Depthwise
convolution and pooling stay on VECTOR, tap by tap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mellivora.compiler.generic.matmul import (
    BMatrix,
    Rows,
    Segment,
    linear,
    product,
    round32,
    rows_per_block,
)
from mellivora.compiler.generic.move import copy, pad_constant
from mellivora.compiler.generic.tensors import View
from mellivora.compiler.generic.work import TILE_ELEMENTS, Work, steps
from mellivora.compiler.kernel import Kernel, Ref, RowVec, Tile
from mellivora.isa.modes import Op

Pair = tuple[int, int]
CHANNELS_LAST = (0, 2, 3, 1)


@dataclass(frozen=True)
class Window:
    """Sliding windows over an image [n, h, w, c] whose borders are already there."""

    kernel: Pair
    stride: Pair
    dilation: Pair
    count: Pair

    def taps(self) -> Iterator[Pair]:
        return ((y, x) for y in range(self.kernel[0]) for x in range(self.kernel[1]))


@dataclass(frozen=True)
class Patch:
    """Output pixels: `rows` rows from y, `cols` columns from x, of image n."""

    n: int
    y: int
    rows: int
    x: int
    cols: int

    @property
    def count(self) -> int:
        return self.rows * self.cols


def patches(images: int, count: Pair, most: int) -> list[Patch]:
    """Rectangles of at most `most` output pixels, whole rows where they fit."""
    high, wide = count
    cols = min(wide, most)
    rows = max(most // wide, 1) if cols == wide else 1
    return [
        Patch(n, y, r, x, c)
        for n in range(images)
        for y, r in steps(high, rows)
        for x, c in steps(wide, cols)
    ]


def bordered(work: Work, x: View, pads: Sequence[int], value: float) -> View:
    """x [n, c, h, w] as [n, h, w, c], the channels together, between borders of `value`."""
    last = x.permute(CHANNELS_LAST)
    before, after = (0, pads[0], pads[1], 0), (0, pads[2], pads[3], 0)
    if any(pads):
        number = work.arena.constant(np.full(1, value, np.float32))
        last = _padded(work, last, before, after, View.dense(number, (1, 1, 1, 1)))
    elif last.strides[3] != 1 and last.shape[3] > 1:
        last = work.temporary(copy(work, last))
    work.barrier()
    return last


def _padded(work: Work, x: View, before: Sequence[int], after: Sequence[int], value: View) -> View:
    """Borders around x, row major whatever the order of x."""
    shape = tuple(n + b + a for n, b, a in zip(x.shape, before, after, strict=True))
    return pad_constant(work, x, before, after, value, work.temporary(work.new(shape)))


def tap_order(weight: npt.NDArray[np.float32], dense: bool) -> npt.NDArray[np.float32]:
    """[m, c, ky, kx] as rows of columns (ky, kx, c); unless dense, each ky is padded to 32s."""
    moved = weight.transpose(0, 2, 3, 1)
    m, high = moved.shape[:2]
    runs = moved.reshape(m, high, -1)
    if not dense:
        wide = np.zeros((m, high, round32(runs.shape[2])), np.float32)
        wide[..., : runs.shape[2]] = runs
        runs = wide
    return np.ascontiguousarray(runs.reshape(m, -1))


def is_dense(kernel: Pair, channels: int) -> bool:
    """Whether the runs of a patch lie side by side: where padding each would be costly."""
    run = kernel[1] * channels
    return round32(run) * 4 > run * 5 and kernel[0] * run <= 1024


def convolve(
    work: Work,
    image: View,
    window: Window,
    groups: Sequence[BMatrix],
    channels: int,
    outputs: int,
    bias: View | None,
    *,
    relu: bool = False,
) -> View:
    """Cross-correlation of a bordered image; returns [n, m, h, w] with channels last in memory."""
    images = image.shape[0]
    out = work.new((images, *window.count, outputs))
    if not out.size:
        return out.permute((0, 3, 1, 2))
    each = outputs // len(groups)
    for number, b in enumerate(groups):
        part = image.cut(3, number * channels, channels)
        target = out.cut(3, number * each, each)
        mine = None if bias is None else bias.cut(0, number * each, each)
        rows = _rows(work, part, target, window, channels, each, b)
        product(work, rows, b, mine, relu=relu)
    return out.permute((0, 3, 1, 2))


def _rows(
    work: Work, image: View, out: View, window: Window, channels: int, outputs: int, b: BMatrix
) -> Rows:
    """Patches of the image as blocks of rows."""
    high, wide = window.kernel
    run = wide * channels
    pitch = run if is_dense(window.kernel, channels) else round32(run)
    depth = high * pitch
    pixels = image.shape[0] * window.count[0] * window.count[1]
    blocks = patches(image.shape[0], window.count, rows_per_block(work, pixels, depth, outputs))
    segments = (
        [Segment(0, high * run)] if pitch == run else [Segment(y * pitch, run) for y in range(high)]
    )

    def load(block: int, segment: Segment, near: Ref, row_bytes: int) -> None:
        """Columns of a patch: whole rows of the kernel, or part of one."""
        at, end = segment.at, segment.at + segment.count
        while at < end:
            y, first = divmod(at, pitch)
            tap, channel = divmod(first, channels)
            whole = (
                min((min(end, y * pitch + run) - at) // channels, wide - tap) if not channel else 0
            )
            count = min(channels - channel, end - at) if whole < 1 else channels
            taps = max(whole, 1)
            part = _patch(image, window, blocks[block], (y, tap), taps)
            part = part.cut(3, channel, count)
            pads = (blocks[block].cols * row_bytes, row_bytes, 4 * channels, 4)
            work.load(part, near.plus(4 * (at - segment.at)), pads)
            at += taps * count

    def target(block: int) -> View:
        p = blocks[block]
        part = out.at((p.n,)).cut(0, p.y, p.rows).cut(1, p.x, p.cols)
        flat = part.reshape((p.count, outputs))
        assert flat is not None, "a patch is whole rows, or part of one"
        return flat

    return Rows(depth, segments, [p.count for p in blocks], load, target)


def _patch(image: View, window: Window, p: Patch, tap: Pair, taps: int) -> View:
    """[rows, cols, taps, channels] of the input under output pixels p, from `tap` to the right."""
    (sy, sx), (dy, dx) = window.stride, window.dilation
    _, step_y, step_x, step_c = image.strides
    y, x = p.y * sy + tap[0] * dy, p.x * sx + tap[1] * dx
    offset = image.offset + 4 * (p.n * image.strides[0] + y * step_y + x * step_x)
    shape = (p.rows, p.cols, taps, image.shape[3])
    return View(image.dram, offset, shape, (sy * step_y, sx * step_x, dx * step_x, step_c))


def slide(
    work: Work,
    image: View,
    window: Window,
    *,
    kind: str,
    weight: View | None = None,
    bias: View | None = None,
    factors: View | None = None,
    relu: bool = False,
) -> View:
    """Windows on VECTOR, tap by tap: "max", "sum" (times factors [h * w]), or "depthwise".

    weight: [taps, c] and bias: [c], for depthwise.
    """
    kernel, (high, wide) = work.kernel, window.count
    images, channels = image.shape[0], image.shape[3]
    out = work.new((images, high, wide, channels))
    if not out.size:
        return out.permute((0, 3, 1, 2))
    taps = list(window.taps())
    fixed = 4 * channels * (len(taps) + 1) if weight is not None else 0
    group = channels
    while fixed + 20 * group > work.room_bytes and group > 1:  # split the channels
        group = -(-group // 2)
        fixed = 4 * group * (len(taps) + 1) if weight is not None else 0
    most = min((work.room_bytes - fixed) // (4 * group * 4 + 4), TILE_ELEMENTS // group + 1)
    most = max(min(most, -(-images * high * wide // work.chip.cores)), 1)
    room = [work.pad(f"tap.{t}", 4 * most * group) for t in range(2)]
    sums = [work.pad(f"sum.{t}", 4 * most * group) for t in range(2)]
    row = work.pad("factors", 4 * most)
    fixed_at = work.pad("weights", max(fixed, 4))
    for c0, c in steps(channels, group):
        if weight is not None and bias is not None:
            work.load(weight.cut(1, c0, c), fixed_at.at(), (4 * c, 4))
            work.load(bias.cut(0, c0, c), fixed_at.at(4 * c * len(taps)), (4,))
        part = image.cut(3, c0, c)
        for p in patches(images, window.count, most):
            with work.job() as turn:
                total = Tile(sums[turn].at(), 4 * c)
                for number, tap in enumerate(taps):
                    near = room[number % 2]
                    view = _patch(part, window, p, tap, 1)
                    pads = (4 * c * p.cols, 4 * c, 0, 4)
                    target = total.ref if not number and kind != "depthwise" else near.at()
                    work.load(view, target, pads)
                    if number or kind == "depthwise":
                        x, w = Tile(near.at(), 4 * c), Tile(fixed_at.at(4 * c * number), 0)
                        start = Tile(fixed_at.at(4 * c * len(taps)), 0)
                        _accumulate(
                            kernel, total, x, kind, w, total if number else start, p.count, c
                        )
                if factors is not None:
                    f = factors.reshape((high, wide))
                    assert f is not None
                    work.load(f.cut(0, p.y, p.rows).cut(1, p.x, p.cols), row.at(), (4 * p.cols, 4))
                    kernel.vew(
                        total, total, rows=p.count, cols=c, op1=Op.MUL, b=RowVec(row.at(), 4)
                    )
                if relu:
                    kernel.vew(total, total, rows=p.count, cols=c, op1=Op.MAX, b=0.0)
                target_view = out.at((p.n,)).cut(0, p.y, p.rows).cut(1, p.x, p.cols).cut(2, c0, c)
                work.store(target_view, total.ref, (4 * c * p.cols, 4 * c, 4))
    return out.permute((0, 3, 1, 2))


def _accumulate(
    kernel: Kernel,
    total: Tile,
    x: Tile,
    kind: str,
    weight: Tile,
    before: Tile,
    rows: int,
    cols: int,
) -> None:
    """total = before (+ or max) x; depthwise: before + x * weight."""
    if kind == "depthwise":
        kernel.vew(total, x, rows=rows, cols=cols, op1=Op.MUL, b=weight, op2=Op.ADD, c=before)
    else:
        op = Op.MAX if kind == "max" else Op.ADD
        kernel.vew(total, x, rows=rows, cols=cols, op1=op, b=before)


def pointwise(
    work: Work, x: View, b: BMatrix, outputs: int, bias: View | None, stride: Pair, relu: bool
) -> View:
    """A convolution of one tap: a product over pixels, wherever the channels lie."""
    last = x.permute(CHANNELS_LAST)
    for axis, step in enumerate(stride, 1):
        last = last.cut(axis, 0, -(-last.shape[axis] // step), step)
    return linear(work, last, b, outputs, bias, relu=relu).permute((0, 3, 1, 2))
