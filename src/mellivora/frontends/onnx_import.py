"""The state of an ONNX import: what each ONNX value has become, and how nodes are emitted.

An operand is a graph value's name or an array known at load. Work on operands that are all known is
done at once by the graph's own reference functions, so constants and shape arithmetic fold away. A
shape that holds symbols is an object array of ints and names; it may be cut, joined and compared,
but not computed with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np

from mellivora.errors import ModelError
from mellivora.graph.ir import DTYPES, Array, Builder, Dim, Node, Shape, Value, dtype_name
from mellivora.graph.kv_cache import KVCache
from mellivora.graph.ops import OPS, complete_attrs, infer
from mellivora.graph.reference import Context, Precision

Operand: TypeAlias = "str | Array"

MAX_CONSTANT_BYTES = 1 << 30  # nothing folded at load grows beyond this
_MOVES = ("gather", "concat", "slice", "split", "reshape", "transpose", "expand", "where")
_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1}


class Importer:
    """Builds one graph; node handlers call `emit`. `where` names the ONNX node at work."""

    def __init__(self, name: str, opset: int) -> None:
        self.builder = Builder(name)
        self.opset = opset
        self.where = ""
        self.operands: dict[str, Operand] = {}
        self.uses: dict[str, int] = {}
        self._params: dict[int, tuple[Array, str]] = {}
        self._arrays: dict[str, Array] = {}
        self._names: dict[int, str] = {}

    # ---- what is known of an operand
    def shape(self, operand: Operand) -> Shape:
        """Its dimensions, ints or symbols."""
        return self.builder[operand].shape if isinstance(operand, str) else operand.shape

    def rank(self, operand: Operand) -> int:
        """How many axes it has."""
        return len(self.shape(operand))

    def dtype(self, operand: Operand) -> str:
        """Its dtype by the graph's name; a shape with symbols is int64."""
        if isinstance(operand, str):
            return self.builder[operand].dtype
        return "int64" if operand.dtype == object else dtype_name(operand.dtype, where=self.where)

    def name_constant(self, array: Array, name: str) -> None:
        """Remember the name a constant had in the file, for its parameter."""
        self._names.setdefault(id(array), name)

    def value(self, operand: Operand) -> str:
        """The operand as a graph value; a constant becomes a parameter the first time."""
        if isinstance(operand, str):
            return operand
        if operand.dtype == object:
            raise self.error(
                "MV0278",
                "a symbolic dimension is used as data",
                given=str(operand.tolist()),
                hint="fix it when loading: dims={'name': size}",
            )
        if id(operand) not in self._params:
            stem = self._names.get(id(operand), "constant")
            name = self.builder.param(self.builder.fresh(stem), np.asarray(operand, order="C"))
            # The array is kept with its name, so that its id is not given to another.
            self._params[id(operand)] = (operand, name)
            self._arrays[name] = operand
        return self._params[id(operand)][1]

    # ---- emission
    def emit(self, op: str, *operands: Operand | None, **attrs: Any) -> Operand:
        """One node with one result, or the result itself where all operands are known."""
        return self.emit_all(op, *operands, **attrs)[0]

    def emit_all(self, op: str, *operands: Operand | None, **attrs: Any) -> list[Operand]:
        """One node, all its results."""
        # A table cut or spread to a symbolic size has to wait for the run.
        waits = any(isinstance(d, str) for v in attrs.values() if isinstance(v, tuple) for d in v)
        if not waits and not any(isinstance(operand, str) for operand in operands):
            return self._fold(op, operands, attrs)
        names = [self.value(o) if o is not None else "" for o in operands]
        while names and not names[-1]:
            names.pop()
        return list(self.builder.ops(op, names, **attrs))

    def _fold(self, op: str, operands: Sequence[Any], attrs: dict[str, Any]) -> list[Operand]:
        full = complete_attrs(op, attrs, where=self.where)
        symbolic = any(o is not None and o.dtype == object for o in operands)
        if symbolic:
            if op == "cast" and full["to"] in ("int64", "int32"):
                return [operands[0]]
            if op in _NEUTRAL:
                return [self._symbolic_arithmetic(op, *operands)]
            if op not in _MOVES and not (op == "compare" and full["kind"] in ("eq", "ne")):
                raise self._symbolic(op, operands)
        else:
            values = [
                None if o is None else Value("constant", self.dtype(o), o.shape) for o in operands
            ]
            for dtype, shape in infer(op, values, full, where=self.where):
                self.check_size(shape, DTYPES[dtype].itemsize)
        row = OPS[op]
        padded = [*operands, *[None] * ((row.arity[1] or 0) - len(operands))]
        with np.errstate(all="ignore"):
            try:
                result = row.reference(Context(KVCache(), Precision()), full, padded)
            except (IndexError, ValueError, TypeError) as error:
                raise self.error(
                    "MV0277",
                    "constant arithmetic in the model fails",
                    given=f"{op}: {error}",
                    hint="check the model with onnx.checker",
                ) from None
        results = result if isinstance(result, list) else [result]
        kind = object if symbolic else None  # NumPy gives a lone symbol as a str, not an array
        return [settled(np.asarray(array, dtype=kind)) for array in results]

    def _symbolic_arithmetic(self, op: str, a: Array, b: Array) -> Operand:
        """Numbers among symbols; a symbol itself survives only what leaves it as it is."""

        def one(x: Dim, y: Dim) -> Dim:
            if isinstance(x, int) and isinstance(y, int):
                array = OPS[op].reference(
                    Context(KVCache(), Precision()), {}, [np.array(x), np.array(y)]
                )
                return int(cast("Any", array))
            if y == _NEUTRAL[op]:
                return x
            if x == _NEUTRAL[op] and op in ("add", "mul"):
                return y
            raise self._symbolic(op, [a, b])

        left, right = np.broadcast_arrays(a, b)
        flat = [one(_plain(x), _plain(y)) for x, y in zip(left.ravel(), right.ravel(), strict=True)]
        return settled(np.array(flat, dtype=object).reshape(left.shape))

    def _symbolic(self, op: str, operands: Sequence[Any]) -> ModelError:
        return self.error(
            "MV0278",
            "the model computes with a symbolic dimension",
            given=f"{op}({', '.join(str(o.tolist()) for o in operands if o is not None)})",
            allowed="symbols that are cut, joined and compared",
            hint="fix the dimension when loading: dims={'name': size}",
        )

    def check_size(self, shape: Shape, item_bytes: int) -> None:
        """ModelError MV0276 where a constant would be larger than MAX_CONSTANT_BYTES."""
        size = math.prod(d for d in shape if isinstance(d, int)) * item_bytes
        if size > MAX_CONSTANT_BYTES:
            raise self.error(
                "MV0276",
                "a constant of the model is too large",
                given=f"{list(shape)}, {size} bytes",
                allowed=f"at most {MAX_CONSTANT_BYTES} bytes",
                hint="check the model: a shape in it is probably wrong",
            )

    def maker(self, operand: Operand) -> Node | None:
        """The node that makes a value."""
        return self.builder.maker(operand) if isinstance(operand, str) else None

    def constant(self, name: str) -> Array | None:
        """The array behind a graph value, None where it is no constant."""
        return self._arrays.get(name)

    def tensor(self, proto: Any) -> Array:
        """A TensorProto as an array."""
        raise NotImplementedError

    def error(
        self, code: str, what: str, *, given: str = "", allowed: str = "", hint: str = ""
    ) -> ModelError:
        """A ModelError at the node at work."""
        return ModelError(code, what, where=self.where, given=given, allowed=allowed, hint=hint)


def _plain(value: Any) -> Dim:
    return value if isinstance(value, str) else int(value)


def settled(array: Array) -> Array:
    """An object array without symbols becomes int64 (or bool) again."""
    if array.dtype != object:
        return array
    items = array.ravel().tolist()
    if all(isinstance(item, bool | np.bool_) for item in items) and items:
        return array.astype(np.bool_)
    if any(isinstance(item, str) for item in items):
        return array
    return array.astype(np.int64)


class NodeView:
    """One ONNX node as its handler sees it: operands, and attributes checked for their type."""

    def __init__(self, importer: Importer, proto: Any, operands: list[Operand | None]) -> None:
        self.g, self.op = importer, str(proto.op_type)
        self.operands = operands
        self.outputs = list(proto.output)
        self.inputs = list(proto.input)
        self._attrs = {attr.name: attr for attr in proto.attribute}

    @property
    def opset(self) -> int:
        """The model's opset of the default domain."""
        return self.g.opset

    def opt(self, index: int) -> Operand | None:
        """Operand `index`, None where it is left out."""
        return self.operands[index] if index < len(self.operands) else None

    def x(self, index: int = 0) -> Operand:
        """Operand `index`; ModelError MV0271 where it is left out."""
        operand = self.opt(index)
        if operand is None:
            raise self.g.error(
                "MV0271",
                "an operand of the node is missing",
                given=f"{len(self.operands)} operands, none at {index}",
                hint="check the model with onnx.checker",
            )
        return operand

    def known(self, index: int) -> Array:
        """Operand `index` as an array; ModelError MV0270 where only a run can tell it."""
        operand = self.x(index)
        if isinstance(operand, str):
            raise self.g.error(
                "MV0270",
                f"{self.op} needs operand {index} at load time, but it depends on the inputs",
                given=operand,
                allowed="a constant, or arithmetic on constants and shapes",
                hint="export the model with fixed shapes, or simplify it with onnxsim",
            )
        return operand

    def dims(self, index: int) -> tuple[Dim, ...]:
        """A known operand as a tuple of ints and symbols."""
        return tuple(_plain(item) for item in self.known(index).ravel().tolist())

    def ints_of(self, index: int) -> tuple[int, ...]:
        """A known operand as a tuple of ints; ModelError MV0278 where it holds symbols."""
        dims = self.dims(index)
        if any(isinstance(dim, str) for dim in dims):
            raise self.g.error(
                "MV0278",
                f"{self.op} needs numbers where the model has a symbolic dimension",
                given=str(list(dims)),
                hint="fix the dimension when loading: dims={'name': size}",
            )
        return cast("tuple[int, ...]", dims)

    def _attr(self, name: str, field: str, kind: int, default: Any) -> Any:
        if name not in self._attrs:
            if default is None:
                raise self.g.error(
                    "MV0272",
                    "an attribute of the node is missing",
                    given=f"no {name}",
                    hint="check the model with onnx.checker",
                )
            return default
        proto = self._attrs[name]
        if proto.type != kind:
            raise self.g.error(
                "MV0272",
                "an attribute of the node has the wrong type",
                given=f"{name} of type {proto.type}",
                allowed=field,
                hint="check the model with onnx.checker",
            )
        return getattr(proto, field)

    # AttributeProto's type numbers: FLOAT 1, INT 2, STRING 3, TENSOR 4, FLOATS 6, INTS 7.
    def float(self, name: str, default: float | None = None) -> float:
        """A float attribute."""
        return float(self._attr(name, "f", 1, default))

    def int(self, name: str, default: int | None = None) -> int:
        """An int attribute."""
        return int(self._attr(name, "i", 2, default))

    def text(self, name: str, default: str | None = None) -> str:
        """A text attribute."""
        value = self._attr(name, "s", 3, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def ints(self, name: str, default: Sequence[Any] | None = None) -> tuple[Any, ...]:
        """An attribute of several ints."""
        return tuple(self._attr(name, "ints", 7, default))

    def has(self, name: str) -> bool:
        """Whether the attribute is given."""
        return name in self._attrs

    def attr_proto(self, name: str) -> Any:
        """The raw attribute, for tensors."""
        return self._attrs[name]

    def refuse(self, what: str, given: str, hint: str) -> ModelError:
        """ModelError MV0273: a variant of a known operator that is not supported."""
        return self.g.error("MV0273", f"{self.op}: {what}", given=given, hint=hint)
