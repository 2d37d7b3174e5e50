"""Elementwise operations: one pass over the elements, tile by tile, any broadcast.

Axes are walked in the order in which the largest operand lies in memory and joined where all
operands step evenly; the last two axes make tiles, the others are counted out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mellivora.compiler.generic.formulas import Pen
from mellivora.compiler.generic.tensors import View, collapse
from mellivora.compiler.generic.work import TILE_ELEMENTS, Work, indices, rows_tile, steps
from mellivora.compiler.kernel import Buffer, RowVec, Term, Tile

Operand = View | float
Body = Callable[..., None]
"""Called with (pen, dst, *operands)."""


def elementwise(
    work: Work,
    shape: Sequence[int],
    operands: Sequence[Operand],
    body: Body,
    *,
    spare: int = 0,
    dense: Sequence[int] = (),
) -> View:
    """A new tensor of `shape` made by `body`. dense: operands that must come as whole tiles."""
    views = [v.broadcast(shape) for v in operands if isinstance(v, View)]
    largest = max(views, key=lambda v: sum(s != 0 for s in v.strides))
    out = work.new(shape, largest.order)
    if not out.size:
        return out
    order = out.order
    everyone = [*views, out]
    sizes, strides = collapse(
        [shape[i] for i in order], [[v.strides[i] for i in order] for v in everyone]
    )
    while len(sizes) < 2:
        sizes.insert(0, 1)
        for one in strides:
            one.insert(0, 0)
    flat = [View(v.dram, v.offset, tuple(sizes), tuple(s)) for v, s in zip(everyone, strides)]
    names = iter(flat)
    plan: list[_Plan | float] = []
    for index, operand in enumerate(operands):
        plan.append(operand if isinstance(operand, float) else _Plan(next(names), index in dense))
    _walk(work, sizes, plan, flat[-1], body, spare)
    return out


class _Plan:
    """How an operand of [rows, cols] comes to the scratchpad."""

    def __init__(self, view: View, dense: bool) -> None:
        self.view = view
        rows, cols = (s != 0 or n == 1 for s, n in zip(view.strides[-2:], view.shape[-2:]))
        self.kind = "tile" if dense or (rows and cols) else "row" if cols else "column"
        if view.shape[-2] == 1 and view.strides[-1] != 0:
            self.kind = "tile"

    def elements(self, rows: int, cols: int) -> int:
        return {"tile": rows * cols, "row": cols, "column": rows}[self.kind]

    def load(self, work: Work, buffer: Buffer, index: Any, r: Any, c: Any) -> Tile:
        """Rows r and columns c, (first, count) each, behind the outer index."""
        view = self.view.at(index).cut(0, *r).cut(1, *c)
        if self.kind == "tile":
            work.load(view, buffer.at(), (4 * c[1], 4))
            return rows_tile(buffer, c[1])
        if self.kind == "row":
            work.load(view.cut(0, 0, 1), buffer.at(), (0, 4))
            return Tile(buffer.at(), 0)
        same = view.strides[0] == 0
        work.load(view.cut(1, 0, 1).cut(0, 0, 1 if same else r[1]), buffer.at(), (4, 0))
        return RowVec(buffer.at(), 0 if same else 4)


def _walk(
    work: Work,
    sizes: Sequence[int],
    plan: Sequence[_Plan | float],
    out: View,
    body: Body,
    spare: int,
) -> None:
    outer, rows, cols = sizes[:-2], sizes[-2], sizes[-1]
    live = [p for p in plan if isinstance(p, _Plan)]
    room = work.room_bytes // 4
    most = room // (2 * (len(live) + 1) + spare)
    most = max(min(most, TILE_ELEMENTS, _share(work, out.size)), 1)
    col_step = min(cols, most)
    row_step = max(min(rows, most // col_step), 1)
    sets = [
        (
            [
                work.pad(f"in{i}.{t}", 4 * p.elements(row_step, col_step))
                for i, p in enumerate(live)
            ],
            work.pad(f"out.{t}", 4 * row_step * col_step),
        )
        for t in range(2)
    ]
    extra = [work.pad(f"spare{i}", 4 * row_step * col_step) for i in range(spare)]
    for index in indices(outer):
        for r in steps(rows, row_step):
            for c in steps(cols, col_step):
                with work.job() as turn:
                    buffers = iter(sets[turn][0])
                    terms: list[Term] = [
                        p.load(work, next(buffers), index, r, c) if isinstance(p, _Plan) else p
                        for p in plan
                    ]
                    tiles = tuple(rows_tile(one, c[1]) for one in extra)
                    target = rows_tile(sets[turn][1], c[1])
                    body(Pen(work.kernel, r[1], c[1], tiles), target, *terms)
                    work.store(out.at(index).cut(0, *r).cut(1, *c), target.ref, (4 * c[1], 4))


def _share(work: Work, size: int) -> int:
    """Elements a tile may have so that every core gets some, in whole lanes."""
    lanes = work.chip.lanes
    return -(-size // (work.chip.cores * lanes)) * lanes
