"""What lowerings share: the state of a compilation, and the table that they enter themselves in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mellivora import numerics
from mellivora.compiler.generic import elementwise as ew
from mellivora.compiler.generic import matmul, move
from mellivora.compiler.generic.tensors import View
from mellivora.compiler.generic.work import Work
from mellivora.errors import CompileError
from mellivora.graph.ir import Graph, Node

Array = npt.NDArray[Any]
EXACT_INTEGER = 1 << 24
"""Integers up to here are FP32 values."""


@dataclass
class Lowering:
    """State of a compilation: the views of values so far, packed constants, inputs for gathers."""

    work: Work
    graph: Graph
    shapes: dict[str, tuple[int, ...]]
    symbols: dict[str, int]
    views: dict[str, View] = field(default_factory=dict)
    indices: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Integer inputs that gathers read: (first parameter, count)."""
    packed: dict[tuple[str, str], matmul.BMatrix] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    """Integer inputs that are indices: the number of rows they pick from."""

    readers: dict[str, list[Node]] = field(default_factory=dict)
    """The nodes that read each value."""

    relu: bool = False
    """Whether the product that is being lowered ends in a ReLU."""

    def zero(self) -> View:
        """The number 0 in DRAM."""
        return View.dense(self.work.zeros, (1,))

    def view(self, name: str) -> View:
        """A value as FP32 in DRAM; parameters are placed when first read."""
        if name not in self.views:
            array = np.ascontiguousarray(self.constant(name))
            if array.dtype.kind in "iu" and array.size:
                top = int(np.abs(array.astype(np.float64)).max())
                if top > EXACT_INTEGER:
                    raise CompileError(
                        "MV0433",
                        "an integer constant is too large for FP32",
                        where=self.work.where,
                        given=f"{name}: {top}",
                        allowed=f"at most {EXACT_INTEGER}",
                        hint="clip it, or compute it before the model",
                    )
            wide = array.astype(np.float32)
            self.views[name] = View.dense(self.work.arena.constant(wide), wide.shape)
        return self.views[name]

    def constant(self, name: str) -> Array:
        """A parameter's values."""
        tensor: Any = self.graph.params[name]
        return tensor if isinstance(tensor, np.ndarray) else tensor.dequantize()

    def known(self, name: str) -> Array | None:
        """The values, where they are a parameter's."""
        return self.constant(name) if name in self.graph.params else None

    def operand(self, name: str) -> ew.Operand:
        """A single constant as a number, anything else as a view."""
        array = self.known(name)
        if array is not None and array.size == 1:
            return float(np.float32(array.reshape(())))
        return self.view(name)

    def pack(self, name: str, form: str, matrix: Array | numerics.BlockTensor) -> matmul.BMatrix:
        """A constant matrix [n, k], packed once."""
        if (name, form) not in self.packed:
            self.packed[name, form] = matmul.pack_constant(self.work, matrix)
        return self.packed[name, form]


Lower = Callable[[Lowering, Node], Sequence[View]]
LOWER: dict[str, Lower] = {}


def lowers(*names: str) -> Callable[[Lower], Lower]:
    """Enter a function in the table of lowerings."""

    def enter(function: Lower) -> Lower:
        LOWER.update(dict.fromkeys(names, function))
        return function

    return enter


def attr(node: Node, name: str) -> Any:
    return node.attrs[name]


def constant_view(low: Lowering, array: Array) -> View:
    return View.dense(low.work.arena.constant(array), array.shape)


def reshaped(low: Lowering, x: View, shape: Sequence[int]) -> View:
    """A view where that is possible, else a copy."""
    view = x.reshape(shape)
    if view is None:
        view = move.copy(low.work, x).reshape(shape)
        assert view is not None
        low.work.barrier()
    return view
