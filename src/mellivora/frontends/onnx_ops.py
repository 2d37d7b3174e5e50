"""What each ONNX operator becomes: a table of handlers, one short function for each.

A handler reads a `NodeView` and returns the operand (or list of operands) that the node's outputs
stand for. Semantics are those of https://onnx.ai/onnx/operators, opsets 7 and later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from mellivora.frontends.onnx_import import NodeView, Operand
from mellivora.graph.ir import DTYPES, Array, Dim

Handler: TypeAlias = Callable[[NodeView], "Operand | Sequence[Operand]"]
HANDLERS: dict[str, Handler] = {}

# Tensor element types of onnx.TensorProto -> graph dtypes. Stable numbers of the file format.
ELEMENT_TYPES = {
    1: "f32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "f16",
    11: "f64",
    12: "uint32",
    13: "uint64",
    16: "bf16",
}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Enter a handler in the table."""

    def enter(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return enter


# ---- elementwise ---------------------------------------------------------------------------------
_UNARY = {
    "Neg": "neg",
    "Abs": "abs",
    "Floor": "floor",
    "Exp": "exp",
    "Log": "log",
    "Sin": "sin",
    "Cos": "cos",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Tanh": "tanh",
    "Erf": "erf",
    "Sigmoid": "sigmoid",
    "Softplus": "softplus",
    "Relu": "relu",
}
_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "And": "min", "Or": "max"}
_COMPARE = {"Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt"}
_COMPARE |= {"GreaterOrEqual": "ge", "Xor": "ne"}
_VARIADIC = {"Max": "max", "Min": "min", "Sum": "add", "Mean": "add"}


@handles(*_UNARY)
def _unary(n: NodeView) -> Operand:
    return n.g.emit(_UNARY[n.op], n.x())


@handles(*_BINARY)
def _binary(n: NodeView) -> Operand:
    return n.g.emit(_BINARY[n.op], n.x(0), n.x(1))


@handles(*_COMPARE)
def _compare(n: NodeView) -> Operand:
    return n.g.emit("compare", n.x(0), n.x(1), kind=_COMPARE[n.op])


@handles(*_VARIADIC)
def _variadic(n: NodeView) -> Operand:
    y = n.x(0)
    for index in range(1, len(n.operands)):
        y = n.g.emit(_VARIADIC[n.op], y, n.x(index))
    if n.op == "Mean":
        y = n.g.emit("scale", y, factor=1.0 / len(n.operands))
    return y


def like(n: NodeView, operand: Operand, number: float) -> Array:
    """A scalar constant of the operand's dtype."""
    return np.array(number, DTYPES[n.g.dtype(operand)])


@handles("Not")
def _not(n: NodeView) -> Operand:
    return n.g.emit("compare", n.x(), np.array(False), kind="eq")


@handles("IsNaN")
def _is_nan(n: NodeView) -> Operand:
    return n.g.emit("compare", n.x(), n.x(), kind="ne")


@handles("Where")
def _where(n: NodeView) -> Operand:
    return n.g.emit("where", n.x(0), n.x(1), n.x(2))


@handles("Pow")
def _pow(n: NodeView) -> Operand:
    x, exponent = n.x(0), n.x(1)
    if n.g.dtype(exponent) != n.g.dtype(x):
        exponent = n.g.emit("cast", exponent, to=n.g.dtype(x))
    if not isinstance(exponent, str) and exponent.size == 1 and exponent.item() == 2:
        return _shaped_like(n, n.g.emit("mul", x, x), exponent)
    return n.g.emit("pow", x, exponent)


def _shaped_like(n: NodeView, x: Operand, scalar: Array) -> Operand:
    """x with the leading axes of 1 that broadcasting with `scalar` would give it."""
    missing = scalar.ndim - n.g.rank(x)
    return n.g.emit("reshape", x, shape=(1,) * missing + n.g.shape(x)) if missing > 0 else x


@handles("Gelu")
def _gelu(n: NodeView) -> Operand:
    return n.g.emit("gelu_tanh" if n.text("approximate", "none") == "tanh" else "gelu", n.x())


@handles("Swish")
def _swish(n: NodeView) -> Operand:
    alpha = n.float("alpha", 1.0)
    if alpha == 1.0:
        return n.g.emit("silu", n.x())
    return n.g.emit("mul", n.x(), n.g.emit("sigmoid", n.g.emit("scale", n.x(), factor=alpha)))


@handles("LeakyRelu")
def _leaky_relu(n: NodeView) -> Operand:
    scaled = n.g.emit("scale", n.x(), factor=n.float("alpha", 0.01))
    below = n.g.emit("compare", n.x(), like(n, n.x(), 0), kind="lt")
    return n.g.emit("where", below, scaled, n.x())


@handles("HardSigmoid")
def _hard_sigmoid(n: NodeView) -> Operand:
    line = n.g.emit("scale", n.x(), factor=n.float("alpha", 0.2))
    line = n.g.emit("add", line, like(n, n.x(), n.float("beta", 0.5)))
    return n.g.emit("clip", line, low=0.0, high=1.0)


@handles("HardSwish")
def _hard_swish(n: NodeView) -> Operand:
    line = n.g.emit("add", n.g.emit("scale", n.x(), factor=1 / 6), like(n, n.x(), 0.5))
    return n.g.emit("mul", n.x(), n.g.emit("clip", line, low=0.0, high=1.0))


@handles("Clip")
def _clip(n: NodeView) -> Operand:
    if n.opset < 11:
        return n.g.emit("clip", n.x(), low=n.float("min", -math.inf), high=n.float("max", math.inf))
    bounds = {"low": n.opt(1), "high": n.opt(2)}
    if any(isinstance(bound, str) for bound in bounds.values()):
        y = n.x()
        for op, bound in (("max", n.opt(1)), ("min", n.opt(2))):
            y = y if bound is None else n.g.emit(op, y, bound)
        return y
    numbers = {k: float(cast("Any", v).item()) for k, v in bounds.items() if v is not None}
    return n.g.emit("clip", n.x(), **numbers)


@handles("Cast")
def _cast(n: NodeView) -> Operand:
    to = ELEMENT_TYPES.get(n.int("to"))
    if to is None:
        raise n.refuse("no such dtype in a graph", f"element type {n.int('to')}", "use another")
    return n.x() if n.g.dtype(n.x()) == to else n.g.emit("cast", n.x(), to=to)


@handles("CastLike")
def _cast_like(n: NodeView) -> Operand:
    return n.g.emit("cast", n.x(), to=n.g.dtype(n.x(1)))


@handles("Identity")
def _identity(n: NodeView) -> Operand:
    return n.x()


@handles("Dropout")
def _dropout(n: NodeView) -> Operand:
    training = n.opt(2)
    if training is not None and (isinstance(training, str) or bool(training)):
        raise n.refuse("training is not inference", "training_mode", "export with model.eval()")
    return n.x()


_REDUCE = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min"}


@handles(*_REDUCE)
def _reduce(n: NodeView) -> Operand:
    axes = n.ints("axes", ())
    given = n.opt(1) is not None
    if given:
        axes = n.ints_of(1)
    if not axes:
        if n.int("noop_with_empty_axes", 0):
            return n.x()
        axes = tuple(range(n.g.rank(n.x())))
    keep = bool(n.int("keepdims", 1))
    return n.g.emit("reduce", n.x(), kind=_REDUCE[n.op], axes=axes, keepdims=keep)


def joined(n: NodeView, dims: Sequence[Dim]) -> Dim:
    """Their product; a lone symbol stays."""
    symbols = [d for d in dims if isinstance(d, str)]
    product = math.prod(d for d in dims if isinstance(d, int))
    if not symbols:
        return product
    if len(symbols) == 1 and product == 1:
        return symbols[0]
    raise n.refuse("axes with symbols cannot be joined", str(list(dims)), "use dims={...}")
