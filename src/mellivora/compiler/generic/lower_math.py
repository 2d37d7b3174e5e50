"""Lowerings of products, normalisations and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mellivora.compiler.generic import matmul, rows
from mellivora.compiler.generic.lowering import (
    Lowering,
    attr,
    lowers,
    reshaped,
)
from mellivora.compiler.generic.tensors import View
from mellivora.compiler.pack import B_FORMAT
from mellivora.graph.ir import Node


# ---- contractions --------------------------------------------------------------------------------
@lowers("linear")
def _linear(low: Lowering, node: Node) -> Sequence[View]:
    x, (name, bias) = low.view(node.inputs[0]), (*node.inputs[1:], "")[:2]
    if name not in low.graph.params:
        raise low.work.not_constant(name)
    tensor: Any = low.graph.params[name]
    if not isinstance(tensor, np.ndarray) and (tensor.fmt not in B_FORMAT or tensor.shape[1] % 32):
        tensor = tensor.dequantize()
    if isinstance(tensor, np.ndarray):
        tensor = tensor.astype(np.float32)
    b = low.pack(name, "linear", tensor)
    extra = low.view(bias) if bias else None
    return [matmul.linear(low.work, x, b, tensor.shape[0], extra, relu=low.relu)]


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
    out = rows.rms_norm(low.work, reshaped(low, x, wide), gamma, attr(node, "eps"))
    return [reshaped(low, out, x.shape)]


@lowers("reduce")
def _reduce(low: Lowering, node: Node) -> Sequence[View]:
    x = low.view(node.inputs[0])
    out = rows.reduce(low.work, x, attr(node, "kind"), attr(node, "axes"))
    return [reshaped(low, out, low.shapes[node.outputs[0]])]
