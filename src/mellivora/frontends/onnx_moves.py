"""Handlers of the ONNX operators that move elements or reckon with shapes. See onnx_ops.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np

from mellivora.frontends.onnx_import import NodeView, Operand
from mellivora.frontends.onnx_ops import handles, joined
from mellivora.graph.ir import Array, Dim
from mellivora.graph.shapes import broadcast_shapes


@handles("Shape")
def _shape(n: NodeView) -> Operand:
    shape = n.g.shape(n.x())[n.int("start", 0) : n.int("end", n.g.rank(n.x()))]
    symbolic = any(isinstance(d, str) for d in shape)
    return np.array(shape, dtype=object if symbolic else np.int64)


@handles("Size")
def _size(n: NodeView) -> Operand:
    size = joined(n, n.g.shape(n.x()))
    return np.array(size, dtype=object if isinstance(size, str) else np.int64)


@handles("Constant")
def _constant(n: NodeView) -> Operand:
    if n.has("value"):
        return n.g.tensor(n.attr_proto("value").t)
    if n.has("value_float"):
        return np.array(n.float("value_float"), np.float32)
    if n.has("value_int"):
        return np.array(n.int("value_int"), np.int64)
    if n.has("value_ints"):
        return np.array(n.ints("value_ints"), np.int64)
    if n.has("value_floats"):
        return np.array(list(n.attr_proto("value_floats").floats), np.float32)
    raise n.refuse("no tensor or number in it", "strings or sparse", "use a dense tensor")


@handles("ConstantOfShape")
def _constant_of_shape(n: NodeView) -> Operand:
    fill = n.g.tensor(n.attr_proto("value").t) if n.has("value") else np.zeros(1, np.float32)
    return n.g.emit("expand", fill.reshape(()), shape=_sizes(n, n.dims(0)))


def _sizes(n: NodeView, dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
    if any(isinstance(d, int) and d < 0 for d in dims):
        raise n.refuse("a size is negative", str(list(dims)), "mend the model")
    return dims


@handles("Range")
def _range(n: NodeView) -> Operand:
    start, limit, delta = (n.known(i) for i in range(3))
    if any(part.dtype == object for part in (start, limit, delta)):
        raise n.refuse("a symbolic dimension bounds it", str(limit), "use dims={...}")
    if not delta.item():
        raise n.refuse("the step is 0", "delta 0", "mend the model")
    n.g.check_size((max(0, math.ceil((limit.item() - start.item()) / delta.item())),), 8)
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@handles("Reshape")
def _reshape(n: NodeView) -> Operand:
    old, new = n.g.shape(n.x()), list(n.dims(1))
    if not n.int("allowzero", 0):
        new = [old[i] if d == 0 and i < len(old) else d for i, d in enumerate(new)]
    return n.g.emit("reshape", n.x(), shape=tuple(new))


@handles("Flatten")
def _flatten(n: NodeView) -> Operand:
    shape, axis = n.g.shape(n.x()), n.int("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return n.g.emit("reshape", n.x(), shape=(joined(n, shape[:axis]), joined(n, shape[axis:])))


@handles("Transpose")
def _transpose(n: NodeView) -> Operand:
    return n.g.emit("transpose", n.x(), perm=n.ints("perm", range(n.g.rank(n.x()))[::-1]))


@handles("Concat")
def _concat(n: NodeView) -> Operand:
    if len(n.operands) == 1:
        return n.x()
    return n.g.emit("concat", *(n.x(i) for i in range(len(n.operands))), axis=n.int("axis"))


@handles("Slice")
def _slice(n: NodeView) -> Operand:
    if n.opset < 10:
        starts, stops = n.ints("starts"), n.ints("ends")
        axes, steps = n.ints("axes", range(len(starts))), (1,) * len(starts)
    else:
        starts, stops = n.ints_of(1), n.dims(2)
        axes = n.ints_of(3) if n.opt(3) is not None else tuple(range(len(starts)))
        steps = n.ints_of(4) if n.opt(4) is not None else (1,) * len(starts)
    if not len(starts) == len(stops) == len(axes) == len(steps):
        raise n.refuse("starts, ends, axes and steps differ in length", str(axes), "mend it")
    shape, rank, keep = n.g.shape(n.x()), n.g.rank(n.x()), list[int]()
    for i, axis in enumerate(axes):
        size = shape[axis] if -rank <= axis < rank else 0
        whole = stops[i] == size or (isinstance(stops[i], int) and cast("int", stops[i]) >= 2**31)
        if not (starts[i] == 0 and steps[i] == 1 and whole):
            keep.append(i)
    if not keep:
        return n.x()
    picked = {
        key: tuple(items[i] for i in keep)
        for key, items in {"axes": axes, "starts": starts, "stops": stops, "steps": steps}.items()
    }
    return n.g.emit("slice", n.x(), **picked)


@handles("Split")
def _split(n: NodeView) -> Sequence[Operand]:
    axis, count = n.int("axis", 0), len(n.outputs)
    sizes = n.ints("split", ())
    if n.opset >= 13 and n.opt(1) is not None:
        sizes = n.ints_of(1)
    if not sizes:
        rank = n.g.rank(n.x())
        total = n.g.shape(n.x())[axis] if -rank <= axis < rank else ""
        if not isinstance(total, int):
            raise n.refuse("the axis has no fixed size", f"axis {axis}", "use dims={...}")
        each = -(-total // count)
        sizes = tuple(max(0, min(each, total - i * each)) for i in range(count))
    return n.g.emit_all("split", n.x(), axis=axis, sizes=sizes)


@handles("Gather")
def _gather(n: NodeView) -> Operand:
    x, axis = n.x(0), n.int("axis", 0)
    table = not isinstance(x, str) and x.ndim == 2 and n.g.dtype(x) == "f32"
    if table and axis in (0, -2) and isinstance(n.x(1), str):
        return n.g.emit("embedding", n.x(1), x)
    return n.g.emit("gather", x, n.x(1), axis=axis)


@handles("GatherElements")
def _gather_elements(n: NodeView) -> Operand:
    """Of constants only, as exporters write it for buffers such as position ids."""
    data, at, axis = n.known(0), n.known(1), n.int("axis", 0)
    fits = (
        data.ndim == at.ndim and -at.ndim <= axis < at.ndim and object not in (at.dtype, data.dtype)
    )
    rows = data.shape[axis] if fits else 0
    if not fits or (at.size and not -rows <= at.min() <= at.max() < rows):
        raise n.refuse("the indices do not fit", f"{list(at.shape)}, axis {axis}", "use dims={...}")
    index: list[Array] = list(np.indices(at.shape, sparse=True))
    index[axis] = at
    return data[tuple(index)]


def _axes(n: NodeView, default: Sequence[int] | None = None) -> tuple[int, ...]:
    """Axes by attribute (before opset 13) or by operand."""
    if n.opset >= 13:
        return n.ints_of(1) if default is None or n.opt(1) is not None else tuple(default)
    return n.ints("axes", default)


@handles("Unsqueeze")
def _unsqueeze(n: NodeView) -> Operand:
    axes, shape = _axes(n), list(n.g.shape(n.x()))
    rank = len(shape) + len(axes)
    places = sorted(axis + rank if axis < 0 else axis for axis in axes)
    if len(set(places)) != len(places) or any(not 0 <= p < rank for p in places):
        raise n.refuse("axes are outside the result", str(list(axes)), "mend the model")
    for place in places:
        shape.insert(place, 1)
    return n.g.emit("reshape", n.x(), shape=tuple(shape))


@handles("Squeeze")
def _squeeze(n: NodeView) -> Operand:
    shape = n.g.shape(n.x())
    ones = [i for i, d in enumerate(shape) if d == 1]
    places = {axis % max(len(shape), 1) for axis in _axes(n, ones)}
    if not places <= set(ones):
        raise n.refuse("an axis is not 1", f"{list(shape)}, axes {sorted(places)}", "mend it")
    return n.g.emit(
        "reshape", n.x(), shape=tuple(d for i, d in enumerate(shape) if i not in places)
    )


@handles("Expand")
def _expand(n: NodeView) -> Operand:
    target = broadcast_shapes(n.g.shape(n.x()), _sizes(n, n.dims(1)))
    return n.x() if target == n.g.shape(n.x()) else n.g.emit("expand", n.x(), shape=target)


@handles("Tile")
def _tile(n: NodeView) -> Operand:
    y = n.x()
    for axis, count in enumerate(n.ints_of(1)):
        if count > 1024:
            raise n.refuse("more than 1024 copies", str(count), "use Expand")
        if count == 0:
            whole = {"axes": (axis,), "starts": (0,), "stops": (0,), "steps": (1,)}
            y = n.g.emit("slice", y, **whole)
        elif count != 1:
            y = n.g.emit("concat", *[y] * count, axis=axis)
    return y


@handles("Pad")
def _pad(n: NodeView) -> Operand:
    mode, x = n.text("mode", "constant"), n.x()
    rank = n.g.rank(x)
    if n.opset < 11:
        pads, fill = n.ints("pads"), n.float("value", 0.0)
    else:
        pads = n.ints_of(1)
        fill = float(n.known(2).item()) if n.opt(2) is not None else 0.0
    if n.opt(3) is not None:
        axes = [axis % rank for axis in n.ints_of(3)]
        spread = [0] * (2 * rank)
        for i, axis in enumerate(axes[: len(pads) // 2]):
            spread[axis], spread[rank + axis] = pads[i], pads[len(axes) + i]
        pads = tuple(spread)
    if mode not in ("constant", "reflect", "edge"):
        raise n.refuse("no such mode", mode, "use constant, reflect or edge")
    return n.g.emit("pad", x, pads=pads, mode=mode, value=fill)
