"""Lowerings of movement: mostly views, some copies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mellivora.compiler.generic import move
from mellivora.compiler.generic.lowering import (
    Lowering,
    attr,
    constant_view,
    lowers,
    reshaped,
)
from mellivora.compiler.generic.tensors import View
from mellivora.errors import CompileError
from mellivora.graph.ir import Node


# ---- movement ------------------------------------------------------------------------------------
@lowers("reshape")
def _reshape(low: Lowering, node: Node) -> Sequence[View]:
    return [reshaped(low, low.view(node.inputs[0]), low.shapes[node.outputs[0]])]


@lowers("transpose")
def _transpose(low: Lowering, node: Node) -> Sequence[View]:
    return [low.view(node.inputs[0]).permute(attr(node, "perm"))]


@lowers("expand")
def _expand(low: Lowering, node: Node) -> Sequence[View]:
    return [low.view(node.inputs[0]).broadcast(low.shapes[node.outputs[0]])]


@lowers("slice")
def _slice(low: Lowering, node: Node) -> Sequence[View]:
    view = low.view(node.inputs[0])
    keys = ("axes", "starts", "stops", "steps")
    for axis, start, stop, step in zip(*(attr(node, key) for key in keys), strict=True):
        stop = low.symbols[stop] if isinstance(stop, str) else stop
        from mellivora.graph.shapes_moves import python_slice

        chosen = range(view.shape[axis])[python_slice(start, stop, step)]
        view = view.cut(axis, chosen.start, len(chosen), chosen.step)
    return [view]


@lowers("split")
def _split(low: Lowering, node: Node) -> Sequence[View]:
    x, at, out = low.view(node.inputs[0]), 0, []
    for size in attr(node, "sizes"):
        out.append(x.cut(attr(node, "axis") % len(x.shape), at, size))
        at += size
    return out


@lowers("concat")
def _concat(low: Lowering, node: Node) -> Sequence[View]:
    return [move.concat(low.work, [low.view(name) for name in node.inputs], attr(node, "axis"))]


@lowers("pad")
def _pad(low: Lowering, node: Node) -> Sequence[View]:
    x, pads = low.view(node.inputs[0]), attr(node, "pads")
    rank = len(x.shape)
    for axis in range(rank):
        begin, end = max(-pads[axis], 0), max(-pads[rank + axis], 0)
        x = x.cut(axis, begin, x.shape[axis] - begin - end)
    before, after = [max(p, 0) for p in pads[:rank]], [max(p, 0) for p in pads[rank:]]
    if attr(node, "mode") != "constant":
        raise low.work.no_form(
            f"pad, mode {attr(node, 'mode')}", "constant", "pad with slices and concat"
        )
    value = constant_view(low, np.full((1,) * rank, attr(node, "value"), np.float32))
    shape = [n + b + a for n, b, a in zip(x.shape, before, after, strict=True)]
    out = low.work.new(shape, x.order)
    return [move.pad_constant(low.work, x, before, after, value, out)]


@lowers("gather", "embedding")
def _gather(low: Lowering, node: Node) -> Sequence[View]:
    table, ids = node.inputs if node.op == "gather" else node.inputs[::-1]
    axis = attr(node, "axis") if node.op == "gather" else 0
    x, shape = low.view(table), low.shapes[node.outputs[0]]
    axis %= len(x.shape)
    known = low.known(ids)
    if known is not None:
        size = x.shape[axis]
        places = [int(i) + (size if i < 0 else 0) for i in known.reshape(-1)]
        if places and not 0 <= min(places) <= max(places) < size:
            raise CompileError(
                "MV0438",
                "an index lies outside its table",
                where=node.where,
                given=f"{min(places)}..{max(places)}",
                allowed=f"0..{size - 1}",
                hint="correct the model's indices",
            )
        return [move.gather_constant(low.work, x, places, axis, shape)]
    source = _input_of(low, ids)
    if source is None:
        raise CompileError(
            "MV0436",
            "the indices are computed on the chip, and LOAD takes them from the host",
            where=node.where,
            given=ids,
            allowed="a constant, or an integer input of the graph (reshaped or cast)",
            hint="make the indices an input",
        )
    count = math.prod(low.shapes[source])
    if source not in low.indices:
        first = sum(n for _, n in low.indices.values())
        low.indices[source] = (first, count)
    low.limits[source] = min(low.limits.get(source, 1 << 31), x.shape[axis])
    return [move.gather_rows(low.work, x, low.indices[source][0], count, axis, shape)]


def _input_of(low: Lowering, name: str) -> str | None:
    """The integer input whose elements, in order, `name` has."""
    makers = low.graph.producer()
    while name not in low.graph.inputs:
        node = makers.get(name)
        if node is None or node.op not in ("reshape", "cast"):
            return None
        name = node.inputs[0]
    return name if low.graph.values[name].dtype in ("int32", "int64") else None
