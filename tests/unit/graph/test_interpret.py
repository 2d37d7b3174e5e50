"""The interpreter: the key-value cache, precisions, symbols, and bad inputs."""

from __future__ import annotations

import numpy as np
import pytest

from mellivora.errors import GraphError
from mellivora.graph import Builder, Interpreter, KVCache, ParamSpec, Precision, interpret
from mellivora.numerics import BlockTensor, quantize

from .samples import language_model

IDS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 8], np.int32)
POSITIONS = np.arange(11, dtype=np.int32)


def exact_rows(x, weight):
    """A product whose rows do not depend on their neighbours: float64, one row at a time."""
    weight = weight if isinstance(weight, np.ndarray) else weight.dequantize()
    return np.array([np.sum(weight.astype(np.float64) * r, axis=1) for r in x], "f4").reshape(
        len(x), len(weight)
    )


@pytest.mark.parametrize("window", [0, 1, 3])
@pytest.mark.parametrize("softcap", [0.0, 5.0])
@pytest.mark.parametrize("cuts", [[1] * 11, [5, 6], [3, 0, 1, 7]])
def test_a_prompt_split_in_chunks_gives_the_same_rows(
    window: int, softcap: float, cuts: list[int]
) -> None:
    graph = language_model(window=window, softcap=softcap)
    # Masked scores are exp(-inf) = 0 exactly; but sums over more zeros may associate otherwise in
    # NumPy's pairwise sum: rows of at most 8 terms more, so 11 roundings of the softmax's sum, and
    # what follows multiplies by matrices of norm below 8 twice: 11 * 8 * 8 * 2**-24 < 5e-5.
    run = Interpreter(graph, precision=exact_rows)
    whole = run.run({"ids": IDS, "positions": POSITIONS})["logits"]
    state, rows, at = KVCache(), [], 0
    for size in cuts:
        part = slice(at, at + size)
        feed = {"ids": IDS[part], "positions": POSITIONS[part]}
        rows.append(run.run(feed, state=state)["logits"])
        at += size
    assert len(state) == 11
    assert np.abs(np.concatenate(rows) - whole).max() <= 5e-5


def test_window_of_one_sees_itself_only() -> None:
    b = Builder("b")
    q, k, v = (b.input(name, "f32", ("rows", 8)) for name in "qkv")
    p = b.input("p", "int32", ("rows",))
    b.output(
        b.op("attention", [q, k, v, p], name="y", heads=2, kv_heads=2, head_dim=4, scale=1.0,
             layer=0, window=1)
    )  # fmt: skip
    feed = {n: np.random.default_rng(i).standard_normal((5, 8)).astype("f4")
            for i, n in enumerate("qkv")}  # fmt: skip
    got = interpret(b.build(), feed | {"p": POSITIONS[:5]})["y"]
    assert np.array_equal(got, feed["v"])


def test_truncated_cache_forgets() -> None:
    graph = language_model()
    feed = {"ids": IDS[:4], "positions": POSITIONS[:4]}
    more = {"ids": IDS[4:6], "positions": POSITIONS[4:6]}
    state = KVCache()
    interpret(graph, feed, state=state)
    first = interpret(graph, more, state=state)["logits"]
    state.truncate(4)
    assert np.array_equal(interpret(graph, more, state=state)["logits"], first)
    k, v, positions = state.read(1)
    assert k.shape == v.shape == (6, 2, 8)
    assert positions.tolist() == list(range(6))


def test_precision_sees_weights_as_stored_and_attention() -> None:
    b = Builder("b")
    x = b.input("x", "f32", ("rows", 32))
    weight = quantize(np.linspace(-2, 2, 4 * 32, dtype=np.float32).reshape(4, 32), "q8_0")
    b.output(b.op("linear", [x, b.param("w", weight)], name="y"))
    graph, seen = b.build(), []

    def linear(rows, w):
        seen.append(type(w))
        return rows @ w.dequantize().T

    data = np.ones((2, 32), np.float32)
    got = interpret(graph, {"x": data}, precision=linear)["y"]
    assert seen == [BlockTensor]
    assert np.array_equal(got, interpret(graph, {"x": data})["y"])
    calls = []

    class Counting(Precision):
        def linear(self, x, weight):
            calls.append(x.shape)
            return super().linear(x, weight)

    interpret(language_model(layers=1), {"ids": IDS, "positions": POSITIONS}, precision=Counting())
    # q, k, v; four heads of scores [11, 8] and of weighted values [11, 11]; the logits.
    assert calls == [(11, 32)] * 3 + [(11, 8), (11, 11)] * 4 + [(11, 32)]


def test_no_rows() -> None:
    empty = np.zeros(0, np.int32)
    assert interpret(language_model(), {"ids": empty, "positions": empty})["logits"].shape == (
        0,
        50,
    )


@pytest.mark.parametrize(
    "feed",
    [
        {"ids": IDS},
        {"ids": IDS, "positions": POSITIONS, "more": IDS},
        {"ids": IDS.astype(np.int64), "positions": POSITIONS},
        {"ids": IDS[:, None], "positions": POSITIONS},
        {"ids": IDS[:3], "positions": POSITIONS},
    ],
)
def test_bad_inputs(feed: dict[str, np.ndarray]) -> None:
    with pytest.raises(GraphError) as caught:
        interpret(language_model(), feed)
    assert caught.value.code == "MV0316"


def test_a_shape_without_data_cannot_run() -> None:
    b = Builder("b")
    x = b.input("x", "f32", (1, 32))
    b.output(b.op("linear", [x, b.param("w", ParamSpec("q4_0", (4, 32)))]))
    with pytest.raises(GraphError) as caught:
        interpret(b.build(), {"x": np.ones((1, 32), np.float32)})
    assert caught.value.code == "MV0317"
    assert caught.value.where == "param w"


def test_a_symbol_past_its_table() -> None:
    b = Builder("b")
    b.input("x", "f32", ("rows",))
    table = b.param("table", np.arange(4, dtype=np.float32))
    y = b.op("slice", [table], axes=(0,), starts=(0,), stops=("rows",), steps=(1,))
    b.output(b.op("add", ["x", y], name="y"))
    graph = b.build()
    assert interpret(graph, {"x": np.zeros(3, "f4")})["y"].tolist() == [0, 1, 2]
    with pytest.raises(GraphError) as caught:
        interpret(graph, {"x": np.zeros(5, "f4")})
    assert caught.value.code == "MV0321"
