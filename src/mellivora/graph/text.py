"""The text form of a graph: one line each for inputs, parameters, nodes and outputs.

    mellivora.graph 1
    graph tiny
    meta family "llama"
    input ids: int32[rows]
    param embed: f32[100, 64] q4_1
    node x: f32[rows, 64] = embedding(ids, embed)
    node y: f32[rows, 64] = scale(x) {"factor": 2.0}
    output y

A name that is not plain (letters, digits, _ . / -) is written as a JSON string, an operand left out
as _. Parameters are named with shape and, where they are block tensors, format; their data is kept
elsewhere. Printing and parsing are exact inverses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn, cast

from mellivora.errors import GraphError
from mellivora.graph.ir import (
    DTYPES,
    Attrs,
    Dim,
    Graph,
    Node,
    ParamSpec,
    Tensor,
    Value,
    param_format,
)
from mellivora.graph.verify import verify

HEADER = "mellivora.graph 1"
_PLAIN = re.compile(r"[A-Za-z0-9./](?:[\w./-]*[\w./])?", re.ASCII)
_INTEGER = re.compile(r"[0-9]+", re.ASCII)
_SPACE = re.compile(r"[ \t]*")


def _name(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else json.dumps(name)


def _dim(dim: Dim) -> str:
    # A symbol that looks like a number has to be quoted.
    return str(dim) if isinstance(dim, int) else json.dumps(dim) if dim.isdigit() else _name(dim)


def _value(value: Value) -> str:
    return f"{_name(value.name)}: {value.dtype}[{', '.join(map(_dim, value.shape))}]"


def _node(graph: Graph, node: Node) -> str:
    results = ", ".join(_value(graph.values[name]) for name in node.outputs)
    operands = ", ".join(_name(name) if name else "_" for name in node.inputs)
    attrs = " " + json.dumps(node.attrs) if node.attrs else ""
    return f"node {results} = {node.op}({operands}){attrs}"


def to_text(graph: Graph) -> str:
    """The graph as text, ending in a newline."""
    lines = [HEADER, f"graph {_name(graph.name)}"]
    lines += [f"meta {_name(key)} {json.dumps(text)}" for key, text in graph.meta.items()]
    lines += [f"input {_value(graph.values[name])}" for name in graph.inputs]
    for name, tensor in graph.params.items():
        fmt = param_format(tensor)
        lines.append(f"param {_value(graph.values[name])}" + ("" if fmt in DTYPES else f" {fmt}"))
    lines += [_node(graph, node) for node in graph.nodes]
    lines += [f"output {_name(name)}" for name in graph.outputs]
    return "\n".join(lines) + "\n"


class _Line:
    """A cursor in one line."""

    def __init__(self, text: str, number: int) -> None:
        self.text, self.number, self.at = text, number, 0

    def fail(self, expected: str) -> NoReturn:
        raise GraphError(
            "MV0315",
            "the text form of a graph does not parse",
            where=f"line {self.number}, column {self.at + 1}",
            given=self.text[self.at : self.at + 60] or "end of line",
            allowed=expected,
            hint="print a graph with to_text to see the form",
        )

    def skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def accept(self, token: str) -> bool:
        self.skip()
        found = self.text.startswith(token, self.at)
        self.at += len(token) if found else 0
        return found

    def expect(self, token: str) -> None:
        if not self.accept(token):
            self.fail(repr(token))

    def done(self) -> bool:
        self.skip()
        return self.at == len(self.text)

    def json(self, expected: str) -> Any:
        self.skip()
        try:
            value, self.at = json.JSONDecoder().raw_decode(self.text, self.at)
        except (ValueError, RecursionError):
            self.fail(expected)
        return value

    def name(self) -> str:
        self.skip()
        if self.text.startswith('"', self.at):
            return str(self.json("a quoted name"))
        match = _PLAIN.match(self.text, self.at)
        if match is None:
            self.fail("a name")
        self.at = match.end()
        return match.group()

    def dim(self) -> Dim:
        self.skip()
        quoted = self.text.startswith('"', self.at)
        name = self.name()
        if quoted or not _INTEGER.fullmatch(name):
            return name
        return int(name) if len(name) <= 18 else self.fail("a size below 10**18")

    def value(self) -> Value:
        name = self.name()
        self.expect(":")
        dtype = self.name()
        if dtype not in DTYPES:
            self.fail(" ".join(DTYPES))
        self.expect("[")
        dims: list[Dim] = []
        while not self.accept("]"):
            if dims:
                self.expect(",")
            dims.append(self.dim())
        return Value(name, dtype, tuple(dims))

    def node(self) -> tuple[Node, list[Value]]:
        results = [self.value()]
        while self.accept(","):
            results.append(self.value())
        self.expect("=")
        op = self.name()
        self.expect("(")
        operands: list[str] = []
        while not self.accept(")"):
            if operands:
                self.expect(",")
            operands.append("" if self.accept("_") else self.name())
        attrs: Attrs = {}
        if not self.done():
            given = self.json("attributes as a JSON object")
            if not isinstance(given, dict):
                self.fail("attributes as a JSON object")
            for key, value in cast("dict[str, Any]", given).items():
                attrs[key] = tuple(cast("list[Any]", value)) if isinstance(value, list) else value
        return Node(op, tuple(operands), tuple(v.name for v in results), attrs), results


def parse_text(text: str, *, params: Mapping[str, Tensor] | None = None) -> Graph:
    """The graph of a text, verified.

    params: the parameters' data by name; without it each is a `ParamSpec`. GraphError MV0315 for
    text that does not parse (line and column), else as `verify`.
    """
    graph = Graph("", (), (), [], {}, {}, {})
    lines = text.splitlines()
    if not lines or lines[0].strip() != HEADER:
        _Line(lines[0] if lines else "", 1).fail(HEADER)
    for number, content in enumerate(lines[1:], start=2):
        line = _Line(content, number)
        if not line.done():
            _parse_line(line, graph, params)
            if not line.done():
                line.fail("end of line")
    verify(graph)
    return graph


def _parse_line(line: _Line, graph: Graph, params: Mapping[str, Tensor] | None) -> None:
    word = line.name()
    if word == "graph":
        graph.name = line.name()
    elif word == "meta":
        key = line.name()
        graph.meta[key] = str(line.json("a quoted text"))
    elif word == "output":
        graph.outputs += (line.name(),)
    elif word == "input":
        value = line.value()
        graph.inputs += (value.name,)
        _record(line, graph, value)
    elif word == "param":
        value = line.value()
        fmt = value.dtype if line.done() else line.name()
        sizes = tuple(dim for dim in value.shape if isinstance(dim, int))
        if len(sizes) != len(value.shape):
            line.fail("a parameter's sizes are numbers")
        if params is not None and value.name not in params:
            line.fail(f"a parameter that is given: {' '.join(list(params)[:8])} ...")
        spec = ParamSpec(fmt, sizes)
        tensor = spec if params is None else params[value.name]
        if param_format(tensor) != fmt or tuple(tensor.shape) != sizes:
            line.fail(f"the given tensor, {param_format(tensor)}{list(tensor.shape)}")
        graph.params[value.name] = tensor
        _record(line, graph, value)
    elif word == "node":
        node, results = line.node()
        graph.nodes.append(node)
        for value in results:
            _record(line, graph, value)
    else:
        line.at = 0
        line.fail("graph, meta, input, param, node or output")


def _record(line: _Line, graph: Graph, value: Value) -> None:
    if value.name in graph.values:
        line.at = 0
        line.fail(f"a name not yet used, not {value.name}")
    graph.values[value.name] = value
