"""One function for each operation of the graph: from views to a view. What is not here is a CompileError."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mellivora import numerics
from mellivora.compiler.generic import conv, formulas, matmul, move, rows
from mellivora.compiler.generic import elementwise as ew
from mellivora.compiler.generic.tensors import View
from mellivora.compiler.generic.work import Work
from mellivora.compiler.pack import B_FORMAT
from mellivora.graph.ir import Graph, Node
from mellivora.isa.modes import Op

Array = npt.NDArray[Any]
EXACT_INTEGER = 1 << 24
"""Integers up to here are FP32 values."""


@dataclass
class Lowering:
    """Views of values so far; sources: integer values known as constants or as inputs, for gathers."""

    work: Work
    graph: Graph
    shapes: dict[str, tuple[int, ...]]
    symbols: dict[str, int]
    views: dict[str, View] = field(default_factory=dict)
    indices: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Integer inputs that gathers read: (first parameter, count)."""
    packed: dict[tuple[str, str], matmul.BMatrix] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    """Integer inputs that are indices: the number of rows they pick from."""

    def view(self, name: str) -> View:
        """A value as FP32 in DRAM; parameters are placed when first read."""
        if name not in self.views:
            array = np.ascontiguousarray(self.constant(name))
            if array.dtype.kind in "iu" and array.size:
                top = int(np.abs(array.astype(np.float64)).max())
                if top > EXACT_INTEGER:
                    raise self.work.fault(
                        "MV0433",
                        "an integer constant is too large for FP32",
                        f"{name}: {top}",
                        f"at most {EXACT_INTEGER}",
                        "clip it, or compute it before the model",
                    )
            wide = array.astype(np.float32)
            self.views[name] = View.dense(self.work.arena.constant(wide), wide.shape)
        return self.views[name]

    def constant(self, name: str) -> Array:
        """A parameter's values."""
        tensor: Any = self.graph.params[name]
        return tensor if isinstance(tensor, np.ndarray) else tensor.dequantize()

    def known(self, name: str) -> Array | None:
        """The values, where they are a parameter's."""
        return self.constant(name) if name in self.graph.params else None

    def operand(self, name: str) -> ew.Operand:
        """A single constant as a number, anything else as a view."""
        array = self.known(name)
        if array is not None and array.size == 1:
            return float(np.float32(array.reshape(())))
        return self.view(name)

    def pack(self, name: str, form: str, matrix: Array | numerics.BlockTensor) -> matmul.BMatrix:
        """A constant matrix [n, k], packed once."""
        if (name, form) not in self.packed:
            self.packed[name, form] = matmul.pack_constant(self.work, matrix)
        return self.packed[name, form]


Lower = Callable[[Lowering, Node], Sequence[View]]
LOWER: dict[str, Lower] = {}


def lowers(*names: str) -> Callable[[Lower], Lower]:
    """Enter a function in the table of lowerings."""

    def enter(function: Lower) -> Lower:
        LOWER.update(dict.fromkeys(names, function))
        return function

    return enter


def attr(node: Node, name: str) -> Any:
    return node.attrs[name]


# ---- elementwise ---------------------------------------------------------------------------------
@lowers(*formulas.UNARY)
def _unary(low: Lowering, node: Node) -> Sequence[View]:
    program, spare = formulas.UNARY[node.op]
    return [ew.unary(low.work, low.view(node.inputs[0]), program, spare)]


@lowers("scale", "softcap", "clip")
def _with_numbers(low: Lowering, node: Node) -> Sequence[View]:
    if node.op == "scale":
        program, spare = formulas.one(Op.MUL, attr(node, "factor")), 0
    elif node.op == "clip":
        program = formulas.one(Op.MAX, attr(node, "low"), Op.MIN, attr(node, "high"))
        spare = 0
    else:
        program, spare = formulas.softcap(attr(node, "cap")), 4
    return [ew.unary(low.work, low.view(node.inputs[0]), program, spare)]


@lowers("add", "sub", "mul", "div", "max", "min")
def _binary(low: Lowering, node: Node) -> Sequence[View]:
    a, b = (low.operand(name) for name in node.inputs)
    if node.op == "div" and low.graph.values[node.outputs[0]].dtype != "f32":
        raise low.work.fault(
            "MV0431",
            "integer division has no lowering",
            node.op,
            "f32",
            "cast to float and floor, or compute it before the model",
        )
    if isinstance(a, float) and isinstance(b, float):
        a = low.view(node.inputs[0])
    return [ew.binary(low.work, node.op, low.shapes[node.outputs[0]], a, b)]


@lowers("pow")
def _pow(low: Lowering, node: Node) -> Sequence[View]:
    a, b = low.view(node.inputs[0]), low.operand(node.inputs[1])
    shape = low.shapes[node.outputs[0]]
    return [ew.elementwise(low.work, shape, [a, b], formulas.power, spare=1, dense=(0, 1))]


@lowers("compare")
def _compare(low: Lowering, node: Node) -> Sequence[View]:
    views = [low.view(name) for name in node.inputs]
    program = formulas.compare(attr(node, "kind"))
    shape = low.shapes[node.outputs[0]]
    return [ew.elementwise(low.work, shape, views, program, spare=3, dense=(0, 1))]


@lowers("where")
def _where(low: Lowering, node: Node) -> Sequence[View]:
    terms = [low.view(node.inputs[0]), *(low.operand(name) for name in node.inputs[1:])]
    shape = low.shapes[node.outputs[0]]
    return [ew.elementwise(low.work, shape, terms, formulas.where, spare=2, dense=(0, 1, 2))]


@lowers("cast")
def _cast(low: Lowering, node: Node) -> Sequence[View]:
    """Floats to integers are cut towards zero; integers and booleans are numbers already."""
    source, to = low.graph.values[node.inputs[0]].dtype, attr(node, "to")
    view = low.view(node.inputs[0])
    if to == "bool" and source != "bool":
        zero = _view_of(low, np.zeros(1, np.float32))
        program = formulas.compare("ne")
        return [ew.elementwise(low.work, view.shape, [view, zero], program, spare=3, dense=(0, 1))]
    if source == "f32" and to in ("int32", "int64"):
        return [ew.unary(low.work, view, formulas.truncate, 3)]
    return [view]


def _view_of(low: Lowering, array: Array) -> View:
    return View.dense(low.work.arena.constant(array), array.shape)


# ---- contractions --------------------------------------------------------------------------------
@lowers("linear")
def _linear(low: Lowering, node: Node) -> Sequence[View]:
    x, (name, bias) = low.view(node.inputs[0]), (*node.inputs[1:], "")[:2]
    if name not in low.graph.params:
        raise low.work.fault(
            "MV0432",
            "the weight of linear must be a parameter",
            name,
            "a constant",
            "use matmul with a transposed operand",
        )
    tensor: Any = low.graph.params[name]
    if not isinstance(tensor, np.ndarray) and (tensor.fmt not in B_FORMAT or tensor.shape[1] % 32):
        tensor = tensor.dequantize()
    if isinstance(tensor, np.ndarray):
        tensor = tensor.astype(np.float32)
    b = low.pack(name, "linear", tensor)
    extra = low.view(bias) if bias else None
    return [matmul.linear(low.work, x, b, tensor.shape[0], extra)]


@lowers("matmul")
def _matmul(low: Lowering, node: Node) -> Sequence[View]:
    a, b = (low.view(name) for name in node.inputs)
    shape = low.shapes[node.outputs[0]]
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    known = low.known(node.inputs[1])
    if known is not None and known.ndim <= 2:
        matrix = np.ascontiguousarray(known.reshape(b.shape).T, np.float32)
        out = matmul.linear(
            low.work, a, low.pack(node.inputs[1], "matmul", matrix), b.shape[1], None
        )
    else:
        out = matmul.batched(low.work, a, b, lead)
    whole = out.reshape(shape)
    assert whole is not None
    return [whole]


# ---- windows -------------------------------------------------------------------------------------
def _image(low: Lowering, node: Node) -> tuple[View, int]:
    """The operand as [n, c, h, w]; one spatial axis becomes two. Also the number of spatial axes."""
    x = low.view(node.inputs[0])
    spatial = len(x.shape) - 2
    if spatial not in (1, 2):
        raise low.work.fault(
            "MV0431",
            f"{node.op} over this many axes has no lowering",
            f"{spatial} spatial axes",
            "1 or 2",
            "split the operation",
        )
    if spatial == 1:
        x = View(x.dram, x.offset, (*x.shape[:2], 1, x.shape[2]), (*x.strides[:2], 0, x.strides[2]))
    return x, spatial


def _pair(values: Sequence[int], default: int = 1) -> tuple[int, int]:
    """Of two axes, the first of which one-dimensional operations lack."""
    values = tuple(values) or (default, default)
    return (default, values[0]) if len(values) == 1 else (values[0], values[1])


def _four(pads: Sequence[int]) -> tuple[int, int, int, int]:
    return (0, pads[0], 0, pads[1]) if len(pads) == 2 else (pads[0], pads[1], pads[2], pads[3])


def _windowed(low: Lowering, node: Node, out: View, spatial: int) -> Sequence[View]:
    if spatial == 1:
        out = View(
            out.dram, out.offset, (*out.shape[:2], out.shape[3]), (*out.strides[:2], out.strides[3])
        )
    return [out]


@lowers("conv")
def _conv(low: Lowering, node: Node) -> Sequence[View]:
    x, spatial = _image(low, node)
    name, bias_name = (*node.inputs[1:], "")[:2]
    if name not in low.graph.params or (bias_name and bias_name not in low.graph.params):
        raise low.work.fault(
            "MV0432",
            "weight and bias of conv must be parameters",
            f"{name} {bias_name}",
            "constants",
            "fold what computes them into the model",
        )
    weight = low.constant(name).astype(np.float32)
    weight = weight[:, :, None] if spatial == 1 else weight
    bias = low.view(bias_name) if bias_name else None
    outputs, channels, *kernel = weight.shape
    groups, pads = attr(node, "groups"), _four(attr(node, "pads"))
    shape = low.shapes[node.outputs[0]]
    window = conv.Window(
        _pair(kernel),
        _pair(attr(node, "strides")),
        _pair(attr(node, "dilations")),
        _pair(shape[2:]),
    )
    if groups == 1 and window.kernel == (1, 1) and not any(pads):
        b = low.pack(name, "conv", np.ascontiguousarray(weight.reshape(outputs, channels)))
        out = conv.pointwise(low.work, x, b, outputs, bias, window.stride)
        return _windowed(low, node, out, spatial)
    image = conv.bordered(low.work, x, pads, 0.0)
    if groups > 1 and channels == 1 and outputs == groups:
        taps = np.ascontiguousarray(weight.reshape(outputs, -1).T)
        zero = _view_of(low, np.zeros(outputs, np.float32))
        out = conv.slide(
            low.work, image, window, kind="depthwise", weight=_view_of(low, taps), bias=bias or zero
        )
        return _windowed(low, node, out, spatial)
    dense = conv.is_dense(window.kernel, channels)
    each = outputs // groups
    packed = [
        low.pack(name, f"conv{g}", conv.tap_order(weight[g * each : (g + 1) * each], dense))
        for g in range(groups)
    ]
    out = conv.convolve(low.work, image, window, packed, channels, outputs, bias)
    return _windowed(low, node, out, spatial)


@lowers("max_pool", "average_pool")
def _pool(low: Lowering, node: Node) -> Sequence[View]:
    x, spatial = _image(low, node)
    shape = low.shapes[node.outputs[0]]
    window = conv.Window(
        _pair(attr(node, "kernel")),
        _pair(attr(node, "strides")),
        _pair(attr(node, "dilations")),
        _pair(shape[2:]),
    )
    pads, reach = _four(attr(node, "pads")), []
    for i in range(2):  # ceil mode may look beyond the stated border
        last = (window.count[i] - 1) * window.stride[i] + window.dilation[i] * (
            window.kernel[i] - 1
        )
        reach.append(max(last + 1 - pads[i] - x.shape[2 + i], pads[2 + i]))
    pads = (pads[0], pads[1], *reach)
    largest = node.op == "max_pool"
    image = conv.bordered(low.work, x, pads, -math.inf if largest else 0.0)
    if largest:
        return _windowed(low, node, conv.slide(low.work, image, window, kind="max"), spatial)
    counts = _window_counts(node, x.shape[2:], window)
    factors = _view_of(low, (np.float32(1) / counts).astype(np.float32))
    out = conv.slide(low.work, image, window, kind="sum", factors=factors)
    return _windowed(low, node, out, spatial)


def _window_counts(node: Node, spatial: Sequence[int], window: conv.Window) -> Array:
    """How many elements each output averages: [h * w]. Stated borders count with include_pad."""
    pads = _four(attr(node, "pads"))
    sides: list[Array] = []
    for i in range(2):
        low_edge = -pads[i] if attr(node, "include_pad") else 0
        high_edge = spatial[i] + (pads[2 + i] if attr(node, "include_pad") else 0)
        starts = np.arange(window.count[i]) * window.stride[i] - pads[i]
        places = starts[:, None] + np.arange(window.kernel[i])[None] * window.dilation[i]
        sides.append(((places >= low_edge) & (places < high_edge)).sum(1))
    return np.maximum(np.outer(*sides).reshape(-1), 1)


# ---- rows ----------------------------------------------------------------------------------------
@lowers("softmax")
def _softmax(low: Lowering, node: Node) -> Sequence[View]:
    return [rows.softmax(low.work, low.view(node.inputs[0]), attr(node, "axis"))]


@lowers("layer_norm")
def _layer_norm(low: Lowering, node: Node) -> Sequence[View]:
    x, gamma, *beta = (low.view(name) for name in node.inputs if name)
    return [rows.layer_norm(low.work, x, gamma, beta[0] if beta else None, attr(node, "eps"))]


@lowers("rms_norm")
def _rms_norm(low: Lowering, node: Node) -> Sequence[View]:
    x, gamma = (low.view(name) for name in node.inputs)
    group = attr(node, "group_size") or x.shape[-1]
    wide = (*x.shape[:-1], x.shape[-1] // group, group)
    out = rows.rms_norm(low.work, _reshaped(low, x, wide), gamma, attr(node, "eps"))
    return [_reshaped(low, out, x.shape)]


@lowers("reduce")
def _reduce(low: Lowering, node: Node) -> Sequence[View]:
    x = low.view(node.inputs[0])
    out = rows.reduce(low.work, x, attr(node, "kind"), attr(node, "axes"))
    return [_reshaped(low, out, low.shapes[node.outputs[0]])]


# ---- movement ------------------------------------------------------------------------------------
def _reshaped(low: Lowering, x: View, shape: Sequence[int]) -> View:
    """A view where that is possible, else a copy."""
    view = x.reshape(shape)
    if view is None:
        view = move.copy(low.work, x).reshape(shape)
        assert view is not None
        low.work.barrier()
    return view


@lowers("reshape")
def _reshape(low: Lowering, node: Node) -> Sequence[View]:
    return [_reshaped(low, low.view(node.inputs[0]), low.shapes[node.outputs[0]])]


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
        raise low.work.fault(
            "MV0431",
            "this padding mode has no lowering",
            attr(node, "mode"),
            "constant",
            "pad with slices and concat",
        )
    value = _view_of(low, np.full((1,) * rank, attr(node, "value"), np.float32))
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
            raise low.work.fault(
                "MV0438",
                "an index lies outside its table",
                str(places),
                f"0..{size - 1}",
                "mend the model",
            )
        return [move.gather_constant(low.work, x, places, axis, shape)]
    source = _input_of(low, ids)
    if source is None:
        raise low.work.fault(
            "MV0436",
            "the indices are computed on the chip, and LOAD takes them from the host",
            ids,
            "a constant, or an integer input of the graph (reshaped or cast)",
            "make the indices an input",
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
