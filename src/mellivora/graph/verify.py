"""The law of the graph. `verify` is run on what every frontend makes and after every pass.

MV0301  a node or output names a value that nothing defines
MV0302  a value is defined twice
MV0303  no such operation
MV0304  wrong number of operands or results
MV0305  an attribute is missing or unknown
MV0306  an attribute has the wrong type or value
MV0307  a shape rule is broken
MV0308  a dtype rule is broken
MV0309  a recorded value is not what its node makes
MV0310  a parameter is not used
MV0311  a parameter's record differs from its tensor
MV0312  outputs: none, or one named twice
MV0313  a node reads a value made later: a cycle, or the wrong order
MV0314  a name, dtype or dimension is malformed
MV0315  the text form does not parse            (text.py)
MV0316  a run's inputs do not fit               (interpret.py)
MV0317  a parameter has no data                 (ir.py)
MV0318  an index lies outside its table         (interpret.py)
MV0319  a symbol is bound by no input
MV0320  a recorded value belongs to nothing
"""

from __future__ import annotations

from mellivora.errors import GraphError
from mellivora.graph.ir import DTYPES, Graph, Node, Value, param_value
from mellivora.graph.ops import check_attrs, infer, opdef


def verify(graph: Graph) -> None:
    """Raise GraphError for the first broken rule; return nothing if the graph is lawful."""
    _check_values(graph)
    defined: dict[str, str] = {}
    for name in graph.inputs:
        _define(name, "input", defined)
        _recorded(graph, name, "input")
    for name, tensor in graph.params.items():
        _define(name, "param", defined)
        record = _recorded(graph, name, "param")
        if record != param_value(name, tensor):
            raise GraphError(
                "MV0311",
                "a parameter's record differs from its tensor",
                where=f"param {name}",
                given=str(record),
                allowed=str(param_value(name, tensor)),
                hint="record what param_value(name, tensor) says",
            )
    makers = {name: node for node in graph.nodes for name in node.outputs}
    symbols = {d for name in graph.inputs for d in graph.values[name].shape if isinstance(d, str)}
    for node in graph.nodes:
        _check_node(graph, node, defined, makers, symbols)
    _check_ends(graph, defined)


def _check_values(graph: Graph) -> None:
    """Records are well formed and under their own name."""
    for key, value in graph.values.items():
        dims = all(
            (isinstance(d, int) and not isinstance(d, bool) and d >= 0)
            or (isinstance(d, str) and d != "")
            for d in value.shape
        )
        if key != value.name or not key or value.dtype not in DTYPES or not dims:
            raise GraphError(
                "MV0314",
                "a name, dtype or dimension is malformed",
                where=f"value {key!r}",
                given=str(value),
                allowed=f"its own name, a dtype of {' '.join(DTYPES)}, sizes >= 0 or symbols",
                hint="make values through Builder",
            )


def _define(name: str, by: str, defined: dict[str, str]) -> None:
    if name in defined:
        raise GraphError(
            "MV0302",
            "a value is defined twice",
            where=f"value {name}",
            given=f"{defined[name]} and {by}",
            hint="give each value its own name",
        )
    defined[name] = by


def _recorded(graph: Graph, name: str, by: str) -> Value:
    if name not in graph.values:
        raise GraphError(
            "MV0309",
            "a value has no record",
            where=f"{by} {name}",
            hint="add it to graph.values",
        )
    return graph.values[name]


def _check_node(
    graph: Graph, node: Node, defined: dict[str, str], makers: dict[str, Node], symbols: set[str]
) -> None:
    """Operands exist, attributes are right, results are as inferred."""
    opdef(node.op, where=node.where)
    for name in node.inputs:
        if not name or name in defined:
            continue
        if name in makers:
            cyclic = _reaches(makers, name, set(node.outputs))
            raise GraphError(
                "MV0313",
                "a node is part of a cycle" if cyclic else "a node reads a value made later",
                where=node.where,
                given=name,
                hint="break the cycle" if cyclic else "put the nodes in an order that can run",
            )
        raise GraphError(
            "MV0301",
            "a node reads a value that nothing defines",
            where=node.where,
            given=name,
            hint="define it as an input, a parameter or a node's result",
        )
    check_attrs(node.op, node.attrs, where=node.where)
    for key, value in node.attrs.items():
        loose = [d for d in value if isinstance(d, str)] if isinstance(value, tuple) else []
        if set(loose) - symbols:
            raise GraphError(
                "MV0319",
                "a symbolic dimension is bound by no input",
                where=node.where,
                given=f"{key}={value}",
                allowed=" ".join(sorted(symbols)),
                hint="use the symbols of the graph's inputs",
            )
    operands = [graph.values[name] if name else None for name in node.inputs]
    results = infer(node.op, operands, node.attrs, where=node.where)
    if len(results) != len(node.outputs):
        raise GraphError(
            "MV0304",
            "the operation has another number of results",
            where=node.where,
            given=f"{len(node.outputs)} results",
            allowed=str(len(results)),
            hint="name each result once",
        )
    for name, (dtype, shape) in zip(node.outputs, results, strict=True):
        _define(name, node.where, defined)
        record = _recorded(graph, name, node.where)
        if (record.dtype, record.shape) != (dtype, shape):
            raise GraphError(
                "MV0309",
                "a recorded value is not what its node makes",
                where=node.where,
                given=str(record),
                allowed=str(Value(name, dtype, shape)),
                hint="record what ops.infer says",
            )


def _reaches(makers: dict[str, Node], start: str, goals: set[str]) -> bool:
    """Whether `start` depends on one of `goals`."""
    todo, seen = [start], set[str]()
    while todo:
        name = todo.pop()
        if name in goals:
            return True
        if name in makers and name not in seen:
            seen.add(name)
            todo.extend(makers[name].inputs)
    return False


def _check_ends(graph: Graph, defined: dict[str, str]) -> None:
    """Outputs exist, parameters are used, and no record is left over."""
    if not graph.outputs or len(set(graph.outputs)) != len(graph.outputs):
        raise GraphError(
            "MV0312",
            "a graph has outputs, each named once",
            where=f"graph {graph.name}",
            given=" ".join(graph.outputs) or "none",
            hint="declare them with Builder.output",
        )
    for name in graph.outputs:
        if name not in defined:
            raise GraphError(
                "MV0301",
                "an output names a value that nothing defines",
                where=f"output {name}",
                given=name,
                hint="name an input, a parameter or a node's result",
            )
    used = {name for node in graph.nodes for name in node.inputs} | set(graph.outputs)
    for name in graph.params:
        if name not in used:
            raise GraphError(
                "MV0310",
                "a parameter is not used",
                where=f"param {name}",
                given=str(graph.values[name]),
                hint="drop it: Builder.build(prune=True) or ir.drop_unused",
            )
    for name in graph.values:
        if name not in defined:
            raise GraphError(
                "MV0320",
                "a recorded value belongs to nothing",
                where=f"value {name}",
                given=str(graph.values[name]),
                hint="remove the record with its node: ir.drop_unused",
            )
