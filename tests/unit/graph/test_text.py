"""The text form: printing and parsing are inverses, and no text does worse than a GraphError."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mellivora.errors import GraphError
from mellivora.graph import Builder, Graph, ParamSpec, interpret, parse_text, to_text
from mellivora.numerics import quantize

from .samples import language_model


def awkward() -> Graph:
    """Names with spaces, quotes, digits and commas; optional operands; several results."""
    b = Builder('a "graph"', meta={"": "empty key", "line": "a\nb"})
    x = b.input('in put, "x"', "f32", ("7", "a b", 4))
    y = b.input("_", "f32", ("7", "a b", 4))
    scalar = b.input("1", "int64", ())
    p = b.op("max", [x, y], name="->")
    parts = b.ops("split", [p], names=("é", "-"), axis=-1, sizes=(1, 3))
    gamma = b.param("γ", np.ones(3, np.float32))
    b.output(b.op("layer_norm", [parts[1], gamma, ""], name="out: f32[1]", eps=1e-12))
    b.output(b.op("clip", [parts[0]], name="clip", high=3.0))
    b.output(b.op("reshape", [scalar], name="=", shape=(1, 1)))
    b.output(b.op("expand", [gamma], name="wide", shape=("7", 3)))
    return b.build()


def blocks() -> Graph:
    """Parameters in a block format, in half precision, and known by shape alone."""
    b = Builder("blocks")
    x = b.input("x", "f32", ("rows", 64))
    weight = np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    x = b.op("linear", [x, b.param("q", quantize(weight, "q4_1"))])
    x = b.op("linear", [x, b.param("h", weight.astype(np.float16))])
    b.output(b.op("linear", [x, b.param("s", ParamSpec("mxfp4", (8, 64)))], name="y"))
    return b.build()


@pytest.mark.parametrize("graph", [language_model(), awkward(), blocks()], ids=lambda g: g.name)
def test_round_trip_is_exact(graph: Graph) -> None:
    text = to_text(graph)
    bare, full = parse_text(text), parse_text(text, params=graph.params)
    assert to_text(bare) == to_text(full) == text
    for again in (bare, full):
        assert (again.nodes, again.values, again.meta) == (graph.nodes, graph.values, graph.meta)
        assert (again.inputs, again.outputs) == (graph.inputs, graph.outputs)
    assert all(full.params[name] is tensor for name, tensor in graph.params.items())
    assert all(isinstance(tensor, ParamSpec) for tensor in bare.params.values())


def test_parsed_graph_gives_the_same_numbers() -> None:
    graph = language_model()
    ids = np.arange(5, dtype=np.int32)
    feed = {"ids": ids, "positions": ids}
    again = parse_text(to_text(graph), params=graph.params)
    assert np.array_equal(interpret(again, feed)["logits"], interpret(graph, feed)["logits"])


def test_format_is_written_and_compared() -> None:
    text = to_text(blocks())
    assert "param q: f32[64, 64] q4_1\n" in text
    assert "param h: f16[64, 64]\n" in text
    wrong = dict(blocks().params) | {"q": np.zeros((64, 64), np.float32)}
    with pytest.raises(GraphError) as caught:
        parse_text(text, params=wrong)
    assert caught.value.code == "MV0315"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mellivora.graph 1", "mellivora.graph 2"),
        ("input ids: int32[rows]", "input ids: int31[rows]"),
        ("input ids: int32[rows]", "input ids int32[rows]"),
        ("input ids: int32[rows]", "input ids: int32[rows"),
        ("output logits", "output logits logits"),
        ("output logits", "out logits"),
        ("= add(", "= add "),
        ('"eps": 1e-05', '"eps": '),
        ("param embed: f32[50, 32]", "param embed: f32[rows, 32]"),
        ("param embed: f32[50, 32]", "input ids: f32[50, 32]"),
        ("param embed: f32[50, 32]", "param embed: f32[" + "9" * 5000 + ", 32]"),
    ],
)
def test_broken_text_is_refused(old: str, new: str) -> None:
    text = to_text(language_model())
    assert old in text
    with pytest.raises(GraphError) as caught:
        parse_text(text.replace(old, new, 1))
    assert caught.value.code == "MV0315"
    assert caught.value.where.startswith("line ")


def test_mutated_texts_parse_lawfully_or_are_refused() -> None:
    seed = 20
    chance = random.Random(seed)
    sources = [to_text(g) for g in (language_model(layers=1), awkward(), blocks())]
    pieces = ['"', "[", "]", "{", "}", "-1", "0", "rows", ",", "null", "1e999", "[[]]", "\x00", "_"]
    for trial in range(1500):
        text = chance.choice(sources)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(text))
            end = at + chance.choice([0, 1, 1, 5])
            text = text[:at] + chance.choice([*pieces, ""]) + text[end:]
        try:
            graph = parse_text(text)
        except GraphError:
            continue
        assert to_text(parse_text(to_text(graph))) == to_text(graph), f"seed {seed}, {trial}"
