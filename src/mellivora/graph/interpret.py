"""Run a graph in NumPy: the definition that compilers and simulators are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mellivora.errors import GraphError
from mellivora.graph.ir import DTYPES, Array, AttrValue, Graph, Node, ParamSpec
from mellivora.graph.kv_cache import KVCache
from mellivora.graph.ops import OPS
from mellivora.graph.reference import Context, Linear, Precision, as_f32


class Interpreter:
    """A graph ready to run many times; block-quantised parameters are dequantised once.

    precision: None for float32; a function linear(x [m, k], weight [n, k]) -> [m, n], which then
    also works out attention's products; or a `Precision` for full control. Where a precision is
    given, `linear` sees its weight as stored (a block tensor stays one).
    """

    def __init__(self, graph: Graph, *, precision: Precision | Linear | None = None) -> None:
        self.graph = graph
        self._raw_weights = precision is not None
        self._precision = precision if isinstance(precision, Precision) else Precision(precision)
        self._f32: dict[str, Array] = {}
        self._last_use: dict[str, int] = {}
        for at, node in enumerate(graph.nodes):
            self._last_use.update(dict.fromkeys(node.inputs, at))

    def run(self, inputs: Mapping[str, Any], *, state: KVCache | None = None) -> dict[str, Array]:
        """Outputs by name. state: the key-value cache, which attention appends to.

        GraphError MV0316 where inputs are missing, unknown, or of another dtype or shape.
        """
        graph = self.graph
        symbols: dict[str, int] = {}
        values: dict[str, Any] = self._checked(inputs, symbols)
        context = Context(KVCache() if state is None else state, self._precision)
        keep = set(graph.outputs)
        with np.errstate(all="ignore"):
            for at, node in enumerate(graph.nodes):
                self._step(node, values, symbols, context)
                for name in node.inputs:
                    if self._last_use[name] == at and name not in keep:
                        values.pop(name, None)
        return {
            name: values[name] if name in values else self._param(name) for name in graph.outputs
        }

    def _step(
        self, node: Node, values: dict[str, Any], symbols: dict[str, int], context: Context
    ) -> None:
        row = OPS[node.op]
        operands: list[Any] = []
        for index, name in enumerate(node.inputs):
            if not name or name in values:
                operands.append(values[name] if name else None)
                continue
            raw = node.op == "linear" and index == 1 and self._raw_weights
            operands.append(self._param(name, raw=raw))
        most = row.arity[1]
        operands += [None] * ((most or 0) - len(operands))
        attrs = node.attrs
        if any(a.kind == "dims" for a in row.attrs.values()):
            attrs = {key: _bound(value, symbols, node) for key, value in attrs.items()}
        try:
            result = row.reference(context, attrs, operands)
        except IndexError as error:
            raise GraphError(
                "MV0318",
                "an index lies outside its table",
                where=node.where,
                given=str(error),
                hint="check the token ids or indices against the table's rows",
            ) from None
        results = result if isinstance(result, list) else [result]
        for name, array in zip(node.outputs, results, strict=True):
            values[name] = array
            record = self.graph.values[name].shape
            bound = tuple(symbols.get(d) if isinstance(d, str) else d for d in record)
            if array.shape != bound:
                raise GraphError(
                    "MV0321",
                    "a result has another shape than its record",
                    where=node.where,
                    given=f"{name}: {list(array.shape)}",
                    allowed=f"{list(record)} with {symbols}",
                    hint="give inputs whose symbolic dimensions fit the model's tables",
                )

    def _param(self, name: str, *, raw: bool = False) -> Any:
        tensor = self.graph.params[name]
        if isinstance(tensor, ParamSpec):
            try:
                tensor.dequantize()
            except GraphError as error:
                error.where = f"param {name}"
                raise
        if raw or isinstance(tensor, np.ndarray):
            return tensor
        if name not in self._f32:
            self._f32[name] = as_f32(tensor)
        return self._f32[name]

    def _checked(self, inputs: Mapping[str, Any], symbols: dict[str, int]) -> dict[str, Any]:
        """The inputs as arrays, every symbol bound once."""
        wanted = self.graph.inputs
        odd = sorted(set(inputs) ^ set(wanted))
        if odd:
            raise _input_error("inputs are missing or unknown", " ".join(odd), " ".join(wanted))
        arrays: dict[str, Any] = {}
        for name in wanted:
            value, array = self.graph.values[name], np.asarray(inputs[name])
            if array.dtype != DTYPES[value.dtype] or array.ndim != len(value.shape):
                given = f"{name}: {array.dtype}{list(array.shape)}"
                raise _input_error("an input has another dtype or rank", given, str(value))
            for dim, size in zip(value.shape, array.shape, strict=True):
                known = symbols.setdefault(dim, size) if isinstance(dim, str) else dim
                if known != size:
                    given = f"{name}: {array.dtype}{list(array.shape)}"
                    allowed = f"{value}" + (f" with {symbols}" if symbols else "")
                    raise _input_error("an input has another shape", given, allowed)
            arrays[name] = array
        return arrays


def _input_error(what: str, given: str, allowed: str) -> GraphError:
    return GraphError(
        "MV0316", what, where="inputs", given=given, allowed=allowed, hint="see graph.inputs"
    )


def _bound(value: AttrValue, symbols: dict[str, int], node: Node) -> AttrValue:
    if not isinstance(value, tuple):
        return value
    unbound = [dim for dim in value if isinstance(dim, str) and dim not in symbols]
    if unbound:
        raise GraphError(
            "MV0319",
            "a symbolic dimension is bound by no input",
            where=node.where,
            given=unbound[0],
            allowed=" ".join(symbols),
            hint="use the symbols of the graph's inputs",
        )
    return tuple(symbols[d] if isinstance(d, str) else d for d in value)


def interpret(
    graph: Graph,
    inputs: Mapping[str, Any],
    *,
    state: KVCache | None = None,
    precision: Precision | Linear | None = None,
) -> dict[str, Array]:
    """Run once: `Interpreter(graph, precision=precision).run(inputs, state=state)`."""
    return Interpreter(graph, precision=precision).run(inputs, state=state)
