"""The law: every kind of broken graph is refused with its own code, naming the node or value."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

import numpy as np
import pytest

from mellivora.errors import GraphError
from mellivora.graph import Builder, Graph, Node, Value, verify
from mellivora.graph.ir import drop_unused


def lawful() -> Graph:
    b = Builder("lawful")
    x = b.input("x", "f32", ("rows", 8))
    y = b.op("linear", [x, b.param("w", np.ones((4, 8), np.float32))], name="y")
    z = b.op("scale", [y], name="z", factor=2.0)
    b.output(b.op("add", [y, z], name="sum"))
    return b.build()


def node(graph: Graph, index: int, **changes: object) -> None:
    old = graph.nodes[index]
    fields = {k: changes.get(k, getattr(old, k)) for k in ("op", "inputs", "outputs", "attrs")}
    graph.nodes[index] = Node(**fields)  # type: ignore[arg-type]


def record(graph: Graph, key: str, value: Value) -> None:
    graph.values[key] = value


BROKEN: list[tuple[str, str, Callable[[Graph], None]]] = [
    ("MV0301", "z", lambda g: node(g, 1, inputs=("nowhere",))),
    ("MV0301", "nowhere", lambda g: setattr(g, "outputs", ("nowhere",))),
    ("MV0302", "y", lambda g: node(g, 1, outputs=("y",))),
    ("MV0302", "w", lambda g: setattr(g, "inputs", ("x", "w"))),
    ("MV0303", "z", lambda g: node(g, 1, op="triangulate")),
    ("MV0304", "z", lambda g: node(g, 1, inputs=("y", "y"))),
    ("MV0304", "sum", lambda g: node(g, 2, inputs=("y",))),
    ("MV0304", "sum", lambda g: node(g, 2, inputs=("y", ""))),
    ("MV0304", "z", lambda g: node(g, 1, outputs=("z", "z2"))),
    ("MV0305", "z", lambda g: node(g, 1, attrs={})),
    ("MV0305", "z", lambda g: node(g, 1, attrs={"factor": 1.0, "colour": 1})),
    ("MV0306", "z", lambda g: node(g, 1, attrs={"factor": 1})),
    ("MV0306", "z", lambda g: node(g, 1, attrs={"factor": float("nan")})),
    ("MV0306", "z", lambda g: node(g, 1, attrs={"factor": "2"})),
    ("MV0307", "sum", lambda g: node(g, 2, inputs=("y", "x"))),
    ("MV0308", "sum", lambda g: record(g, "x", Value("x", "int32", ("rows", 8)))),
    ("MV0309", "z", lambda g: record(g, "z", Value("z", "f32", ("rows", 5)))),
    ("MV0309", "z", lambda g: record(g, "z", Value("z", "f16", ("rows", 4)))),
    ("MV0309", "z", lambda g: g.values.pop("z") and None),
    ("MV0310", "v", lambda g: (g.params.update(v=np.ones(1, "f4")),
                               record(g, "v", Value("v", "f32", (1,))))[1]),
    ("MV0311", "w", lambda g: g.params.update(w=np.ones((4, 9), "f4"))),
    ("MV0311", "w", lambda g: g.params.update(w=np.ones((4, 8), "f2"))),
    ("MV0312", "lawful", lambda g: setattr(g, "outputs", ())),
    ("MV0312", "lawful", lambda g: setattr(g, "outputs", ("sum", "sum"))),
    ("MV0313", "z", lambda g: node(g, 1, inputs=("sum",))),
    ("MV0313", "sum", lambda g: g.nodes.reverse()),
    ("MV0314", "z", lambda g: record(g, "z", Value("q", "f32", ("rows", 4)))),
    ("MV0314", "z", lambda g: record(g, "z", Value("z", "f31", ("rows", 4)))),
    ("MV0314", "z", lambda g: record(g, "z", Value("z", "f32", ("rows", -4)))),
    ("MV0314", "z", lambda g: record(g, "z", Value("z", "f32", ("", 4)))),
    ("MV0319", "z", lambda g: node(g, 1, op="expand", attrs={"shape": ("columns", 4)})),
    ("MV0320", "idle", lambda g: record(g, "idle", Value("idle", "f32", (1,)))),
]  # fmt: skip


@pytest.mark.parametrize(("code", "named", "damage"), BROKEN)
def test_broken_graph(code: str, named: str, damage: Callable[[Graph], None]) -> None:
    graph = lawful()
    damage(graph)
    with pytest.raises(GraphError) as caught:
        verify(graph)
    error = caught.value
    if code == "MV0308":  # the int32 reaches linear first
        named = "y"
    assert error.code == code
    assert named in error.where + error.given
    assert error.where


def test_cycle_and_order_are_told_apart() -> None:
    graph = lawful()
    node(graph, 1, inputs=("sum",))
    with pytest.raises(GraphError, match="cycle"):
        verify(graph)
    graph = lawful()
    graph.nodes.reverse()
    with pytest.raises(GraphError, match="made later"):
        verify(graph)


def test_the_law_is_one_short_file_and_lists_its_codes() -> None:
    law = sys.modules[verify.__module__]
    assert len(inspect.getsource(law).splitlines()) <= 400
    own = {code for code, *_ in BROKEN}
    assert all(code in str(law.__doc__) for code in own)


def test_builder_checks_at_once() -> None:
    b = Builder("b")
    x = b.input("x", "f32", (2, 3))
    for code, call in [
        ("MV0301", lambda: b.op("relu", ["nowhere"])),
        ("MV0302", lambda: b.input("x", "f32", (1,))),
        ("MV0303", lambda: b.op("triangulate", [x])),
        ("MV0304", lambda: b.op("add", [x])),
        ("MV0305", lambda: b.op("scale", [x])),
        ("MV0306", lambda: b.op("cast", [x], to="f31")),
        ("MV0307", lambda: b.op("reshape", [x], shape=(4, 2))),
        ("MV0308", lambda: b.param("z", np.zeros(2, np.complex64))),
    ]:
        with pytest.raises(GraphError) as caught:
            call()
        assert caught.value.code == code


BAD_SHAPES: list[tuple[str, list[tuple[int, ...]], dict[str, object]]] = [
    ("add", [(2,), (3,)], {}),
    ("matmul", [(2, 3), (2, 3)], {}),
    ("matmul", [(3,), (3, 2)], {}),
    ("linear", [(2, 3), (4, 2)], {}),
    ("linear", [(2, 3), (4, 3), (3,)], {}),
    ("conv", [(1, 3, 8), (2, 2, 3)], {"strides": (1,), "pads": (0, 0), "dilations": (1,)}),
    ("conv", [(1, 2, 2), (2, 2, 3)], {"strides": (1,), "pads": (0, 0), "dilations": (1,)}),
    ("conv", [(1, 2, 8), (2, 2, 3)], {"strides": (0,), "pads": (0, 0), "dilations": (1,)}),
    ("conv", [(1, 2, 8), (2, 2, 3)], {"strides": (1,), "pads": (0,), "dilations": (1,)}),
    (
        "conv",
        [(1, 4, 8), (3, 2, 3)],
        {"strides": (1,), "pads": (0, 0), "dilations": (1,), "groups": 2},
    ),
    ("max_pool", [(1, 8)], {"kernel": (2,), "strides": (1,), "pads": (0, 0)}),
    ("reduce", [(2, 3)], {"kind": "sum", "axes": (2,)}),
    ("reduce", [(2, 0)], {"kind": "max", "axes": (1,)}),
    ("softmax", [(2, 3)], {"axis": 2}),
    ("layer_norm", [(2, 3), (2,)], {"eps": 0.0}),
    ("rms_norm", [(2, 6), (4,)], {"eps": 0.0, "group_size": 4}),
    ("reshape", [(2, 3)], {"shape": (-1, -1)}),
    ("reshape", [(2, 3)], {"shape": (-1, 0)}),
    ("reshape", [(2, 3)], {"shape": (2, -3)}),
    ("transpose", [(2, 3)], {"perm": (0, 0)}),
    ("concat", [(2, 3), (2, 4)], {"axis": 0}),
    ("slice", [(2, 3)], {"axes": (0,), "starts": (0,), "stops": (1,), "steps": (0,)}),
    ("slice", [(2, 3)], {"axes": (0, 0), "starts": (0, 0), "stops": (1, 1), "steps": (1, 1)}),
    ("split", [(2, 3)], {"axis": 1, "sizes": (1, 1)}),
    ("expand", [(2, 3)], {"shape": (2, 4)}),
    ("pad", [(2, 3)], {"pads": (0, 0)}),
    ("pad", [(2, 3)], {"pads": (-1, 0, -2, 0)}),
]


@pytest.mark.parametrize(("op", "shapes", "attrs"), BAD_SHAPES)
def test_shape_rules(op: str, shapes: list[tuple[int, ...]], attrs: dict[str, object]) -> None:
    b = Builder("b")
    names = [b.input(f"x{i}", "f32", shape) for i, shape in enumerate(shapes)]
    with pytest.raises(GraphError) as caught:
        b.op(op, names, **attrs)
    assert caught.value.code == "MV0307"
    assert op in caught.value.where


def test_symbols_are_carried() -> None:
    b = Builder("b")
    x = b.input("x", "f32", ("batch", "rows", 12))
    assert b[b.op("reshape", [x], shape=("batch", "rows", 3, 4))].shape == ("batch", "rows", 3, 4)
    assert b[b.op("reshape", [x], shape=("batch", -1, 12))].shape == ("batch", "rows", 12)
    y = b.op("transpose", [x], perm=(0, 2, 1))
    assert b[b.op("matmul", [x, y])].shape == ("batch", "rows", "rows")
    with pytest.raises(GraphError):
        b.op("add", [x, b.input("z", "f32", ("batch", "columns", 12))])
    with pytest.raises(GraphError):
        b.op("reshape", [x], shape=(-1, 12))


def test_drop_unused_keeps_what_outputs_need() -> None:
    graph = lawful()
    graph.outputs = ("z",)
    drop_unused(graph)
    verify(graph)
    assert [n.outputs for n in graph.nodes] == [("y",), ("z",)]
