"""Any graph of static shapes to a program: `compile_graph`, a flat list of passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mellivora.compiler.emit import emit
from mellivora.compiler.generic import lower_math, lower_moves, lower_windows, move
from mellivora.compiler.generic.lower_elementwise import ENDS_IN_RELU, chain_length, lower_chain
from mellivora.compiler.generic.lowering import LOWER, Lowering
from mellivora.compiler.generic.tensors import View
from mellivora.compiler.generic.work import Work
from mellivora.compiler.ir import text as low_text
from mellivora.compiler.kernel import Kernel
from mellivora.compiler.sync import sync
from mellivora.errors import CompileError
from mellivora.graph.ir import Graph, Node, Shape
from mellivora.graph.verify import verify
from mellivora.isa.assembler import disassemble
from mellivora.isa.control import words_of
from mellivora.isa.encoding import PARAMETERS
from mellivora.isa.program import Entry, Program, Window
from mellivora.spec import ChipSpec

GRAPH_PASSES = ("verify", "lower", "sync", "emit")
"""In this order; `dump_after` takes one of these names."""
ENTRY = "main"
_TABLES = (lower_math, lower_moves, lower_windows)  # importing them enters their lowerings
DTYPES = ("f32", "int32", "int64", "bool")


@dataclass(frozen=True)
class Port:
    """An input or output: FP32, row major, at `offset` bytes of window `window`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    window: int
    offset: int
    limit: int = 0
    """Rows of the table that an input of indices picks from; 0: it is no index."""


@dataclass
class CompiledGraph:
    """A program of one entry, the image of its constants, and where inputs and outputs lie.

    indices: inputs whose elements are parameters as well: (first, count).
    """

    program: Program
    image: npt.NDArray[np.uint8]
    inputs: dict[str, Port]
    outputs: dict[str, Port]
    indices: dict[str, tuple[int, int]]
    buffers: list[tuple[str, int, int]] = field(default_factory=list)


def compile_graph(
    graph: Graph,
    chip: ChipSpec,
    *,
    dims: Mapping[str, int] | None = None,
    slices: int = 3,
    dump_after: str | None = None,
    dump: Callable[[str], None] = print,
) -> CompiledGraph:
    """Compile a graph for `chip`; every operation runs there, or CompileError MV043x names it.

    dims: sizes of symbolic dimensions. slices: 8-bit slices of both operands of matrix products,
    1 to 3; three are as good as FP32.
    """
    if not 1 <= slices <= 3:
        raise CompileError(
            "MV0428",
            "no such number of slices",
            given=str(slices),
            allowed="1, 2 or 3",
            hint="choose one of these",
        )
    if dump_after is not None and dump_after not in GRAPH_PASSES:
        raise CompileError(
            "MV0440",
            "a graph is compiled in other passes",
            given=dump_after,
            allowed=", ".join(GRAPH_PASSES),
            hint="name one of these passes",
        )
    if not chip.has_fp_vector or chip.dram_kind == "none":
        raise CompileError(
            "MV0441",
            "this chip cannot run a graph of floating point",
            where=chip.name,
            given="lacks an FP32 VECTOR engine or DRAM",
            hint="choose another chip: nano, micro or m1",
        )
    verify(graph)
    if dump_after == "verify":
        dump(str(graph))
    low = Lowering(Work(chip, slices, Kernel(chip)), graph, *_bind(graph, dict(dims or {})))
    inputs, outputs = _lower(low)
    kernel = low.work.kernel
    labels = [label for label, _ in kernel.labels]
    if dump_after == "lower":
        dump(low_text(kernel.items, labels))
    kernel.items = sync(kernel.items)
    if dump_after == "sync":
        dump(low_text(kernel.items, labels))
    code, symbols = emit(kernel.items, kernel.labels)
    if dump_after == "emit":
        dump("\n".join(disassemble(word) for word in words_of(code)))
    arena = low.work.arena
    parameters = {
        f"{name}[{i}]": first + i
        for name, (first, count) in low.indices.items()
        for i in range(count)
    }
    program = Program(
        graph.name,
        chip,
        {ENTRY: Entry(code, symbols, parameters)},
        [
            Window("constants", max(arena.constant_bytes, 64), False, "weights"),
            Window("activations", max(arena.activation_bytes, 64), True, "scratch"),
        ],
        {"kind": "graph", "slices": slices},
    )
    size = sum(window.bytes for window in program.windows)
    if size > chip.dram_bytes:
        raise CompileError(
            "MV0442",
            "the graph does not fit the chip's memory",
            where=chip.name,
            given=f"{size / 2**30:.2f} GiB",
            allowed=f"{chip.dram_bytes / 2**30:.2f} GiB",
            hint="use a smaller batch or image, fewer slices, or a chip with more DRAM",
        )
    places = [(n, b.address, b.size) for n, b in kernel.buffers.items()]
    image = np.zeros(program.windows[0].bytes, np.uint8)
    packed = arena.image()
    image[: len(packed)] = packed
    return CompiledGraph(program, image, inputs, outputs, low.indices, places)


def _bind(graph: Graph, dims: dict[str, int]) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Shapes of all values with symbols replaced."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in graph.values.items():
        unbound = [d for d in value.shape if isinstance(d, str) and d not in dims]
        if unbound:
            raise CompileError(
                "MV0429",
                "a dimension of the graph has no size",
                where=str(value),
                given=unbound[0],
                allowed="a size for each symbol",
                hint=f"give dims={{'{unbound[0]}': ...}}, or --dim {unbound[0]}=N",
            )
        shapes[name] = _sizes(value.shape, dims)
    return shapes, dims


def _sizes(shape: Shape, dims: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(dims[d] if isinstance(d, str) else d for d in shape)


def _lower(low: Lowering) -> tuple[dict[str, Port], dict[str, Port]]:
    """All nodes in order; memory of a tensor is free after the last that reads it."""
    graph, work = low.graph, low.work
    work.start()
    for name in graph.inputs:
        _check_dtype(low, name, f"input {name}")
        low.views[name] = work.new(low.shapes[name])
    kept = {low.views[name].dram for name in graph.inputs}
    last: dict[str, int] = {}
    for at, node in enumerate(graph.nodes):
        last.update(dict.fromkeys((*node.inputs, *node.outputs), at))
    last.update(dict.fromkeys(graph.outputs, len(graph.nodes)))
    low.readers = graph.consumers()
    at = -1
    while at + 1 < len(graph.nodes):
        first, at = at + 1, at + chain_length(low, at + 1)
        _nodes(low, graph.nodes[first : at + 1])
        alive = {low.views[n].dram for n in low.views if last.get(n, len(graph.nodes)) > at}
        done = {low.views[n].dram for n in low.views if first <= last.get(n, -1) <= at}
        for dram in sorted(done - alive - kept, key=lambda d: d.start):
            if dram.window:
                work.arena.free(dram)
        for name in [n for n in low.views if first <= last.get(n, -1) <= at]:
            if name not in graph.params and name not in graph.inputs:
                del low.views[name]
    outputs: dict[str, Port] = {}
    for name in graph.outputs:
        shape = low.shapes[name]
        view = low.view(name)
        dense = View.dense(view.dram, shape)
        if view.strides != dense.strides or view.offset != dense.offset or not view.dram.window:
            with work.operation(f"output {name}", "move"):
                view = move.copy(work, view)
        dtype = graph.values[name].dtype
        outputs[name] = Port(name, dtype, shape, view.dram.window, view.offset)
    inputs: dict[str, Port] = {}
    for name in graph.inputs:
        view, dtype = low.views[name], graph.values[name].dtype
        limit = low.limits.get(name, 0)
        inputs[name] = Port(name, dtype, low.shapes[name], view.dram.window, view.offset, limit)
    total = sum(count for _, count in low.indices.values())
    if total > PARAMETERS:
        raise CompileError(
            "MV0439",
            "the graph takes more indices than the parameter memory holds",
            where=", ".join(low.indices),
            given=str(total),
            allowed=str(PARAMETERS),
            hint="use a shorter sequence or a smaller batch",
        )
    return inputs, outputs


def _nodes(low: Lowering, nodes: Sequence[Node]) -> None:
    """One node, or a chain of elementwise ones."""
    for node in nodes:
        _check_node(low, node)
    first, last = nodes[0], nodes[-1]
    low.relu = len(nodes) > 1 and first.op in ENDS_IN_RELU
    with low.work.operation(last.where, first.op if low.relu else last.op):
        if low.relu:
            results = LOWER[first.op](low, first)
        elif len(nodes) > 1:
            results = [lower_chain(low, nodes)]
        else:
            results = LOWER[last.op](low, last)
    for name, view in zip(last.outputs, results, strict=True):
        if view.shape != low.shapes[name]:
            raise AssertionError(f"{last.where}: {view.shape} is not {low.shapes[name]}")
        low.views[name] = view


def _check_node(low: Lowering, node: Node) -> None:
    if node.op not in LOWER:
        raise CompileError(
            "MV0430",
            "this operation has no lowering to the chip",
            where=node.where,
            given=node.op,
            allowed=" ".join(sorted(LOWER)),
            hint="decompose it into these operations, or run that part elsewhere yourself",
        )
    for name in (*node.inputs, *node.outputs):
        if name and name not in low.graph.params:
            _check_dtype(low, name, node.where)


def _check_dtype(low: Lowering, name: str, where: str) -> None:
    dtype = low.graph.values[name].dtype
    if dtype not in DTYPES:
        raise CompileError(
            "MV0432",
            "values of this dtype have no place on the chip",
            where=where,
            given=f"{name}: {dtype}",
            allowed=", ".join(DTYPES),
            hint="convert the model to float32",
        )
