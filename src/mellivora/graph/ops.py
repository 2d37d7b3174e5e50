"""Every operation of the graph, on one screen.

A row: name, operands ("?" optional, "*" any number), attributes ("name:type=default", no default:
required; "a|b" is a choice), shape rule, reference, meaning. Everything that knows the ops reads
these rows: the builder, the verifier, the text form, the interpreter, the generated table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mellivora.errors import GraphError
from mellivora.graph import reference as r
from mellivora.graph import reference_windows as w
from mellivora.graph import shapes as s
from mellivora.graph import shapes_moves as m
from mellivora.graph.ir import DTYPES, Attrs, AttrValue, Shape, Value

REQUIRED = object()


@dataclass(frozen=True, slots=True)
class AttrDef:
    """One attribute: int, float, bool, str (with its choices), ints or dims (a tuple)."""

    name: str
    kind: str
    choices: tuple[str, ...]
    default: Any


@dataclass(frozen=True, slots=True)
class OpDef:
    """One operation. `stateful` ops change the cache: they run even if nothing reads them."""

    name: str
    operands: tuple[str, ...]
    attrs: dict[str, AttrDef]
    rule: s.Rule
    reference: r.Reference
    doc: str
    stateful: bool = False

    @property
    def arity(self) -> tuple[int, int | None]:
        """Fewest and most operands; None: no bound."""
        least = sum(not name.endswith("?") for name in self.operands)
        return least, None if self.operands[-1].endswith("*") else len(self.operands)


def _attr(text: str) -> AttrDef:
    head, _, default = text.partition("=")
    name, _, kind = head.partition(":")
    choices = tuple(kind.split("|")) if "|" in kind else ()
    kind = "str" if choices else kind
    value: Any = REQUIRED
    if default:
        value = default if kind == "str" else () if default == "[]" else json.loads(default)
    return AttrDef(name, kind, choices, value)


def _op(
    name: str, operands: str, attrs: str, rule: s.Rule, ref: r.Reference, doc: str, *, st: int = 0
) -> OpDef:
    parsed = {a.name: a for a in map(_attr, attrs.split())}
    return OpDef(name, tuple(operands.split()), parsed, rule, ref, doc, bool(st))


_u, _b, _DTYPE = r.unary, r.binary, "|".join(DTYPES)
_WINDOW = "kernel:ints strides:ints pads:ints dilations:ints=[] ceil:bool=false"
_ATTEND = "heads:int kv_heads:int head_dim:int scale:float layer:int window:int=0 softcap:float=0.0"
_ROPE = "head_dim:int theta:float style:half|interleaved=half rotary_dim:int=0"
# fmt: off
_ROWS = (
    # elementwise, one operand
    _op("neg",        "x", "", s.same_any, _u(np.negative),          "-x"),
    _op("abs",        "x", "", s.same_any, _u(np.abs),               "|x|"),
    _op("floor",      "x", "", s.same, _u(np.floor),                 "largest integer not above x"),
    _op("exp",        "x", "", s.same, _u(np.exp),                   "e ** x"),
    _op("log",        "x", "", s.same, _u(np.log),                   "natural logarithm"),
    _op("sin",        "x", "", s.same, _u(np.sin),                   "sine of radians"),
    _op("cos",        "x", "", s.same, _u(np.cos),                   "cosine of radians"),
    _op("sqrt",       "x", "", s.same, _u(np.sqrt),                  "square root"),
    _op("rsqrt",      "x", "", s.same, _u(lambda x: 1 / np.sqrt(x)), "1 / sqrt(x)"),
    _op("reciprocal", "x", "", s.same, _u(lambda x: 1 / x),          "1 / x"),
    _op("tanh",       "x", "", s.same, _u(np.tanh),                  "hyperbolic tangent"),
    _op("erf",        "x", "", s.same, _u(r.erf),                    "error function"),
    _op("sigmoid",    "x", "", s.same, _u(r.sigmoid),                "1 / (1 + exp(-x))"),
    _op("softplus",   "x", "", s.same, _u(r.softplus),               "log(1 + exp(x))"),
    _op("silu",       "x", "", s.same, _u(lambda x: x * r.sigmoid(x)), "x * sigmoid(x)"),
    _op("gelu",       "x", "", s.same, _u(r.gelu),                   "x * Phi(x), by erf"),
    _op("gelu_tanh",  "x", "", s.same, _u(r.gelu_tanh),              "GELU by tanh"),
    _op("relu", "x", "", s.same_any, _u(lambda x: np.maximum(x, x.dtype.type(0))), "max(x, 0)"),
    _op("scale",      "x", "factor:float", s.same, r.scale,          "x * factor"),
    _op("softcap",    "x", "cap:float", s.same, r.softcap,           "cap * tanh(x / cap)"),
    _op("clip", "x", "low:float=-Infinity high:float=Infinity", s.same_any, r.clip,
        "into [low, high]"),
    _op("cast",       "x", f"to:{_DTYPE}", s.cast_to, r.cast_to,     "the values in another dtype"),
    # elementwise, broadcast
    _op("add", "a b", "", s.broadcast, _b(np.add),                   "a + b"),
    _op("sub", "a b", "", s.broadcast, _b(np.subtract),              "a - b"),
    _op("mul", "a b", "", s.broadcast, _b(np.multiply),              "a * b"),
    _op("div", "a b", "", s.broadcast, _b(r.divide), "a / b; integers towards zero"),
    _op("max", "a b", "", s.broadcast, _b(np.maximum),               "the larger; bool: or"),
    _op("min", "a b", "", s.broadcast, _b(np.minimum),               "the smaller; bool: and"),
    _op("pow", "a b", "", s.broadcast, _b(np.power),                 "a ** b"),
    _op("compare", "a b", "kind:eq|ne|lt|le|gt|ge", s.compare, r.compare, "a kind b, to bool"),
    _op("where", "condition a b", "", s.where, r.where, "a where true, else b"),
    # contractions
    _op("matmul", "a b", "", s.matmul, _b(np.matmul),                "[..., m, k] @ [..., k, n]"),
    _op("linear", "x weight bias?", "", s.linear, r.linear, "x @ weight.T + bias; weight [n, k]"),
    _op("conv", "x weight bias?", "strides:ints pads:ints dilations:ints groups:int=1",
        s.conv, w.conv,                                              "cross-correlation, n-d"),
    _op("attention", "q k v positions", _ATTEND, s.attention, r.attention,
        "causal grouped-query attention; appends k, v to the layer's cache", st=1),
    # windows, reductions, normalisation
    _op("max_pool", "x", _WINDOW, s.pool, w.max_pool,                "largest of each window"),
    _op("average_pool", "x", _WINDOW + " include_pad:bool=false", s.pool, w.average_pool,
        "mean of each window"),
    _op("reduce", "x", "kind:sum|max|min|mean axes:ints keepdims:bool=true", s.reduce, r.reduce,
        "over axes"),
    _op("softmax", "x", "axis:int=-1", s.softmax, r.softmax, "exp(x - max) / sum along axis"),
    _op("layer_norm", "x gamma beta?", "eps:float", s.layer_norm, r.layer_norm,
        "over the last axis"),
    _op("rms_norm", "x gamma", "eps:float group_size:int=0", s.rms_norm, r.rms_norm,
        "over the last axis, or each group of it"),
    _op("rope", "x positions freq_factors?", _ROPE, s.rope, r.rope,
        "rotary position embedding of whole heads"),
    # movement
    _op("reshape", "x", "shape:dims", m.reshape, r.reshape, "same elements, other shape; one -1"),
    _op("transpose", "x", "perm:ints", m.transpose, r.transpose,
        "output axis i is input axis perm[i]"),
    _op("concat", "x*", "axis:int", m.concat, r.concat,              "joined along axis"),
    _op("slice", "x", "axes:ints starts:ints stops:dims steps:ints", m.slice_, r.slice_,
        "x[start:stop:step]; a stop may be a symbol"),
    _op("split", "x", "axis:int sizes:ints", m.split, r.split, "pieces along axis, an output each"),
    _op("gather", "x indices", "axis:int=0", m.gather, r.gather, "x taken at indices along axis"),
    _op("embedding", "ids table", "", m.embedding, r.embedding,      "rows of a table, as f32"),
    _op("expand", "x", "shape:dims", m.expand, r.expand,             "broadcast to shape"),
    _op("pad", "x", "pads:ints mode:constant|reflect|edge=constant value:float=0.0",
        m.pad, r.pad, "begins then ends; negative crops"),
)
# fmt: on
OPS: dict[str, OpDef] = {row.name: row for row in _ROWS}


def _fits(value: object, attr: AttrDef) -> bool:
    if attr.kind in ("ints", "dims"):
        allowed = (int, str) if attr.kind == "dims" else (int,)
        items = cast("tuple[Any, ...]", value)
        return isinstance(value, tuple) and all(
            isinstance(i, allowed) and not isinstance(i, bool) for i in items
        )
    if attr.kind == "str":
        return isinstance(value, str) and (not attr.choices or value in attr.choices)
    if attr.kind == "float":
        return isinstance(value, float) and not math.isnan(value)
    return type(value) is {"int": int, "bool": bool}[attr.kind]


def _python(value: Any) -> Any:
    """A NumPy scalar as Python's."""
    return cast("Any", value.item()) if isinstance(value, np.generic) else value


def opdef(name: str, *, where: str) -> OpDef:
    """The row of an op; GraphError MV0303 where there is none."""
    if name not in OPS:
        raise GraphError(
            "MV0303",
            "no such operation",
            where=where,
            given=name,
            allowed=" ".join(OPS),
            hint="decompose it into these operations in the frontend",
        )
    return OPS[name]


def check_attrs(op: str, attrs: Attrs, *, where: str) -> None:
    """All attributes present, known and of their type; GraphError MV0305 or MV0306."""
    defs = opdef(op, where=where).attrs
    odd = sorted(set(attrs) ^ set(defs))
    if odd:
        raise GraphError(
            "MV0305",
            "an attribute is missing or unknown",
            where=where,
            given=" ".join(odd),
            allowed=" ".join(defs) or "no attributes",
            hint="give each attribute of the operation, and no other",
        )
    for name, value in attrs.items():
        if not _fits(value, defs[name]):
            raise GraphError(
                "MV0306",
                "an attribute has the wrong type or value",
                where=where,
                given=f"{name}={value!r}",
                allowed=" | ".join(defs[name].choices) or defs[name].kind,
                hint="see the operation's row in docs/graph.md",
            )


def complete_attrs(op: str, attrs: dict[str, Any], *, where: str) -> Attrs:
    """Attributes with the defaults filled in, in the order of the op's row, and checked.

    Ints become floats where a float is wanted; NumPy scalars become Python's.
    """
    defs = opdef(op, where=where).attrs
    full: dict[str, AttrValue] = {}
    for name, attr in defs.items():
        value: Any = attrs.get(name, attr.default)
        if value is REQUIRED:
            continue
        if isinstance(value, tuple):
            value = tuple(map(_python, cast("tuple[Any, ...]", value)))
        value = _python(value)
        full[name] = float(value) if attr.kind == "float" and type(value) is int else value
    full.update({name: value for name, value in attrs.items() if name not in defs})
    check_attrs(op, full, where=where)
    return full


def infer(
    op: str, operands: Sequence[Value | None], attrs: Attrs, *, where: str
) -> list[tuple[str, Shape]]:
    """dtype and shape of each output. GraphError MV0304 (arity), MV0307 (shape), MV0308 (dtype)."""
    row = opdef(op, where=where)
    least, most = row.arity
    padded = list(operands)
    if most is not None:
        padded += [None] * (most - len(padded))
    names = row.operands if most is not None else ("x",) * len(padded)
    missing = [n for n, v in zip(names, padded, strict=False) if v is None and not n.endswith("?")]
    if missing or len(operands) < least or (most is not None and len(operands) > most):
        raise GraphError(
            "MV0304",
            "the operation has other operands",
            where=where,
            given=f"{len(operands)} operands" + (f", without {missing[0]}" if missing else ""),
            allowed=" ".join(row.operands),
            hint='give "" for an optional operand that is left out',
        )
    try:
        return row.rule(padded, attrs)
    except GraphError as error:
        error.where = error.where or where
        raise


def markdown_table() -> str:
    """The table of operations in docs/graph.md; a check regenerates it."""
    lines = ["| op | operands | attributes | meaning |", "| --- | --- | --- | --- |"]
    for row in _ROWS:
        attrs: list[str] = []
        for attr in row.attrs.values():
            kind = "dtype" if attr.choices == tuple(DTYPES) else " / ".join(attr.choices)
            default = "" if attr.default is REQUIRED else f" = {json.dumps(attr.default)}"
            attrs.append(f"{attr.name}: {kind or attr.kind}{default}")
        cells = (f"`{row.name}`", ", ".join(row.operands), "; ".join(attrs), row.doc)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
