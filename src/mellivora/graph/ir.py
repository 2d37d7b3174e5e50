"""The graph: values, nodes, parameters, and a builder that infers every shape.

A graph is a list of nodes in an order in which they can run. Every value has a name, a dtype and a
shape; a dimension is an int or the name of a symbol ("rows") that the inputs bind at run time.
Parameters are float arrays, block-quantised tensors, or a `ParamSpec`: a tensor without its data,
enough for timing and for the text form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, cast

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mellivora.errors import GraphError

Dim: TypeAlias = int | str
Shape: TypeAlias = tuple[Dim, ...]
Array: TypeAlias = NDArray[Any]
AttrValue: TypeAlias = int | float | str | bool | tuple[int | str, ...]
Attrs: TypeAlias = dict[str, AttrValue]

DTYPES: dict[str, np.dtype[Any]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f64": np.dtype(np.float64),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "bool": np.dtype(np.bool_),
}
FLOATS = ("f32", "f16", "bf16", "f64")
_NAME_OF_DTYPE = {dtype: name for name, dtype in DTYPES.items()}


class Quantised(Protocol):
    """What the graph needs to know of a block tensor: format, logical shape, its f32 values."""

    @property
    def fmt(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def dequantize(self) -> Array: ...


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """A parameter known by format and shape alone. `fmt` is a dtype name or a block format."""

    fmt: str
    shape: tuple[int, ...]

    def dequantize(self) -> Array:
        """Always an error: there is no data."""
        raise GraphError(
            "MV0317",
            "this parameter has a shape but no data",
            given=f"{self.fmt}{list(self.shape)}",
            hint="load the graph with its tensors: parse_text(text, params=...)",
        )


Tensor: TypeAlias = Array | Quantised


@dataclass(frozen=True, slots=True)
class Value:
    """A typed edge of the graph."""

    name: str
    dtype: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Node:
    """One operation. `inputs` holds value names; "" stands for an optional input left out."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Attrs = field(default_factory=dict[str, AttrValue])

    @property
    def where(self) -> str:
        """How error messages name this node."""
        return f"node {self.op} -> {', '.join(self.outputs)}"


@dataclass(slots=True)
class Graph:
    """Nodes in order, with the values and parameters they name. `meta` is free text for people.

    values holds every input, parameter and node output; `verify` checks all of it.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: list[Node]
    values: dict[str, Value]
    params: dict[str, Tensor]
    meta: dict[str, str] = field(default_factory=dict[str, str])

    def __str__(self) -> str:
        from mellivora.graph.text import to_text

        return to_text(self)

    def __repr__(self) -> str:
        return (
            f"<Graph {self.name}: {len(self.nodes)} nodes, {len(self.params)} params, "
            f"{', '.join(self.inputs)} -> {', '.join(self.outputs)}>"
        )

    def producer(self) -> dict[str, Node]:
        """Value name -> the node that makes it."""
        return {name: node for node in self.nodes for name in node.outputs}

    def consumers(self) -> dict[str, list[Node]]:
        """Value name -> the nodes that read it, in order."""
        found: dict[str, list[Node]] = {name: [] for name in self.values}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    found[name].append(node)
        return found


def dtype_name(dtype: np.dtype[Any], *, where: str = "") -> str:
    """The graph's name of a NumPy dtype; GraphError MV0308 where there is none."""
    if dtype not in _NAME_OF_DTYPE:
        raise GraphError(
            "MV0308",
            "this dtype has no place in a graph",
            where=where,
            given=str(dtype),
            allowed=" ".join(DTYPES),
            hint="convert the tensor before adding it",
        )
    return _NAME_OF_DTYPE[dtype]


def param_format(tensor: Tensor) -> str:
    """The storage format: a dtype name for arrays, the block format for quantised tensors."""
    return dtype_name(tensor.dtype) if isinstance(tensor, np.ndarray) else tensor.fmt


def param_value(name: str, tensor: Tensor) -> Value:
    """The value a parameter gives to the graph. Block formats read as f32."""
    fmt = param_format(tensor)
    return Value(name, fmt if fmt in DTYPES else "f32", tuple(int(d) for d in tensor.shape))


class Builder:
    """Makes a graph node by node; each call checks its node at once and infers the result.

    >>> b = Builder("tiny")
    >>> x = b.input("x", "f32", ("rows", 4))
    >>> b.output(b.op("relu", [x], name="y"))
    >>> b.build()
    <Graph tiny: 1 nodes, 0 params, x -> y>
    """

    def __init__(self, name: str, *, meta: Mapping[str, str] | None = None) -> None:
        self._graph = Graph(name, (), (), [], {}, {}, dict(meta or {}))
        self._counts: dict[str, int] = {}
        self._makers: dict[str, Node] = {}

    def __getitem__(self, name: str) -> Value:
        return self._graph.values[name]

    def __contains__(self, name: str) -> bool:
        return name in self._graph.values

    def _define(self, value: Value) -> str:
        if value.name in self._graph.values or not value.name:
            raise GraphError(
                "MV0302",
                "a value is defined twice" if value.name else "a value needs a name",
                where=f"value {value.name!r}",
                given=str(value),
                hint="give each value its own name",
            )
        self._graph.values[value.name] = value
        return value.name

    def maker(self, name: str) -> Node | None:
        """The node that makes a value so far; None for inputs and parameters."""
        return self._makers.get(name)

    def input(self, name: str, dtype: str, shape: Sequence[Dim]) -> str:
        """Declare a graph input; returns its name."""
        self._define(Value(name, dtype, tuple(shape)))
        self._graph.inputs += (name,)
        return name

    def param(self, name: str, tensor: Tensor) -> str:
        """Declare a parameter (array, block tensor or ParamSpec); returns its name."""
        self._define(param_value(name, tensor))
        self._graph.params[name] = tensor
        return name

    def fresh(self, stem: str) -> str:
        """A value name not yet used: stem, stem_1, stem_2, ..."""
        name = stem
        while name in self._graph.values:
            self._counts[stem] = self._counts.get(stem, 0) + 1
            name = f"{stem}_{self._counts[stem]}"
        return name

    def ops(
        self, op: str, inputs: Sequence[str], *, names: Sequence[str] = (), **attrs: Any
    ) -> tuple[str, ...]:
        """Add a node with any number of outputs; returns their names.

        attrs left out take the op's defaults; lists become tuples. GraphError as in `verify`.
        """
        from mellivora.graph.ops import complete_attrs, infer

        given = {
            key: tuple(cast("Sequence[int | str]", value)) if isinstance(value, list) else value
            for key, value in attrs.items()
        }
        where = f"node {op} -> {', '.join(names)}" if names else f"node {op}({', '.join(inputs)})"
        for name in inputs:
            if name and name not in self._graph.values:
                raise GraphError(
                    "MV0301",
                    "a node reads a value that nothing defines",
                    where=where,
                    given=name,
                    hint="define the value before the node that reads it",
                )
        full = complete_attrs(op, given, where=where)
        operands = [self._graph.values[name] if name else None for name in inputs]
        results = infer(op, operands, full, where=where)
        stem = f"{op}_{len(self._graph.nodes)}"
        chosen = [
            names[i] if i < len(names) else self.fresh(stem if i == 0 else f"{stem}_{i}")
            for i in range(len(results))
        ]
        for name, (dtype, shape) in zip(chosen, results, strict=True):
            self._define(Value(name, dtype, shape))
        node = Node(op, tuple(inputs), tuple(chosen), full)
        self._graph.nodes.append(node)
        self._makers.update(dict.fromkeys(chosen, node))
        return tuple(chosen)

    def op(self, op: str, inputs: Sequence[str], *, name: str = "", **attrs: Any) -> str:
        """Add a node with one output; returns the output's name."""
        return self.ops(op, inputs, names=(name,) if name else (), **attrs)[0]

    def output(self, name: str) -> None:
        """Declare a value to be an output of the graph."""
        self._graph.outputs += (name,)

    def unchecked(self) -> Graph:
        """The graph as it stands, not verified: for a frontend that still changes it."""
        return self._graph

    def build(self, *, prune: bool = False) -> Graph:
        """The finished graph, verified. prune drops nodes and parameters that no output needs."""
        from mellivora.graph.verify import verify

        if prune:
            drop_unused(self._graph)
        verify(self._graph)
        return self._graph


def drop_unused(graph: Graph) -> None:
    """Remove, in place, nodes and parameters that no output needs. Nodes with state stay."""
    from mellivora.graph.ops import OPS

    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs) or OPS[node.op].stateful:
            kept.append(node)
            needed.update(node.inputs)
    graph.nodes = kept[::-1]
    graph.params = {name: tensor for name, tensor in graph.params.items() if name in needed}
    made = {name for node in graph.nodes for name in node.outputs}
    alive = made | set(graph.inputs) | set(graph.params)
    graph.values = {name: value for name, value in graph.values.items() if name in alive}
