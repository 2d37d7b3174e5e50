"""ONNX models made here: single nodes, a BERT encoder as exporters write it, and ResNet-50."""

from __future__ import annotations

from typing import Any

import numpy as np

import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray


class Net:
    """Collects nodes and initializers."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def const(self, array: Array, name: str = "") -> str:
        name = name or f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64))

    def normal(self, *shape: int, spread: float = 1.0) -> str:
        return self.const((self.rng.standard_normal(shape) * spread).astype(np.float32))

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, list(inputs), names, f"n{len(self.nodes)}", **attrs)
        )
        return names[0] if outputs == 1 else names

    def model(self, inputs: list[Any], outputs: list[str], *, opset: int = 17) -> Any:
        infos = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self.nodes, "net", inputs, infos, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = 8
        return onnx.shape_inference.infer_shapes(model)


def f32(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def i64(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)


def _layer_norm(n: Net, x: str, width: int) -> str:
    """As exporters wrote it before opset 17: nine nodes."""
    centred = n.op("Sub", x, n.op("ReduceMean", x, axes=[-1]))
    square = n.op("Pow", centred, n.const(np.float32(2)))
    variance = n.op("ReduceMean", square, axes=[-1])
    deviation = n.op("Sqrt", n.op("Add", variance, n.const(np.float32(1e-12))))
    scaled = n.op("Mul", n.op("Div", centred, deviation), n.const(np.ones(width, np.float32)))
    return n.op("Add", scaled, n.normal(width, spread=0.1))


def bert(
    layers: int = 2, width: int = 48, heads: int = 4, vocab: int = 101, longest: int = 64
) -> Any:
    """A sentence encoder, batch and length dynamic: ids, mask, types -> hidden, pooled."""
    n, size = Net(3), width // heads
    # Shape arithmetic as torch.onnx writes it: cut out of Shape, glued into Reshape targets.
    shape = n.op("Shape", "input_ids")
    batch = n.op("Unsqueeze", n.op("Gather", shape, n.const(np.int64(0))), n.ints(0))
    length = n.op("Unsqueeze", n.op("Gather", shape, n.const(np.int64(1))), n.ints(0))
    places = n.const(np.arange(longest, dtype=np.int64)[None])
    places = n.op("Slice", places, n.ints(0), length, n.ints(1), n.ints(1))
    x = n.op("Gather", n.normal(vocab, width), "input_ids")
    x = n.op("Add", x, n.op("Gather", n.normal(2, width), "token_type_ids"))
    x = _layer_norm(n, n.op("Add", x, n.op("Gather", n.normal(longest, width), places)), width)
    mask = n.op("Unsqueeze", n.op("Unsqueeze", "attention_mask", n.ints(1)), n.ints(2))
    mask = n.op("Sub", n.const(np.float32(1)), n.op("Cast", mask, to=TensorProto.FLOAT))
    mask = n.op("Mul", mask, n.const(np.float32(-1e4)))
    split = n.op("Concat", batch, length, n.ints(heads), n.ints(size), axis=0)
    joined = n.op("Concat", batch, length, n.ints(width), axis=0)

    def dense(x: str, k: int, m: int) -> str:
        return n.op(
            "Add", n.normal(m, spread=0.1), n.op("MatMul", x, n.normal(k, m, spread=k**-0.5))
        )

    for _ in range(layers):
        q, k, v = (n.op("Reshape", dense(x, width, width), split) for _ in range(3))
        q, v = (n.op("Transpose", t, perm=[0, 2, 1, 3]) for t in (q, v))
        scores = n.op("MatMul", q, n.op("Transpose", k, perm=[0, 2, 3, 1]))
        scores = n.op("Add", n.op("Div", scores, n.const(np.float32(size**0.5))), mask)
        y = n.op("MatMul", n.op("Softmax", scores, axis=-1), v)
        y = n.op("Reshape", n.op("Transpose", y, perm=[0, 2, 1, 3]), joined)
        x = _layer_norm(n, n.op("Add", dense(y, width, width), x), width)
        h = dense(x, width, 4 * width)
        half = n.op(
            "Add", n.op("Erf", n.op("Div", h, n.const(np.float32(2**0.5)))), n.const(np.float32(1))
        )
        h = n.op("Mul", n.op("Mul", h, half), n.const(np.float32(0.5)))
        x = _layer_norm(n, n.op("Add", dense(h, 4 * width, width), x), width)
    # Mean pooling over the mask, expanded the long way.
    wide = n.op("Unsqueeze", "attention_mask", n.ints(-1))
    wide = n.op("Cast", n.op("Expand", wide, n.op("Shape", x)), to=TensorProto.FLOAT)
    total = n.op("ReduceSum", n.op("Mul", x, wide), n.ints(1), keepdims=0)
    count = n.op("Clip", n.op("ReduceSum", wide, n.ints(1), keepdims=0), n.const(np.float32(1e-9)))
    pooled = n.op("Div", total, count)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    return n.model([i64(name, ["batch", "length"]) for name in names], [x, pooled])


def resnet50(image: int = 64, classes: int = 10) -> Any:
    """ResNet-50's 53 convolutions and 53 batch normalisations, random weights."""
    n = Net(5)

    def conv(
        x: str, channels: int, out: int, kernel: int, stride: int = 1, relu: bool = True
    ) -> str:
        w = n.normal(out, channels, kernel, kernel, spread=(2 / channels / kernel**2) ** 0.5)
        pad = kernel // 2
        x = n.op("Conv", x, w, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
        parts = [1 + 0.1 * n.rng.standard_normal(out), 0.1 * n.rng.standard_normal(out)]
        parts += [0.1 * n.rng.standard_normal(out), 1 + n.rng.random(out)]
        names = [n.const(p.astype(np.float32)) for p in parts]
        x = n.op("BatchNormalization", x, *names, epsilon=1e-5)
        return n.op("Relu", x) if relu else x

    x = conv("image", 3, 64, 7, 2)
    x = n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = conv(conv(x, channels, width, 1), width, width, 3, stride)
            y = conv(y, width, 4 * width, 1, relu=False)
            if not block:
                x = conv(x, channels, 4 * width, 1, stride, relu=False)
            x, channels = n.op("Relu", n.op("Add", y, x)), 4 * width
    x = n.op("Flatten", n.op("GlobalAveragePool", x))
    x = n.op("Gemm", x, n.normal(classes, 2048, spread=0.02), n.normal(classes), transB=1)
    return n.model([f32("image", ["n", 3, image, image])], [x])
