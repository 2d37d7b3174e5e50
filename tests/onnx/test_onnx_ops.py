"""Each ONNX operator on its own against onnxruntime, at several opsets and boundary shapes.

Tolerance: FP32 on both sides; a result of n roundings errs by at most n * 2**-24 of the largest
magnitude in it. No case here has more than 64 terms to sum: 2 * 64 * 2**-24 < 8e-6 of max|y|.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

import onnx
from mellivora.frontends.onnx import load_onnx
from mellivora.frontends.onnx_ops import HANDLERS
from mellivora.graph import interpret
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(7)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


X4 = f(2, 6, 9, 7)
PARTS = [1 + f(6) / 4, f(6), f(6), 1 + f(6) ** 2]
TRUE = np.array([True, False, True])

# (operator, opset, run-time operands, constant operands, attributes, number of outputs)
CASES: list[tuple[str, int, list[np.ndarray], list[np.ndarray | None], dict[str, Any], int]] = [
    *((name, 17, [f(3, 5)], [], {}, 1) for name in ("Neg", "Abs", "Floor", "Exp", "Sin", "Cos")),
    *((name, 17, [f(0, 4)], [], {}, 1) for name in ("Tanh", "Erf", "Sigmoid", "Softplus", "Relu")),
    *((name, 17, [f(2, 7)], [], {}, 1) for name in ("Tanh", "Erf", "Sigmoid", "Softplus", "Relu")),
    *((name, 17, [np.abs(f(7)) + 1], [], {}, 1) for name in ("Log", "Sqrt", "Reciprocal")),
    *((name, 17, [f(3, 1), f(1, 5)], [], {}, 1) for name in ("Add", "Sub", "Mul", "Div")),
    ("Add", 7, [f(3, 1), f(5)], [], {}, 1),
    ("Div", 17, [np.array([7, -7, 8], np.int64), np.array([2, 2, -3], np.int64)], [], {}, 1),
    *((name, 17, [f(4), f(3, 4), f(4)], [], {}, 1) for name in ("Max", "Min", "Sum", "Mean")),
    *((name, 17, [TRUE, ~TRUE], [], {}, 1) for name in ("And", "Or", "Xor")),
    ("Not", 17, [TRUE], [], {}, 1),
    *((name, 17, [i(1, 2, 3), i(3, 2, 1)], [], {}, 1) for name in ("Equal", "Less", "Greater")),
    *((name, 17, [f(4), f(4)], [], {}, 1) for name in ("LessOrEqual", "GreaterOrEqual")),
    ("IsNaN", 17, [np.array([1, np.nan, np.inf], np.float32)], [], {}, 1),
    ("Where", 17, [TRUE, f(2, 3), f(3)], [], {}, 1),
    ("Pow", 17, [f(3, 4)], [np.float32(2)], {}, 1),
    ("Pow", 17, [np.abs(f(3, 4))], [f(4)], {}, 1),
    ("Gelu", 20, [f(3, 5)], [], {}, 1),
    ("Gelu", 20, [f(3, 5)], [], {"approximate": "tanh"}, 1),
    ("LeakyRelu", 17, [f(3, 5)], [], {"alpha": 0.1}, 1),
    ("HardSigmoid", 17, [f(3, 5) * 4], [], {}, 1),
    ("HardSwish", 17, [f(3, 5) * 4], [], {}, 1),
    ("Swish", 24, [f(3, 5)], [], {"alpha": 1.5}, 1),
    ("Clip", 10, [f(9)], [], {"min": -0.5, "max": 0.5}, 1),
    ("Clip", 17, [f(9)], [None, np.float32(0.5)], {}, 1),
    ("Clip", 17, [f(9), np.float32(-0.1)], [], {}, 1),
    ("Cast", 17, [f(9) * 3], [], {"to": TensorProto.INT32}, 1),
    ("CastLike", 17, [i(1, 2)], [f(1)], {}, 1),
    ("Identity", 17, [f(3)], [], {}, 1),
    ("Dropout", 17, [f(3)], [], {}, 1),
    ("MatMul", 17, [f(2, 3, 5)], [f(5, 4)], {}, 1),
    ("MatMul", 17, [f(5)], [f(5, 4)], {}, 1),
    ("MatMul", 17, [f(2, 1, 3, 5), f(4, 5, 2)], [], {}, 1),
    ("MatMul", 17, [f(3, 5), f(5)], [], {}, 1),
    ("MatMul", 17, [f(5), f(2, 5, 3)], [], {}, 1),
    ("MatMul", 17, [f(5), f(5)], [], {}, 1),
    ("Gemm", 17, [f(3, 5)], [f(5, 4), f(4)], {}, 1),
    ("Gemm", 17, [f(5, 3), f(4, 5), f(3, 1)], [], {"transA": 1, "transB": 1, "alpha": 0.5}, 1),
    ("Gemm", 17, [f(3, 5)], [f(5, 4), f(1, 4)], {"beta": 0.5}, 1),
    ("Conv", 17, [X4], [f(4, 3, 3, 2), f(4)], {"group": 2, "strides": [2, 1]}, 1),
    ("Conv", 17, [X4], [f(4, 6, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, 1),
    ("Conv", 17, [X4], [f(4, 6, 2, 2)], {"auto_pad": "SAME_LOWER"}, 1),
    ("Conv", 17, [X4], [f(4, 6, 2, 2)], {"auto_pad": "VALID", "dilations": [2, 3]}, 1),
    ("Conv", 17, [f(1, 2, 11)], [f(3, 2, 3)], {"pads": [2, 1]}, 1),
    ("MaxPool", 17, [X4], [], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}, 1),
    ("MaxPool", 17, [X4], [], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 1),
    ("MaxPool", 17, [X4], [], {"kernel_shape": [2, 2], "dilations": [2, 3]}, 1),
    ("MaxPool", 17, [f(1, 2, 9)], [], {"kernel_shape": [4], "auto_pad": "SAME_UPPER"}, 1),
    ("AveragePool", 17, [X4], [], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}, 1),
    *(
        (
            "AveragePool",
            19,
            [X4],
            [],
            {
                "kernel_shape": [3, 3],
                "strides": [2, 2],
                "pads": pads,
                "ceil_mode": ceil,
                "count_include_pad": count,
            },
            1,
        )
        for pads in ([0, 0, 0, 0], [1, 1, 1, 1])
        for ceil in (0, 1)
        for count in (0, 1)
    ),
    ("GlobalAveragePool", 17, [X4], [], {}, 1),
    ("GlobalMaxPool", 17, [X4], [], {}, 1),
    ("BatchNormalization", 17, [X4], PARTS, {"epsilon": 1e-3}, 1),
    ("BatchNormalization", 17, [X4, *PARTS], [], {}, 1),
    ("LayerNormalization", 17, [f(2, 3, 7)], [f(7), f(7)], {}, 1),
    ("LayerNormalization", 17, [f(2, 3, 7)], [f(3, 7)], {"axis": 1, "epsilon": 1e-3}, 1),
    ("RMSNormalization", 23, [f(2, 3, 7)], [f(7)], {}, 1),
    ("LRN", 17, [X4], [], {"size": 5, "alpha": 0.3, "bias": 2.0}, 1),
    ("Softmax", 17, [f(2, 3, 4)], [], {"axis": 1}, 1),
    ("Softmax", 11, [f(2, 3, 4)], [], {}, 1),
    ("LogSoftmax", 17, [f(2, 3, 4)], [], {}, 1),
    ("ReduceSum", 17, [f(2, 3, 4)], [i(0, -1)], {"keepdims": 0}, 1),
    ("ReduceSum", 17, [f(2, 3, 4)], [], {"noop_with_empty_axes": 1}, 1),
    ("ReduceMean", 17, [f(2, 3, 4)], [], {"axes": [1]}, 1),
    ("ReduceMean", 18, [f(2, 3, 4)], [i(1)], {}, 1),
    ("ReduceMax", 17, [f(2, 3, 4)], [], {}, 1),
    ("ReduceMin", 18, [f(2, 3, 4)], [i(2)], {"keepdims": 0}, 1),
    ("Shape", 17, [f(2, 0, 4)], [], {}, 1),
    ("Shape", 17, [f(2, 3, 4)], [], {"start": -2, "end": 2}, 1),
    ("Size", 17, [f(2, 3, 4)], [], {}, 1),
    ("ConstantOfShape", 17, [], [i(2, 0, 3)], {}, 1),
    ("Range", 17, [], [np.int64(7), np.int64(-2), np.int64(-3)], {}, 1),
    ("Reshape", 17, [f(2, 3, 4)], [i(0, -1)], {}, 1),
    ("Reshape", 17, [f(0, 3)], [i(3, 0)], {"allowzero": 1}, 1),
    ("Flatten", 17, [f(2, 3, 4)], [], {"axis": 2}, 1),
    ("Flatten", 17, [f(2, 3, 4)], [], {"axis": 0}, 1),
    ("Transpose", 17, [f(2, 3, 4)], [], {}, 1),
    ("Transpose", 17, [f(2, 3, 4)], [], {"perm": [1, 0, 2]}, 1),
    ("Concat", 17, [f(2, 3), f(2, 0), f(2, 1)], [], {"axis": -1}, 1),
    ("Slice", 9, [f(5, 4)], [], {"starts": [1, 0], "ends": [9, -1]}, 1),
    ("Slice", 17, [f(5, 4)], [i(-1), i(-(2**63)), i(0), i(-2)], {}, 1),
    ("Slice", 17, [f(5, 4)], [i(0, 1), i(2**63 - 1, 3)], {}, 1),
    ("Split", 17, [f(2, 6)], [i(1, 5)], {"axis": 1}, 2),
    ("Split", 11, [f(6, 2)], [], {"split": [2, 4]}, 2),
    ("Split", 17, [f(6, 2)], [], {}, 3),
    ("Split", 18, [f(7, 2)], [], {"num_outputs": 3}, 3),
    ("Gather", 17, [f(5, 3), i(0, -1, 4)], [], {}, 1),
    ("Gather", 17, [f(2, 5, 3)], [np.array([[0, -1]], np.int32)], {"axis": 1}, 1),
    ("Gather", 17, [i(1, 0)], [], {}, 1),
    ("GatherElements", 17, [], [f(2, 5), np.array([[0, -1], [4, 2]])], {"axis": 1}, 1),
    ("GatherElements", 17, [], [f(4, 3), np.array([[3, 0]])], {}, 1),
    ("Unsqueeze", 17, [f(2, 3)], [i(0, -1)], {}, 1),
    ("Unsqueeze", 11, [f(2, 3)], [], {"axes": [1]}, 1),
    ("Squeeze", 17, [f(1, 2, 1)], [], {}, 1),
    ("Squeeze", 17, [f(1, 2, 1)], [i(-1)], {}, 1),
    ("Squeeze", 11, [f(1, 2, 1)], [], {"axes": [0]}, 1),
    ("Expand", 17, [f(3, 1)], [i(2, 1, 4)], {}, 1),
    ("Tile", 17, [f(2, 3)], [i(2, 0)], {}, 1),
    ("Tile", 17, [f(2, 3)], [i(3, 2)], {}, 1),
    ("Pad", 10, [f(2, 3)], [], {"pads": [0, 1, 2, 0], "value": 3.0}, 1),
    ("Pad", 17, [f(4, 5)], [i(1, -1, 2, 0), np.float32(7)], {}, 1),
    ("Pad", 17, [f(4, 5)], [i(1, 2, 0, 1)], {"mode": "reflect"}, 1),
    ("Pad", 18, [f(4, 5)], [i(2, 1), None, i(1)], {"mode": "edge"}, 1),
]


def build(case: Any) -> tuple[bytes, dict[str, np.ndarray]]:
    op, opset, inputs, constants, attrs, count = case
    feed = {f"x{k}": np.asarray(array) for k, array in enumerate(inputs)}
    names, weights = list(feed), []
    if op == "Gather" and not constants and len(inputs) == 1:  # a constant table
        weights.append(numpy_helper.from_array(f(4, 3), "table"))
        names = ["table", "x0"]
    for k, array in enumerate(constants):
        names.append("" if array is None else f"c{k}")
        if array is not None:
            weights.append(numpy_helper.from_array(np.asarray(array), f"c{k}"))
    outputs = [f"y{k}" for k in range(count)]
    node = helper.make_node(op, names, outputs, **attrs)
    infos = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
        )
        for name, array in feed.items()
    ]
    ends = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph([node], "one", infos, ends, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    return onnx.shape_inference.infer_shapes(model).SerializeToString(), feed


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_operator(case: Any) -> None:
    data, feed = build(case)
    graph = load_onnx(data)
    got = interpret(graph, feed)
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(data, options)
        wanted = session.run(None, feed)
    except Exception:  # onnxruntime lacks this operator or opset: the standard's own reference
        from onnx.reference import ReferenceEvaluator

        wanted = ReferenceEvaluator(onnx.ModelProto.FromString(data)).run(None, feed)
    assert len(graph.outputs) == len(wanted) == case[-1]
    for name, want in zip(graph.outputs, wanted, strict=True):
        assert got[name].dtype == want.dtype
        assert got[name].shape == want.shape
        if want.dtype == np.float32 and want.size:
            assert np.abs(got[name] - want).max() <= 8e-6 * np.abs(want).max()
        else:
            assert np.array_equal(got[name], want)


def test_lrn_of_even_size() -> None:
    """onnxruntime centres an even window otherwise than the standard: its reference decides.

    That reference loops over as many channels as there are images, so both are 6 here.
    """
    from onnx.reference import ReferenceEvaluator

    data, feed = build(("LRN", 17, [f(6, 6, 4, 3)], [], {"size": 4, "alpha": 0.3}, 1))
    (want,) = ReferenceEvaluator(onnx.ModelProto.FromString(data)).run(None, feed)
    got = interpret(load_onnx(data), feed)["y0"]
    assert np.abs(got - want).max() <= 8e-6 * np.abs(want).max()


def test_every_handler_has_a_case() -> None:
    assert {case[0] for case in CASES} | {"Constant"} == set(HANDLERS)


@pytest.mark.parametrize(
    ("attrs", "want"),
    [
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [1, 2]}, i(1, 2)),
        ({"value_floats": [1.0, 2.0]}, np.array([1, 2], np.float32)),
        ({"value": numpy_helper.from_array(np.arange(3, dtype=np.float16))}, np.arange(3)),
    ],
)
def test_constant(attrs: dict[str, Any], want: np.ndarray) -> None:
    got = interpret(load_onnx(build(("Constant", 17, [], [], attrs, 1))[0]), {})["y0"]
    assert np.array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "uint8", "int8", "bool"])
@pytest.mark.parametrize("raw", [True, False])
def test_tensor_storage(dtype: str, raw: bool) -> None:
    """Every dtype as raw bytes and as typed numbers."""
    import ml_dtypes

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    array = np.array([0, 1, 1, 0] if dtype == "bool" else [0, 1, 2, 3]).astype(kind)
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    values = array.tobytes() if raw else array.tolist()
    tensor = helper.make_tensor("t", number, [2, 2], values, raw=raw)
    got = interpret(load_onnx(build(("Constant", 17, [], [], {"value": tensor}, 1))[0]), {})["y0"]
    assert got.dtype == kind
    assert np.array_equal(got, array.reshape(2, 2))
