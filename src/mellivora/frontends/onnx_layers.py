"""Handlers of ONNX's layers: products, windows, normalisation. See onnx_ops.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from mellivora.frontends.onnx_import import NodeView, Operand
from mellivora.frontends.onnx_ops import handles, joined, like
from mellivora.graph.ir import DTYPES, FLOATS, Array


# ---- contractions --------------------------------------------------------------------------------
@handles("MatMul")
def _matmul(n: NodeView) -> Operand:
    a, b = n.x(0), n.x(1)
    constant = not isinstance(b, str) and b.ndim == 2 and n.g.dtype(b) in FLOATS
    if constant and n.g.rank(a) >= 1:
        return n.g.emit("linear", a, n.g.emit("transpose", b, perm=(1, 0)))
    a_shape, b_shape = n.g.shape(a), n.g.shape(b)
    if len(a_shape) == 1:
        a = n.g.emit("reshape", a, shape=(1, *a_shape))
    if len(b_shape) == 1:
        b = n.g.emit("reshape", b, shape=(*b_shape, 1))
    y = n.g.emit("matmul", a, b)
    shape = list(n.g.shape(y))
    if len(b_shape) == 1:
        del shape[-1]
    if len(a_shape) == 1:
        del shape[-1 if len(b_shape) == 1 else -2]
    return y if len(shape) == n.g.rank(y) else n.g.emit("reshape", y, shape=tuple(shape))


@handles("Gemm")
def _gemm(n: NodeView) -> Operand:
    a, b, c = n.x(0), n.x(1), n.opt(2)
    if n.int("transA", 0):
        a = n.g.emit("transpose", a, perm=(1, 0))
    if n.float("alpha", 1.0) != 1.0:
        b = n.g.emit("scale", b, factor=n.float("alpha"))
    if c is not None and n.float("beta", 1.0) != 1.0:
        c = n.g.emit("scale", c, factor=n.float("beta"))
    if not n.int("transB", 0):
        b = n.g.emit("transpose", b, perm=(1, 0))
    if c is not None and n.g.shape(c) == n.g.shape(b)[:1]:
        return n.g.emit("linear", a, b, c)
    y = n.g.emit("linear", a, b)
    return y if c is None else n.g.emit("add", y, c)


def _window(n: NodeView, kernel: Sequence[int]) -> dict[str, Any]:
    """strides, dilations and pads, with auto_pad worked out."""
    rank = len(kernel)
    strides = n.ints("strides", (1,) * rank)
    dilations = n.ints("dilations", (1,) * rank)
    pads = n.ints("pads", (0,) * (2 * rank))
    auto = n.text("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begins: list[int] = []
        ends: list[int] = []
        for size, k, s, d in zip(n.g.shape(n.x())[2:], kernel, strides, dilations, strict=True):
            if not isinstance(size, int) or s < 1:
                raise n.refuse("auto_pad needs fixed sizes", str(n.g.shape(n.x())), "use dims=")
            total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            small = total // 2
            begins.append(small if auto == "SAME_UPPER" else total - small)
            ends.append(total - begins[-1])
        pads = (*begins, *ends)
    elif auto == "VALID":
        pads = (0,) * (2 * rank)
    return {"strides": strides, "dilations": dilations, "pads": pads}


@handles("Conv")
def _conv(n: NodeView) -> Operand:
    kernel = n.g.shape(n.x(1))[2:]
    if n.has("kernel_shape") and n.ints("kernel_shape") != kernel:
        raise n.refuse("kernel_shape differs from the weight", str(kernel), "mend the model")
    window = _window(n, cast("Any", kernel))
    return n.g.emit("conv", n.x(0), n.x(1), n.opt(2), groups=n.int("group", 1), **window)


@handles("MaxPool", "AveragePool")
def _pool(n: NodeView) -> Operand:
    kernel = n.ints("kernel_shape")
    attrs: dict[str, Any] = _window(n, kernel) | {"kernel": kernel}
    attrs["ceil"] = bool(n.int("ceil_mode", 0))
    if n.op == "AveragePool":
        attrs["include_pad"] = bool(n.int("count_include_pad", 0))
        return n.g.emit("average_pool", n.x(), **attrs)
    if len([name for name in n.outputs if name]) > 1:
        raise n.refuse("indices are not supported", "2 outputs", "use one output")
    return n.g.emit("max_pool", n.x(), **attrs)


@handles("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(n: NodeView) -> Operand:
    kind = "mean" if n.op == "GlobalAveragePool" else "max"
    return n.g.emit("reduce", n.x(), kind=kind, axes=tuple(range(2, n.g.rank(n.x()))))


# ---- normalisation -------------------------------------------------------------------------------
@handles("BatchNormalization")
def _batch_norm(n: NodeView) -> Operand:
    """Folded into the convolution before it where nothing else reads that, else x * s + t."""
    if n.int("training_mode", 0):
        raise n.refuse("training is not inference", "training_mode = 1", "export model.eval()")
    x, dtype = n.x(), n.g.dtype(n.x())
    parts = [n.x(i) for i in range(1, 5)]
    if any(isinstance(part, str) for part in parts):
        gamma, beta, mean, variance = parts
        eps = like(n, variance, n.float("epsilon", 1e-5))
        s = n.g.emit("mul", gamma, n.g.emit("rsqrt", n.g.emit("add", variance, eps)))
        t = n.g.emit("sub", beta, n.g.emit("mul", mean, s))
    else:
        gamma, beta, mean, variance = (cast("Array", p).astype(np.float64) for p in parts)
        s64 = gamma / np.sqrt(variance + n.float("epsilon", 1e-5))
        folded = _fold_into_conv(n, s64, beta - mean * s64)
        if folded is not None:
            return folded
        s, t = s64.astype(DTYPES[dtype]), (beta - mean * s64).astype(DTYPES[dtype])
    column = (-1, *(1,) * (n.g.rank(x) - 2))
    s, t = (n.g.emit("reshape", part, shape=column) for part in (s, t))
    return n.g.emit("add", n.g.emit("mul", x, s), t)


def _fold_into_conv(n: NodeView, s: Array, t: Array) -> Operand | None:
    """The convolution that makes x, with scale s and shift t [m] (f64) in its weights."""
    node = n.g.maker(n.x())
    if node is None or node.op != "conv" or n.g.uses.get(n.inputs[0], 0) != 1:
        return None
    known = [n.g.constant(name) for name in node.inputs[1:]]
    if any(array is None for array in known) or s.shape != known[0].shape[:1]:  # type: ignore[union-attr]
        return None
    weight = cast("Array", known[0])
    bias = cast("Array", known[1]).astype(np.float64) if len(known) > 1 else 0.0
    weight64 = weight.astype(np.float64) * s.reshape(-1, *(1,) * (weight.ndim - 1))
    operands = (weight64.astype(weight.dtype), (bias * s + t).astype(weight.dtype))
    return n.g.emit("conv", node.inputs[0], *operands, **node.attrs)


@handles("LayerNormalization")
def _layer_norm(n: NodeView) -> Operand:
    if len([name for name in n.outputs if name]) > 1:
        raise n.refuse("mean and inverse deviation are not supported", "more outputs", "use one")
    x, gamma, beta = n.x(0), n.x(1), n.opt(2)
    rank, shape = n.g.rank(x), n.g.shape(x)
    axis = n.int("axis", -1) % max(rank, 1)
    normalised = shape[axis:]
    if axis < rank - 1:
        x = n.g.emit("reshape", x, shape=(*shape[:axis], joined(n, normalised)))
    flat = (-1,)
    parts = [gamma] if beta is None else [gamma, beta]
    parts = [
        n.g.emit("reshape", n.g.emit("expand", p, shape=normalised), shape=flat) for p in parts
    ]
    y = n.g.emit("layer_norm", x, *parts, eps=n.float("epsilon", 1e-5))
    return y if axis == rank - 1 else n.g.emit("reshape", y, shape=shape)


@handles("RMSNormalization")
def _rms_norm(n: NodeView) -> Operand:
    if n.int("axis", -1) not in (-1, n.g.rank(n.x()) - 1) or n.g.rank(n.x(1)) != 1:
        raise n.refuse("only over the last axis", f"axis {n.int('axis', -1)}", "reshape first")
    return n.g.emit("rms_norm", n.x(0), n.x(1), eps=n.float("epsilon", 1e-5))


@handles("LRN")
def _lrn(n: NodeView) -> Operand:
    """x / (bias + alpha / size * sum of squares over neighbouring channels) ** beta."""
    x, size = n.x(), n.int("size")
    shape = n.g.shape(x)
    squares = n.g.emit("reshape", n.g.emit("mul", x, x), shape=(shape[0], 1, shape[1], -1))
    means = n.g.emit(
        "average_pool",
        squares,
        kernel=(size, 1),
        strides=(1, 1),
        pads=((size - 1) // 2, 0, size // 2, 0),
        include_pad=True,
    )
    means = n.g.emit("reshape", means, shape=shape)
    line = n.g.emit("scale", means, factor=n.float("alpha", 1e-4))
    line = n.g.emit("add", line, like(n, x, n.float("bias", 1.0)))
    return n.g.emit("div", x, n.g.emit("pow", line, like(n, x, n.float("beta", 0.75))))


@handles("Softmax", "LogSoftmax")
def _softmax(n: NodeView) -> Operand:
    x, rank, shape = n.x(), n.g.rank(n.x()), n.g.shape(n.x())
    axis = n.int("axis", -1 if n.opset >= 13 else 1)
    if n.opset < 13 and rank and axis % rank != rank - 1:
        # Before opset 13 softmax runs over all axes from `axis` on, as one.
        x = n.g.emit("reshape", x, shape=(*shape[: axis % rank], joined(n, shape[axis % rank :])))
        axis = -1
    y = n.g.emit("softmax", x, axis=axis)
    y = n.g.emit("log", y) if n.op == "LogSoftmax" else y
    return y if n.g.shape(y) == shape else n.g.emit("reshape", y, shape=shape)
