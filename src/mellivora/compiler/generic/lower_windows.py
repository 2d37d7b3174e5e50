"""Lowerings of convolution and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mellivora.compiler.generic import conv
from mellivora.compiler.generic.lowering import (
    Array,
    Lowering,
    attr,
    constant_view,
    lowers,
)
from mellivora.compiler.generic.tensors import View
from mellivora.graph.ir import Node


# ---- windows -------------------------------------------------------------------------------------
def _image(low: Lowering, node: Node) -> tuple[View, int]:
    """The operand as [n, c, h, w], one spatial axis made two; and how many there are."""
    x = low.view(node.inputs[0])
    spatial = len(x.shape) - 2
    if spatial not in (1, 2):
        raise low.work.no_form(
            f"{node.op} over {spatial} axes", "1 or 2 axes", "split the operation"
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
        raise low.work.not_constant(f"{name} {bias_name}")
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
        out = conv.pointwise(low.work, x, b, outputs, bias, window.stride, low.relu)
        return _windowed(low, node, out, spatial)
    image = conv.bordered(low.work, x, pads, 0.0)
    if groups > 1 and channels == 1 and outputs == groups:
        taps = np.ascontiguousarray(weight.reshape(outputs, -1).T)
        zero = constant_view(low, np.zeros(outputs, np.float32))
        out = conv.slide(
            low.work,
            image,
            window,
            kind="depthwise",
            weight=constant_view(low, taps),
            bias=bias or zero,
            relu=low.relu,
        )
        return _windowed(low, node, out, spatial)
    dense = conv.is_dense(window.kernel, channels)
    each = outputs // groups
    packed = [
        low.pack(name, f"conv{g}", conv.tap_order(weight[g * each : (g + 1) * each], dense))
        for g in range(groups)
    ]
    out = conv.convolve(low.work, image, window, packed, channels, outputs, bias, relu=low.relu)
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
    factors = constant_view(low, (np.float32(1) / counts).astype(np.float32))
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
