"""Lowerings of elementwise operations, products, normalisations and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mellivora.compiler.generic import elementwise as ew
from mellivora.compiler.generic import formulas, matmul, rows
from mellivora.compiler.generic.lowering import (
    Lowering,
    attr,
    constant_view,
    lowers,
    reshaped,
)
from mellivora.compiler.generic.tensors import View
from mellivora.compiler.pack import B_FORMAT
from mellivora.graph.ir import Node
from mellivora.isa.modes import Op


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
        raise low.work.no_form("div of integers", "f32", "cast to float and floor")
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
        zero = constant_view(low, np.zeros(1, np.float32))
        program = formulas.compare("ne")
        return [ew.elementwise(low.work, view.shape, [view, zero], program, spare=3, dense=(0, 1))]
    if source == "f32" and to in ("int32", "int64"):
        return [ew.unary(low.work, view, formulas.truncate, 3)]
    return [view]


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
