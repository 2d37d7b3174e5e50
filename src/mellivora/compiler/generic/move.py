"""Movement that views cannot express: copies, joins, padding, rows picked by index."""

from __future__ import annotations

from collections.abc import Sequence

from mellivora.compiler.generic.tensors import View, collapse
from mellivora.compiler.generic.work import TILE_ELEMENTS, Work, indices, steps
from mellivora.compiler.ir import Reg
from mellivora.compiler.kernel import Ref


def copy(work: Work, x: View, out: View | None = None) -> View:
    """The same elements, dense and row major (or in `out`), tile by tile through the scratchpad.

    A tile spans the fastest axis of both sides where they differ, so that neither moves single
    words.
    """
    out = work.new(x.shape) if out is None else out
    if not x.size:
        return out
    sizes, strides = collapse(x.shape, [x.strides, out.strides])
    sizes, strides = sizes or [1], strides if sizes else [[0], [1]]
    source = View(x.dram, x.offset, tuple(sizes), tuple(strides[0]))
    target = View(out.dram, out.offset, tuple(sizes), tuple(strides[1]))
    most = max(min(work.room_bytes // 8, TILE_ELEMENTS, -(-x.size // work.chip.cores)), 1)
    tile = _tile(source, target, most)
    size = 1
    for n in tile:
        size *= n
    sets = [work.pad(f"copy.{t}", 4 * size) for t in range(2)]
    for index in indices([-(-n // t) for n, t in zip(sizes, tile, strict=True)]):
        with work.job() as turn:
            a, b = source, target
            for axis, i in enumerate(index):
                count = min(tile[axis], sizes[axis] - i * tile[axis])
                a, b = (v.cut(axis, i * tile[axis], count) for v in (a, b))
            pads = View.dense(a.dram, b.shape, b.order).strides
            near = sets[turn].at()
            work.load(a, near, [4 * p for p in pads])
            work.store(b, near, [4 * p for p in pads])
    return out


def _tile(source: View, target: View, most: int) -> list[int]:
    """Elements a tile has along each axis: the fastest axes of both sides grow in turn."""
    tile = [1] * len(source.shape)
    size = 1
    fast = [list(reversed(v.order)) for v in (source, target)]
    chosen: list[int] = []
    for pair in zip(*fast, strict=True):
        chosen += [axis for axis in dict.fromkeys(pair) if axis not in chosen]
    first = list(dict.fromkeys(f[0] for f in fast))
    for axis in chosen:
        room = most // size
        if len(first) == 2 and axis == first[0]:
            room = min(room, max(int(most**0.5), 1))
        tile[axis] = max(min(source.shape[axis], room), 1)
        size *= tile[axis]
    return tile


def concat(work: Work, parts: Sequence[View], axis: int) -> View:
    """Views joined along an axis."""
    shape = list(parts[0].shape)
    axis %= len(shape)
    shape[axis] = sum(p.shape[axis] for p in parts)
    out, at = work.new(shape), 0
    for part in parts:
        _place(work, part, out.cut(axis, at, part.shape[axis]))
        at += part.shape[axis]
    return out


def _place(work: Work, part: View, out: View) -> None:
    """copy with scratchpad of its own."""
    base = work.kernel.free_bytes
    copy(work, part, out)
    work.kernel.free_bytes = base


def pad_constant(
    work: Work, x: View, before: Sequence[int], after: Sequence[int], value: View, out: View
) -> View:
    """`out` = x between borders of one value; value: that element, anywhere in DRAM."""
    inner = out
    for axis, (b, n) in enumerate(zip(before, x.shape, strict=True)):
        for start, count in ((0, b), (b + n, after[axis])):
            if count:
                border = inner.cut(axis, start, count)
                _place(work, value.broadcast(border.shape), border)
        inner = inner.cut(axis, b, n)
    _place(work, x, inner)
    return out


def gather_constant(
    work: Work, x: View, places: Sequence[int], axis: int, shape: Sequence[int]
) -> View:
    """x at known places along an axis; runs of consecutive places go together."""
    pre, post = x.shape[:axis], x.shape[axis + 1 :]
    out = work.new((*pre, len(places), *post))
    at = 0
    while at < len(places):
        end = at + 1
        while end < len(places) and places[end] == places[end - 1] + 1:
            end += 1
        _place(work, x.cut(axis, places[at], end - at), out.cut(axis, at, end - at))
        at = end
    whole = out.reshape(shape)
    assert whole is not None
    return whole


def gather_rows(
    work: Work, x: View, first: int, count: int, axis: int, shape: Sequence[int]
) -> View:
    """x along an axis at the places that parameters first..first+count hold."""
    pre, post = x.shape[:axis], x.shape[axis + 1 :]
    out = work.new((*pre, count, *post))
    sizes, strides = collapse(post, [x.strides[axis + 1 :]])
    width = 1
    for n in post:
        width *= n
    most = max(min(work.room_bytes // 8, TILE_ELEMENTS) // max(width, 1), 1)
    if 8 * width > work.room_bytes:
        raise work.too_long(width, work.room_bytes // 8)
    share = -(-count // work.chip.cores)
    step = min(most, count, share)
    sets = [work.pad(f"rows.{t}", 4 * step * width) for t in range(2)]
    pads = View.dense(x.dram, sizes).strides
    for index in indices(pre):
        source = x.at(index)
        for start, rows in steps(count, step):
            with work.job() as turn, work.kernel.temps(2) as (pitch, place):
                work.kernel.scalar("li", pitch, 4 * x.strides[axis])
                for row in range(rows):
                    work.kernel.scalar("ldp", place, first + start + row)
                    work.kernel.scalar("mul", place, place, pitch)
                    near = sets[turn].at(4 * row * width)
                    _load_row(work, source, place, near, sizes, strides[0], pads)
                target = out.at(index).cut(0, start, rows)
                flat = target.reshape((rows, width))
                assert flat is not None
                work.store(flat, sets[turn].at(), (4 * width, 4))
    whole = out.reshape(shape)
    assert whole is not None
    return whole


def _load_row(
    work: Work,
    source: View,
    place: Reg,
    near: Ref,
    sizes: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
) -> None:
    """One row: `place` bytes behind the start of source."""
    dims = [(n, 4 * s, 4 * p) for n, s, p in zip(sizes, strides, pads, strict=True)][::-1]
    run = 4
    if dims and dims[0][1] == 4:
        run = 4 * dims.pop(0)[0]
    if len(dims) > 3:
        given = f"rows in pieces of {len(dims)} strides"
        raise work.no_form(given, "at most 3", "transpose before the gather")
    with work.kernel.temps(1) as (exact,):
        work.kernel.scalar("add", exact, place, source.offset % 32)
        work.kernel.dma(
            "load",
            near,
            window=source.dram.window,
            offset=source.offset // 32,
            fine=exact,
            n=(run, *(n for n, _, _ in dims)),
            d=tuple(d for _, d, _ in dims),
            p=tuple(p for _, _, p in dims),
            far=source.dram.region,
            near_size=run + sum((n - 1) * p for n, _, p in dims),
        )
