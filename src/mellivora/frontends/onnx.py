"""ONNX files: `load_onnx` makes a graph of a model, or says in one error what stands in the way.

Nothing in the file is believed: sizes are compared with the bytes that are there before anything is
allocated, external data stays inside the model's folder, an operator that is not known is refused.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mellivora.errors import GraphError, ModelError
from mellivora.frontends import onnx_layers, onnx_moves
from mellivora.frontends.onnx_import import Importer, NodeView, Operand
from mellivora.frontends.onnx_ops import ELEMENT_TYPES, HANDLERS
from mellivora.graph.ir import DTYPES, Array, Dim, Graph, Node, Value, drop_unused
from mellivora.graph.verify import verify

OLDEST_OPSET = 7
NEWEST_OPSET = 28
_DEFAULT_DOMAINS = ("", "ai.onnx")
_HANDLER_MODULES = (onnx_layers, onnx_moves)  # importing them enters their handlers


def load_onnx(source: str | Path | bytes, *, dims: Mapping[str, int] | None = None) -> Graph:
    """The graph of an ONNX model, verified; its values keep their ONNX names.

    source: a file, or its bytes (then without external data).
    dims: sizes for symbolic dimensions of the inputs, by name; others stay symbols.
    Constants are folded, BatchNormalization is folded into the convolution before it.
    ModelError MV0270 to MV0289 for what cannot be loaded.
    """
    folder = None if isinstance(source, bytes) else Path(source).parent
    model, name = _read(source)
    opset = _opset(model, name)
    importer = _Loader(model.graph.name or "onnx", opset, folder)
    return importer.load(model, dict(dims or {}))


def _read(source: str | Path | bytes) -> tuple[Any, str]:
    """The ModelProto, and what to call it in errors."""
    from google.protobuf.message import DecodeError

    import onnx

    name = "bytes" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ModelError(
            "MV0288",
            "the ONNX file cannot be read",
            where=name,
            given=str(error.strerror),
            hint="check the path and its permissions",
        ) from None
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        model, reason = None, str(error)
    else:
        reason = "no nodes or no outputs in it"
    if model is None or not model.graph.output or not model.ir_version:
        raise ModelError(
            "MV0280",
            "this is not a whole ONNX model",
            where=name,
            given=f"{len(data)} bytes; {reason}",
            allowed="a serialised onnx.ModelProto",
            hint="download or export the file again; onnx.checker.check_model tells more",
        )
    if model.functions:
        import onnx.inliner

        model = onnx.inliner.inline_local_functions(model)
    return model, name


def _opset(model: Any, name: str) -> int:
    versions = [o.version for o in model.opset_import if o.domain in _DEFAULT_DOMAINS]
    if not versions or not OLDEST_OPSET <= max(versions) <= NEWEST_OPSET:
        raise ModelError(
            "MV0281",
            "the model's opset is not supported",
            where=name,
            given=str(max(versions)) if versions else "none",
            allowed=f"{OLDEST_OPSET} to {NEWEST_OPSET}",
            hint="onnx.version_converter.convert_version(model, 21) writes another opset",
        )
    return int(max(versions))


def _tensor_error(where: str, given: str, allowed: str) -> ModelError:
    return ModelError(
        "MV0284",
        "a tensor's data does not fit its shape",
        where=where,
        given=given,
        allowed=allowed,
        hint="the file is damaged or truncated; download or export it again",
    )


class _Loader(Importer):
    """An import with its file: tensors, external data, the walk over the nodes."""

    def __init__(self, name: str, opset: int, folder: Path | None) -> None:
        super().__init__(name, opset)
        self.folder = folder

    # ---- tensors
    def tensor(self, proto: Any) -> Array:
        """A TensorProto as an array; its size is checked before anything is allocated."""
        where = f"tensor {proto.name!r}" if proto.name else self.where
        dtype = DTYPES[self._element_type(proto.data_type, where)]
        shape = tuple(int(d) for d in proto.dims)
        if any(d < 0 for d in shape):
            raise _tensor_error(where, f"shape {list(shape)}", "sizes of at least 0")
        count = math.prod(shape)
        need = count * dtype.itemsize
        external = {entry.key: entry.value for entry in proto.external_data}
        if proto.data_location == 1 or external:
            return self._external(external, where, need, dtype, shape)
        if proto.HasField("raw_data"):
            if len(proto.raw_data) != need:
                given = f"{len(proto.raw_data)} bytes for {dtype}{list(shape)}"
                raise _tensor_error(where, given, f"{need} bytes")
            # A copy, aligned and writable; the file's numbers are little endian.
            return (
                np.frombuffer(proto.raw_data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)
            )
        fields = (proto.float_data, proto.int32_data, proto.int64_data)
        stored = max((*fields, proto.double_data, proto.uint64_data), key=len)
        if len(stored) != count:
            raise _tensor_error(where, f"{len(stored)} numbers for {list(shape)}", f"{count}")
        if dtype in (DTYPES["f16"], DTYPES["bf16"]) and count:
            bits = np.array(stored, np.uint64).astype(np.uint16)
            return bits.view(dtype).reshape(shape)
        return np.array(stored).astype(dtype).reshape(shape)

    def _element_type(self, number: int, where: str) -> str:
        if number not in ELEMENT_TYPES:
            raise ModelError(
                "MV0285",
                "a tensor has an element type that a graph does not have",
                where=where,
                given=f"element type {number}",
                allowed=" ".join(ELEMENT_TYPES.values()),
                hint="convert the model to floats or plain integers",
            )
        return ELEMENT_TYPES[number]

    def _external(
        self, entry: dict[str, str], where: str, need: int, dtype: np.dtype[Any], shape: Any
    ) -> Array:
        """Data beside the model: a plain relative path that stays inside the model's folder."""

        def refuse(given: str, allowed: str) -> ModelError:
            return ModelError(
                "MV0283",
                "the external data of a tensor is refused",
                where=where,
                given=given,
                allowed=allowed,
                hint="keep the model and its data files in one folder, or embed the data",
            )

        location = entry.get("location", "")
        if self.folder is None:
            raise refuse(location, "a model loaded from a path, not from bytes")
        root = self.folder.resolve()
        try:
            path = (root / location).resolve()
            inside = bool(location) and "\0" not in location and path.is_relative_to(root)
            size = path.stat().st_size if inside and path.is_file() else -1
        except (OSError, ValueError, RuntimeError):
            inside, size, path = False, -1, root
        if not inside or size < 0:
            raise refuse(location or "no location", f"a file inside {self.folder}")
        try:
            offset, length = int(entry.get("offset", "0")), int(entry.get("length", str(need)))
        except ValueError:
            raise refuse(f"{entry}", "numbers for offset and length") from None
        if offset < 0 or length != need or offset + need > size:
            given = f"offset {offset}, length {length} of {location} ({size} bytes)"
            raise refuse(given, f"{need} bytes inside the file")
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(need)
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(shape)

    # ---- the walk
    def load(self, model: Any, dims: dict[str, int]) -> Graph:
        """Inputs, initializers, nodes in order, outputs."""
        proto = model.graph
        if proto.sparse_initializer:
            raise ModelError(
                "MV0268",
                "sparse initializers are not supported",
                where=proto.sparse_initializer[0].values.name,
                hint="export the model with dense tensors",
            )
        for tensor in proto.initializer:
            array = self.tensor(tensor)
            self.name_constant(array, tensor.name)
            self.operands[tensor.name] = array
        self._inputs(proto, dims)
        for node in proto.node:
            self.uses.update({name: self.uses.get(name, 0) + 1 for name in set(node.input)})
        for output in proto.output:
            self.uses[output.name] = self.uses.get(output.name, 0) + 1
        for index, node in enumerate(proto.node):
            label = node.name or next((name for name in node.output if name), "")
            self.where = f"node {index} {label!r} ({node.op_type}, opset {self.opset})"
            self._node(node)
        self.where = f"graph {proto.name!r}"
        return self._finish([output.name for output in proto.output], model)

    def _inputs(self, proto: Any, dims: dict[str, int]) -> None:
        used: set[str] = set()
        for info in proto.input:
            if info.name in self.operands:
                continue  # before IR version 4 initializers were listed as inputs too
            where = f"input {info.name!r}"
            kind = info.type.tensor_type
            if not info.type.HasField("tensor_type"):
                raise ModelError(
                    "MV0269",
                    "an input is not a tensor",
                    where=where,
                    hint="sequences, maps and optionals are not supported",
                )
            dtype = self._element_type(kind.elem_type, where)
            shape: list[Dim] = []
            for axis, dim in enumerate(kind.shape.dim):
                symbol = dim.dim_param or f"{info.name}.{axis}"
                if dim.HasField("dim_value") and dim.dim_value >= 0:
                    shape.append(int(dim.dim_value))
                else:
                    shape.append(dims.get(symbol, symbol))
                    used.add(symbol)
            self.operands[info.name] = self.builder.input(info.name, dtype, shape)
        if set(dims) - used or any(size < 0 for size in dims.values()):
            raise ModelError(
                "MV0289",
                "dims names no symbolic dimension of the inputs, or gives a negative size",
                where="dims",
                given=str(dims),
                allowed=" ".join(sorted(used)) or "no symbols: every input has fixed dimensions",
                hint="use the names that the inputs' shapes have",
            )

    def _node(self, proto: Any) -> None:
        handler = HANDLERS.get(proto.op_type) if proto.domain in _DEFAULT_DOMAINS else None
        if handler is None:
            domain = "" if proto.domain in _DEFAULT_DOMAINS else f"{proto.domain}."
            raise self.error(
                "MV0282",
                "the model uses an operator that is not supported",
                given=f"{domain}{proto.op_type}, opset {self.opset}",
                allowed=" ".join(sorted(HANDLERS)),
                hint="export the model without this operator, or add a handler for it in "
                "frontends/onnx_ops.py (docs/graph.md)",
            )
        operands: list[Operand | None] = []
        for name in proto.input:
            if name and name not in self.operands:
                raise self.error(
                    "MV0286",
                    "a node reads a value that nothing before it makes",
                    given=name,
                    hint="the file is damaged or its nodes are out of order; export it again",
                )
            operands.append(self.operands[name] if name else None)
        view = NodeView(self, proto, operands)
        try:
            results = handler(view)
        except GraphError as error:
            raise self.error(
                "MV0287",
                f"a node breaks a rule of the graph: {error.what}",
                given=error.given,
                allowed=error.allowed,
                hint=error.hint or "check the model with onnx.checker and shape inference",
            ) from error
        if isinstance(results, str | np.ndarray):
            results = [results]
        for name, result in zip(proto.output, results, strict=False):
            if name in self.operands:
                raise self.error(
                    "MV0274", "two nodes make one value", given=name, hint="export it again"
                )
            if name:
                self.operands[name] = result
                if not isinstance(result, str):
                    self.name_constant(result, name)

    def _finish(self, outputs: Sequence[str], model: Any) -> Graph:
        """Rename values to their ONNX names, drop what nothing needs, verify."""
        rename: dict[str, str] = {}
        finals: list[str] = []
        for name in outputs:
            if name not in self.operands:
                raise self.error(
                    "MV0275", "nothing makes this output", given=name, hint="export it again"
                )
            value = self.value(self.operands[name])
            made = self.builder.maker(value) is not None
            if not made or value in rename:
                # An input, a constant, or a value that is an output already: give it its own node.
                value = self.builder.op("reshape", [value], shape=self.builder[value].shape)
            rename[value] = name
            finals.append(name)
        taken = set(rename.values())
        for name, operand in self.operands.items():
            if not isinstance(operand, str) or self.builder.maker(operand) is None:
                continue
            if operand not in rename and name not in taken:
                rename[operand] = name
                taken.add(name)
        return renamed(self.builder.unchecked(), rename, tuple(finals), _meta(model))


def _meta(model: Any) -> dict[str, str]:
    found = {"producer": model.producer_name, "producer_version": model.producer_version}
    return {key: text for key, text in found.items() if text}


def renamed(
    graph: Graph, rename: Mapping[str, str], outputs: tuple[str, ...], meta: dict[str, str]
) -> Graph:
    """The graph with values renamed, unused parts dropped, and verified."""
    # A generated name that an ONNX value wants makes way.
    wanted = Counter(rename.values())
    full = dict(rename)
    for name in graph.values:
        if name not in full and name in wanted:
            fresh = f"{name}.0"
            while fresh in graph.values or fresh in wanted:
                fresh += "0"
            full[name] = fresh
    for name in graph.inputs:
        full.pop(name, None)

    def new(name: str) -> str:
        return full.get(name, name)

    nodes = [
        Node(n.op, tuple(map(new, n.inputs)), tuple(map(new, n.outputs)), n.attrs)
        for n in graph.nodes
    ]
    values = {new(k): Value(new(k), v.dtype, v.shape) for k, v in graph.values.items()}
    params = {new(k): tensor for k, tensor in graph.params.items()}
    result = Graph(graph.name, graph.inputs, outputs, nodes, values, params, meta)
    drop_unused(result)
    verify(result)
    return result
