"""Whole networks against onnxruntime.

Tolerance: both sides work in FP32 and sum in different orders. A product of k terms errs by about
sqrt(k) * u (u = 2**-24, random signs) of its largest output, and the layers' errors add:
layers * sqrt(k) * u * max|y|, times 4 for the spread between the typical and the worst element.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.backend.test
import onnxruntime
import pytest

import onnx
from mellivora.frontends.onnx import load_onnx
from mellivora.graph import interpret, parse_text, to_text
from onnx import numpy_helper

from . import models

U = 2.0**-24


def onnxruntime_outputs(data: bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options).run(None, feed)


def compare(data: bytes, feed: dict[str, np.ndarray], *, layers: int, terms: int, **dims: int):
    graph = load_onnx(data, dims=dims)
    got = interpret(graph, feed)
    for name, want in zip(graph.outputs, onnxruntime_outputs(data, feed), strict=True):
        assert got[name].shape == want.shape
        bound = 4 * layers * terms**0.5 * U * np.abs(want).max()
        assert np.abs(got[name] - want).max() <= bound
        assert np.abs(want).std() > 0
    text = to_text(graph)
    assert to_text(parse_text(text)) == text
    return graph


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 13), (3, 64)])
def test_bert_with_symbolic_batch_and_length(batch: int, length: int) -> None:
    rng = np.random.default_rng(batch)
    lengths = rng.integers(1, length + 1, batch)
    mask = (np.arange(length)[None] < lengths[:, None]).astype(np.int64)
    feed = {
        "input_ids": rng.integers(0, 101, (batch, length)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (batch, length)),
    }
    data = models.bert().SerializeToString()
    # 2 layers of 6 products, 5 normalisations; the longest sum is 4 * 48 = 192 terms.
    graph = compare(data, feed, layers=17, terms=192)
    assert graph.values["input_ids"].shape == ("batch", "length")
    ops = [node.op for node in graph.nodes]
    assert ops.count("linear") == 12
    assert ops.count("embedding") == 3
    fixed = compare(data, feed, layers=17, terms=192, batch=batch, length=length)
    # With a known length the rows of the position table are cut out at load.
    assert [node.op for node in fixed.nodes].count("embedding") == 2


def test_resnet50() -> None:
    image = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    data = models.resnet50().SerializeToString()
    graph = compare(data, {"image": image}, layers=54, terms=512 * 9)
    ops = [node.op for node in graph.nodes]
    # Every batch normalisation is folded: nothing is left but the additions of the shortcuts.
    assert ops.count("conv") == 53
    assert ops.count("add") == 16
    assert "mul" not in ops
    assert (
        len(ops) == 53 + 16 + 49 + 4
    )  # convolutions, shortcuts, relus; two pools, flatten, linear


LIGHT = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("*.onnx"))


def test_there_are_nine_real_networks() -> None:
    assert len(LIGHT) == 9


def with_random_weights(path: Path) -> tuple[bytes, str, list[int]]:
    """A light model (all weights 0.02) with random ones, and with its logits as the output.

    Tensors of more than 5 M numbers stay as they are, to keep the test short.
    """
    model, rng = onnx.load(path), np.random.default_rng(1)
    graph = model.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type != "ConstantOfShape" or np.prod(shapes[node.input[0]]) > 5e6:
            graph.node.append(node)
            continue
        shape = [int(d) for d in shapes[node.input[0]]]
        if len(shape) == 1:  # biases, and scales and variances, which have to be positive
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), node.output[0]))
    if nodes[-1].op_type == "Softmax":
        graph.node.pop()
        graph.output[0].name = nodes[-1].input[0]
        graph.output[0].type.tensor_type.ClearField("shape")
    (info,) = [i for i in graph.input if i.name not in shapes]
    return (
        model.SerializeToString(),
        info.name,
        [d.dim_value for d in info.type.tensor_type.shape.dim],
    )


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_real_network(path: Path) -> None:
    """The nine networks of the backend suite, opset 9: 16 to 121 convolutions."""
    data, name, shape = with_random_weights(path)
    image = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    layers = sum(node.op in ("conv", "linear") for node in load_onnx(path).nodes)
    compare(data, {name: image}, layers=layers, terms=512 * 9)
