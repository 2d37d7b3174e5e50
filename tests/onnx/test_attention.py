"""attention and rope against the ONNX standard's own Attention and RotaryEmbedding (opset 23)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from mellivora.graph import Builder, KVCache, interpret
from onnx import TensorProto, helper


def standard(op: str, feed: dict[str, np.ndarray], **attrs: Any) -> np.ndarray:
    """One node by onnx.reference."""
    infos = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for k, v in feed.items()
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node(op, list(feed), ["y"], **attrs)
    graph = helper.make_graph([node], "g", infos, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    return ReferenceEvaluator(model).run(None, feed)[0]


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("rows", [1, 2, 13])
@pytest.mark.parametrize("window", [0, 1, 5])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_attention(heads: int, kv_heads: int, rows: int, window: int, softcap: float) -> None:
    rng, size, scale = np.random.default_rng(rows), 8, 0.4
    q = rng.standard_normal((rows, heads * size)).astype(np.float32)
    k, v = rng.standard_normal((2, rows, kv_heads * size)).astype(np.float32)
    distance = np.arange(rows)[:, None] - np.arange(rows)[None]
    seen = (distance >= 0) & ((distance < window) | (window == 0))

    b = Builder("attention")
    widths = {"q": heads * size, "k": kv_heads * size, "v": kv_heads * size}
    names = [b.input(name, "f32", ("rows", width)) for name, width in widths.items()]
    names.append(b.input("positions", "int32", ("rows",)))
    y = b.op(
        "attention",
        names,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=size,
        scale=scale,
        layer=0,
        window=window,
        softcap=softcap,
    )
    b.output(y)
    positions = np.arange(rows, dtype=np.int32)
    feed = {"q": q, "k": k, "v": v, "positions": positions}
    graph, state = b.build(), KVCache()
    got = interpret(graph, feed, state=state)[y]

    # The standard has no window: the mask carries it. Its softcap is put on before the mask.
    wanted = standard(
        "Attention",
        {"Q": q[None], "K": k[None], "V": v[None], "M": seen},
        q_num_heads=heads,
        kv_num_heads=kv_heads,
        scale=scale,
        softcap=softcap,
    )[0]
    # Scores: products of 8 terms of magnitude up to ~3 * 3 * 8 * 0.4 = 29 in the exponent, 10
    # roundings each: relative error 290 * 2**-24 of a weight; the sum over 13 rows adds 13.
    bound = 2 * (290 + 13) * 2.0**-24 * np.abs(v).max()
    assert np.abs(got - wanted).max() <= bound
    assert len(state) == rows


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotary", [8, 4])
def test_rope(interleaved: int, rotary: int) -> None:
    rng, theta = np.random.default_rng(3), 10000.0
    x = rng.standard_normal((5, 3 * 8)).astype(np.float32)
    positions = np.array([0, 1, 5, 6, 30], np.int64)
    angles = np.arange(31)[:, None] * theta ** -(np.arange(0, rotary, 2) / rotary)
    tables = {"cos": np.cos(angles).astype(np.float32), "sin": np.sin(angles).astype(np.float32)}
    wanted = standard(
        "RotaryEmbedding",
        {"X": x[None], **tables, "P": positions[None]},
        num_heads=3,
        interleaved=interleaved,
        rotary_embedding_dim=rotary,
    )[0]
    b = Builder("rope")
    names = [b.input("x", "f32", ("rows", 24)), b.input("p", "int64", ("rows",))]
    style = "interleaved" if interleaved else "half"
    b.output(b.op("rope", names, head_dim=8, theta=theta, style=style, rotary_dim=rotary, name="y"))
    got = interpret(b.build(), {"x": x, "p": positions})["y"]
    # The same tables but for one rounding each; two products and a sum.
    assert np.abs(got - wanted).max() <= 4 * 2.0**-24 * 2 * np.abs(x).max()
