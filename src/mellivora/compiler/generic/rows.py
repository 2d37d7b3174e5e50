"""Operations over whole rows: softmax, normalisations, reductions.

The axis they run along comes last in the scratchpad, wherever it lies in DRAM; a row must fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mellivora.compiler.generic.formulas import LOG2E
from mellivora.compiler.generic.move import copy
from mellivora.compiler.generic.tensors import View, collapse
from mellivora.compiler.generic.work import TILE_ELEMENTS, Work, indices, rows_tile, steps
from mellivora.compiler.kernel import Buffer, Kernel, RowVec, Tile
from mellivora.isa.modes import Func, Op, Reduce

Body = Callable[[Kernel, Tile, Tile, list[Tile], Buffer, int, int], None]
"""Called with (kernel, dst, x, constants, room for 3 numbers a row, rows, cols)."""


def rowwise(
    work: Work,
    x: View,
    out: View,
    body: Body,
    *,
    constants: Sequence[View] = (),
    out_cols: int | None = None,
) -> None:
    """out = body(x) over the last axis.

    constants: vectors of that axis. out_cols: columns that come out.
    """
    length = x.shape[-1]
    wide = length if out_cols is None else out_cols
    if not x.size:
        return
    sizes, strides = collapse(x.shape[:-1], [x.strides[:-1], out.strides[:-1]])
    if not sizes:
        sizes, strides = [1], [[0], [0]]
    source = View(x.dram, x.offset, (*sizes, length), (*strides[0], x.strides[-1]))
    target = View(out.dram, out.offset, (*sizes, wide), (*strides[1], out.strides[-1]))
    kernel, fixed = work.kernel, []
    for i, view in enumerate(constants):
        buffer = work.pad(f"constant{i}", 4 * length)
        work.load(view.reshape((length,)) or view, buffer.at(), (4,))
        fixed.append(Tile(buffer.at(), 0))
    row_bytes = 2 * 4 * (length + wide) + 3 * 4
    most = min(work.room_bytes, 16 * TILE_ELEMENTS) // row_bytes
    if most < 1:
        raise work.too_long(length, work.room_bytes // 20)
    share = -(-math.prod(sizes) // work.chip.cores)
    step = max(min(most, sizes[-1], share), 1)
    sets = [
        (
            work.pad(f"x.{t}", 4 * step * length),
            work.pad(f"y.{t}", 4 * step * wide),
        )
        for t in range(2)
    ]
    room = work.pad("stats", 12 * step)
    for index in indices(sizes[:-1]):
        for first, rows in steps(sizes[-1], step):
            with work.job() as turn:
                near, far = sets[turn]
                work.load(source.at(index).cut(0, first, rows), near.at(), (4 * length, 4))
                a, y = rows_tile(near, length), rows_tile(far, wide)
                body(kernel, y, a, fixed, room, rows, length)
                work.store(target.at(index).cut(0, first, rows), far.at(), (4 * wide, 4))


def _stat(room: Buffer, which: int) -> RowVec:
    return RowVec(room.at(which * room.size // 3), 4)


def _line(vector: RowVec) -> Tile:
    """The numbers of all rows as one row."""
    return Tile(vector.ref, 0)


def softmax(work: Work, x: View, axis: int) -> View:
    """2^((x - max) log2 e) / sum. Errors: 4 + |x - max| ulp."""
    out = work.new(x.shape, x.order)
    perm = _last(len(x.shape), (axis,))

    def body(
        k: Kernel, y: Tile, a: Tile, fixed: list[Tile], room: Buffer, rows: int, cols: int
    ) -> None:
        top, total = _stat(room, 0), _stat(room, 1)
        k.vred(top, a, rows=rows, cols=cols, op=Reduce.MAX)
        k.vew(y, a, rows=rows, cols=cols, op1=Op.SUB, b=top, op2=Op.MUL, c=LOG2E, func=Func.EXP2)
        k.vred(total, y, rows=rows, cols=cols, op=Reduce.SUM)
        k.vew(_line(total), _line(total), rows=1, cols=rows, func=Func.RECIP)
        k.vew(y, y, rows=rows, cols=cols, op1=Op.MUL, b=total)

    rowwise(work, x.permute(perm), out.permute(perm), body)
    return out


def layer_norm(work: Work, x: View, gamma: View, beta: View | None, eps: float) -> View:
    """(x - mean) rsqrt(variance + eps) gamma + beta over the last axis."""
    out = work.new(x.shape)

    def body(
        k: Kernel, y: Tile, a: Tile, fixed: list[Tile], room: Buffer, rows: int, cols: int
    ) -> None:
        mean, power = _stat(room, 0), _stat(room, 1)
        k.vred(mean, a, rows=rows, cols=cols, op=Reduce.SUM)
        k.vew(_line(mean), _line(mean), rows=1, cols=rows, op1=Op.MUL, b=1.0 / cols)
        k.vew(a, a, rows=rows, cols=cols, op1=Op.SUB, b=mean)
        _normalise(k, y, a, fixed, power, rows, cols, eps)

    rowwise(work, x, out, body, constants=[gamma, *([beta] if beta else [])])
    return out


def rms_norm(work: Work, x: View, gamma: View, eps: float) -> View:
    """x rsqrt(mean(x^2) + eps) gamma over the last axis."""
    out = work.new(x.shape)

    def body(
        k: Kernel, y: Tile, a: Tile, fixed: list[Tile], room: Buffer, rows: int, cols: int
    ) -> None:
        _normalise(k, y, a, fixed, _stat(room, 1), rows, cols, eps)

    rowwise(work, x, out, body, constants=[gamma])
    return out


def _normalise(
    k: Kernel, y: Tile, a: Tile, fixed: list[Tile], power: RowVec, rows: int, cols: int, eps: float
) -> None:
    k.vred(power, a, rows=rows, cols=cols, op=Reduce.SUMSQ)
    line = _line(power)
    k.vew(
        line, line, rows=1, cols=rows, op1=Op.MUL, b=1.0 / cols, op2=Op.ADD, c=eps, func=Func.RSQRT
    )
    k.vew(y, a, rows=rows, cols=cols, op1=Op.MUL, b=power, op2=Op.MUL, c=fixed[0])
    if len(fixed) > 1:
        k.vew(y, y, rows=rows, cols=cols, op1=Op.ADD, b=fixed[1])


def reduce(work: Work, x: View, kind: str, axes: Sequence[int]) -> View:
    """sum, max, min or mean; keeps the axes, of one element. Sums by the fixed tree."""
    rank = len(x.shape)
    axes = tuple(sorted(a % rank for a in axes)) or tuple(range(rank))
    out = work.new([1 if i in axes else n for i, n in enumerate(x.shape)])
    perm = _last(rank, axes)
    kept = rank - len(axes)
    moved, target = x.permute(perm), out.permute(perm)
    wanted = (*moved.shape[:kept], math.prod(moved.shape[kept:]))
    flat = moved.reshape(wanted)
    if flat is None:
        flat = work.temporary(copy(work, moved)).reshape(wanted)
        assert flat is not None
        work.barrier()
    result = View(
        target.dram, target.offset, (*target.shape[:kept], 1), (*target.strides[:kept], 1)
    )

    def body(
        k: Kernel, y: Tile, a: Tile, fixed: list[Tile], room: Buffer, rows: int, cols: int
    ) -> None:
        if kind == "min":
            k.vew(a, a, rows=rows, cols=cols, func=Func.NEG)
        op = Reduce.MAX if kind in ("max", "min") else Reduce.SUM
        k.vred(RowVec(y.ref, 4), a, rows=rows, cols=cols, op=op)
        line = Tile(y.ref, 0)
        if kind == "min":
            k.vew(line, line, rows=1, cols=rows, func=Func.NEG)
        if kind == "mean":
            k.vew(line, line, rows=1, cols=rows, op1=Op.MUL, b=1.0 / cols)

    rowwise(work, flat, result, body, out_cols=1)
    return out


def _last(rank: int, axes: Sequence[int]) -> list[int]:
    """A permutation that brings axes to the end."""
    chosen = [a % rank for a in axes]
    return [i for i in range(rank) if i not in chosen] + chosen
