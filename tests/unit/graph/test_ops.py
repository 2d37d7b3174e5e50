"""Every operation against float64 NumPy and Python's math, at boundary shapes.

Tolerances. One FP32 rounding errs by at most u = 2**-24 of its result. A test states how many
roundings lie between operands and result and the magnitude they act on; NumPy's float32
transcendental functions count as 4 (their documented bound is below 4 ulp = 8 u, hence 8).
A sum of k products errs by at most k * u * sum|a||b| (any order).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from mellivora.errors import GraphError
from mellivora.graph import OPS, Builder, interpret

U = 2.0**-24
SHAPES = [(), (0,), (1,), (7,), (2, 0, 3), (3, 5, 7), (1, 127)]


def run(op: str, *arrays: np.ndarray | None, **attrs: object) -> list[np.ndarray]:
    """One node on its own; None leaves an operand out."""
    b, feed, names = Builder("one"), {}, []
    for i, array in enumerate(arrays):
        if array is None:
            names.append("")
            continue
        dtype = {"float32": "f32", "float64": "f64", "float16": "f16"}.get(
            str(array.dtype), str(array.dtype)
        )
        names.append(b.input(f"x{i}", dtype, array.shape))
        feed[f"x{i}"] = array
    results = b.ops(op, names, **attrs)
    for name in results:
        b.output(name)
    graph = b.build()
    got = interpret(graph, feed)
    for name in results:
        assert got[name].shape == graph.values[name].shape
    return [got[name] for name in results]


def close(got: np.ndarray, want: np.ndarray, roundings: float, magnitude: object = None) -> None:
    """|got - want| <= roundings * u * magnitude (|want| unless given), and both finite or equal."""
    bound = roundings * U * np.abs(want if magnitude is None else magnitude) + 2.0**-149
    finite = np.isfinite(want) & (np.abs(want) < 3.4e38)
    assert got.shape == want.shape
    assert np.all(np.abs(got - want)[finite] <= np.broadcast_to(bound, want.shape)[finite])
    assert np.array_equal(got[~np.isfinite(want)], want[~np.isfinite(want)], equal_nan=True)


def normal(*shape: int, seed: int = 0, spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


def sigmoid64(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def erf64(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(v) for v in x.ravel()], np.float64).reshape(x.shape)


def gelu_tanh64(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


# op: (meaning in float64, roundings, domain positive?, magnitude the roundings act on)
UNARY: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, bool, str]] = {
    "neg": (np.negative, 0, False, ""),
    "abs": (np.abs, 0, False, ""),
    "floor": (np.floor, 0, False, ""),
    "relu": (lambda x: np.maximum(x, 0), 0, False, ""),
    "exp": (np.exp, 8, False, ""),
    "log": (np.log, 8, True, ""),
    "sin": (np.sin, 8, False, ""),
    "cos": (np.cos, 8, False, ""),
    "sqrt": (np.sqrt, 1, True, ""),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2, True, ""),
    "reciprocal": (lambda x: 1 / x, 1, False, ""),
    "tanh": (np.tanh, 8, False, ""),
    "erf": (erf64, 1, False, ""),
    "sigmoid": (sigmoid64, 12, False, ""),
    "softplus": (lambda x: np.logaddexp(x, 0), 12, False, ""),
    "silu": (lambda x: x * sigmoid64(x), 13, False, ""),
    # 1 + erf and 1 + tanh cancel for negative x: their errors act on |x|, not on the result.
    "gelu": (lambda x: x / 2 * (1 + erf64(x / math.sqrt(2))), 6, False, "x"),
    "gelu_tanh": (gelu_tanh64, 20, False, "x"),
}


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unary(op: str, shape: tuple[int, ...]) -> None:
    meaning, roundings, positive, on = UNARY[op]
    x = normal(*shape) if shape else np.float32(0.75).reshape(())
    x = np.abs(x) + np.float32(1e-3) if positive else x
    (got,) = run(op, x)
    close(got, meaning(x.astype(np.float64)), roundings, x if on else None)


SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-38, 88.0, -104.0, 5e4], "f4")


@pytest.mark.parametrize("op", sorted(set(UNARY) - {"gelu", "gelu_tanh", "silu", "sin", "cos"}))
def test_special_values(op: str) -> None:
    meaning, roundings, *_ = UNARY[op]
    with np.errstate(all="ignore"):
        want = meaning(SPECIAL.astype(np.float64))
        (got,) = run(op, SPECIAL)
        over = np.abs(want) > 3.4028235e38  # overflows in FP32, not in FP64
    assert np.all(np.isinf(got[over]) | np.isinf(want[over]))
    close(got[~over], want[~over], roundings)


BINARY = {
    "add": (np.add, 1),
    "sub": (np.subtract, 1),
    "mul": (np.multiply, 1),
    "div": (np.divide, 1),
    "max": (np.maximum, 0),
    "min": (np.minimum, 0),
}


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize(
    ("a", "b"),
    [((), ()), ((0,), (1,)), ((7,), ()), ((3, 1, 5), (7, 1)), ((2, 0), (1, 1)), ((1,), (4, 3))],
)
def test_binary_broadcasts(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    meaning, roundings = BINARY[op]
    x, y = np.asarray(normal(*a, seed=1), "f4"), np.asarray(normal(*b, seed=2), "f4")
    (got,) = run(op, x, y)
    close(got, meaning(x.astype(np.float64), y.astype(np.float64)), roundings)


def test_pow() -> None:
    x, y = np.abs(normal(31)), normal(31, seed=3)
    close(run("pow", x, y)[0], x.astype(np.float64) ** y, 8)


def test_integers_divide_towards_zero() -> None:
    a = np.array([7, -7, 7, -7, 0, -8], np.int32)
    b = np.array([2, 2, -2, -2, 5, 8], np.int32)
    assert run("div", a, b)[0].tolist() == [3, -3, -3, 3, 0, -1]


@pytest.mark.parametrize("kind", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_compare(kind: str) -> None:
    a, b = np.array([1, 2, 3, np.nan], "f4"), np.array([1, 3, 2, np.nan], "f4")
    want = [eval(f"x {sign} y") for x, y in zip(a, b) for sign in [_SIGNS[kind]]]
    assert run("compare", a, b, kind=kind)[0].tolist() == want


_SIGNS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


def test_where_clip_cast_scale_softcap() -> None:
    x = normal(3, 5)
    mask = x > 0
    assert np.array_equal(run("where", mask, x, -x)[0], np.abs(x))
    assert np.array_equal(run("clip", x, low=-1.0, high=2.0)[0], np.clip(x, -1, 2))
    whole = np.array([-300, 0, 300], np.int32)
    assert run("clip", whole, low=-128.0, high=127.0)[0].tolist() == [-128, 0, 127]
    assert run("cast", np.array([1.9, -1.9], "f4"), to="int32")[0].tolist() == [1, -1]
    assert run("cast", np.array([0.0, 0.5], "f4"), to="bool")[0].tolist() == [False, True]
    close(run("scale", x, factor=0.1)[0], x * np.float64(np.float32(0.1)), 1)
    close(run("softcap", x, cap=2.0)[0], 2 * np.tanh(x.astype(np.float64) / 2), 11)


@pytest.mark.parametrize("m", [0, 1, 13])
@pytest.mark.parametrize("k", [0, 1, 31, 64])
def test_matmul_and_linear(m: int, k: int) -> None:
    x, w, bias = normal(m, k), normal(17, k, seed=4), normal(17, seed=5)
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(w).T.astype(np.float64)
    close(run("matmul", x, np.ascontiguousarray(w.T))[0], exact, k, size)
    close(run("linear", x, w)[0], exact, k, size)
    close(run("linear", x, w, bias)[0], exact + bias, k + 1, size + np.abs(bias))


def test_matmul_broadcasts_batches() -> None:
    a, b = normal(2, 1, 3, 5), normal(4, 5, 7, seed=1)
    want = a.astype(np.float64) @ b
    close(run("matmul", a, b)[0], want, 5, np.abs(a).astype(np.float64) @ np.abs(b))


@pytest.mark.parametrize("kind", ["sum", "max", "min", "mean"])
@pytest.mark.parametrize(("axes", "keep"), [((), True), ((0,), False), ((-1, 0), True)])
def test_reduce(kind: str, axes: tuple[int, ...], keep: bool) -> None:
    x = normal(3, 5, 7)
    function = {"sum": np.sum, "max": np.max, "min": np.min, "mean": np.mean}[kind]
    want = function(x.astype(np.float64), axis=axes, keepdims=keep)
    size = np.sum(np.abs(x), axis=axes, keepdims=keep)
    close(run("reduce", x, kind=kind, axes=axes, keepdims=keep)[0], want, 22, size)


@pytest.mark.parametrize("shape", [(1, 1), (0, 4), (4, 0), (3, 17)])
@pytest.mark.parametrize("axis", [0, -1])
def test_softmax(shape: tuple[int, ...], axis: int) -> None:
    x = normal(*shape, spread=20)
    if x.shape[axis]:
        e = np.exp(x.astype(np.float64) - x.max(axis=axis, keepdims=True))
        want = e / e.sum(axis=axis, keepdims=True)
    else:
        want = x.astype(np.float64)
    # x - max rounds once: u * |x - max| in the exponent, at most 2**-24 * 160 here; then exp (8),
    # a sum of 17 and a division, all of which meet e or more.
    close(run("softmax", x, axis=axis)[0], want, 160 + 8 + 17 + 1)


@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (3, 37)])
def test_norms(shape: tuple[int, ...]) -> None:
    x, gamma, beta = normal(*shape), normal(shape[-1], seed=7), normal(shape[-1], seed=8)
    wide, n = x.astype(np.float64), shape[-1]
    eps = float(np.float32(1e-5))
    mean = wide.mean(-1, keepdims=True)
    deviation = np.sqrt(((wide - mean) ** 2).mean(-1, keepdims=True) + eps)
    want = (wide - mean) / deviation * gamma + beta
    # centring errs by (n + 1) u of mean|x| + |x|; the variance is n + 3 roundings, halved by sqrt.
    size = (np.abs(wide) + np.abs(wide).mean(-1, keepdims=True)) / deviation * np.abs(gamma)
    got = run("layer_norm", x, gamma, beta, eps=1e-5)[0]
    close(got, want, 2 * n + 6, size + np.abs(beta))
    close(run("layer_norm", x, gamma, eps=1e-5)[0], want - beta, 2 * n + 6, size)
    want = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + eps) * gamma
    close(run("rms_norm", x, gamma, eps=1e-5)[0], want, n + 6)


def test_rms_norm_in_groups() -> None:
    x, gamma = normal(5, 12), normal(4, seed=2)
    whole = run("rms_norm", x.reshape(15, 4), gamma, eps=1e-6)[0].reshape(5, 12)
    assert np.array_equal(run("rms_norm", x, gamma, eps=1e-6, group_size=4)[0], whole)


@pytest.mark.parametrize("style", ["half", "interleaved"])
@pytest.mark.parametrize("rotary", [0, 4])
@pytest.mark.parametrize("factors", [False, True])
def test_rope_is_a_complex_rotation(style: str, rotary: int, factors: bool) -> None:
    x, positions, theta = normal(5, 16), np.array([0, 1, 2, 1000, 8191], np.int32), 10000.0
    size = rotary or 8
    table = np.linspace(1, 4, size // 2, dtype=np.float32) if factors else None
    want = x.astype(np.float64).reshape(5, 2, 8).copy()
    for row, head, i in np.ndindex(5, 2, size // 2):
        frequency = theta ** (-2 * i / size) / (1 if table is None else float(table[i]))
        pair = (i, i + size // 2) if style == "half" else (2 * i, 2 * i + 1)
        z = complex(*want[row, head, pair]) * np.exp(1j * positions[row] * frequency)
        want[row, head, pair] = z.real, z.imag
    got = run("rope", x, positions, table, head_dim=8, theta=theta, style=style, rotary_dim=rotary)
    # cos or sin rounded, two products, one sum: each on at most the sum of the pair's magnitudes.
    close(got[0], want.reshape(5, 16), 4, 2 * np.abs(x).max())


def test_movement_is_numpy() -> None:
    x = np.arange(2 * 3 * 4, dtype=np.int64).reshape(2, 3, 4)
    assert np.array_equal(run("reshape", x, shape=(4, -1))[0], x.reshape(4, 6))
    assert np.array_equal(run("transpose", x, perm=(2, 0, 1))[0], x.transpose(2, 0, 1))
    assert np.array_equal(run("concat", x, x[:, :0], x, axis=1)[0], np.concatenate([x, x], 1))
    cut = {"axes": (0, 2), "starts": (-1, 3), "stops": (-3, 0), "steps": (-1, -2)}
    assert np.array_equal(run("slice", x, **cut)[0], x[-1:-3:-1, :, 3:0:-2])
    back = {"axes": (2,), "starts": (-1,), "stops": (-(2**63),), "steps": (-1,)}
    assert np.array_equal(run("slice", x, **back)[0], x[:, :, ::-1])
    assert run("transpose", np.array(3.0, np.float32), perm=())[0].shape == ()
    parts = run("split", x, axis=-1, sizes=(1, 0, 3))
    assert [p.shape for p in parts] == [(2, 3, 1), (2, 3, 0), (2, 3, 3)]
    assert np.array_equal(np.concatenate(parts, -1), x)
    at = np.array([[0, -1], [2, 1]], np.int32)
    assert np.array_equal(run("gather", x, at, axis=1)[0], np.take(x, at, axis=1))
    assert np.array_equal(run("expand", x[:, :1], shape=(5, 2, 3, 4))[0][4, 1, 2], x[1, 0])
    assert np.array_equal(
        run("pad", x, pads=(0, 1, -1, 2, 0, -1), value=9.0)[0],
        np.pad(x, [(0, 2), (1, 0), (0, 0)], constant_values=9)[:, :, 1:-1],
    )
    for mode in ("reflect", "edge"):
        want = np.pad(x, [(0, 0), (2, 1), (0, 0)], mode=mode)
        assert np.array_equal(run("pad", x, pads=(0, 2, 0, 0, 1, 0), mode=mode)[0], want)


def test_embedding_rows_and_range() -> None:
    table = normal(11, 3)
    ids = np.array([0, 10, 3], np.int32)
    assert np.array_equal(run("embedding", ids, table)[0], table[ids])
    assert run("embedding", ids[:0], table)[0].shape == (0, 3)
    with pytest.raises(GraphError) as caught:
        run("embedding", np.array([11], np.int32), table)
    assert caught.value.code == "MV0318"


def _conv_by_definition(x, w, bias, strides, pads, dilations, groups):
    rank = x.ndim - 2
    widths = [(0, 0), (0, 0), *((pads[i], pads[rank + i]) for i in range(rank))]
    x = np.pad(x.astype(np.float64), widths)
    each, out_each = w.shape[1], w.shape[0] // groups
    counts = [
        (x.shape[2 + i] - dilations[i] * (w.shape[2 + i] - 1) - 1) // strides[i] + 1
        for i in range(rank)
    ]
    y = np.zeros((x.shape[0], w.shape[0], *counts))
    for n, m, *at in np.ndindex(*y.shape):
        first = m // out_each * each
        window = tuple(slice(at[i] * strides[i], None, dilations[i]) for i in range(rank))
        block = x[(n, slice(first, first + each), *window)]
        block = block[(slice(None), *(slice(0, k) for k in w.shape[2:]))]
        y[(n, m, *at)] = np.sum(block * w[m]) + bias[m]
    return y


@pytest.mark.parametrize(
    ("x", "w", "strides", "pads", "dilations", "groups"),
    [
        ((1, 1, 1), (1, 1, 1), (1,), (0, 0), (1,), 1),
        ((2, 4, 11), (6, 2, 3), (2,), (1, 2), (2,), 2),
        ((2, 3, 7, 5), (4, 3, 3, 2), (2, 1), (1, 0, 2, 1), (1, 2), 1),
        ((1, 6, 5, 5), (6, 1, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 6),
        ((1, 2, 3, 4, 5), (2, 2, 2, 2, 2), (1, 2, 1), (0, 1, 0, 1, 0, 1), (1, 1, 2), 1),
        ((0, 2, 4), (3, 2, 2), (1,), (0, 0), (1,), 1),
    ],
)
def test_conv(x, w, strides, pads, dilations, groups) -> None:
    data, weight, bias = normal(*x), normal(*w, seed=1), normal(w[0], seed=2)
    attrs = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
    want = _conv_by_definition(data, weight, bias, **attrs)
    size = _conv_by_definition(np.abs(data), np.abs(weight), np.abs(bias), **attrs)
    terms = math.prod(w[1:]) + 1
    close(run("conv", data, weight, bias, **attrs)[0], want, terms, size)


def test_every_op_is_tested_somewhere() -> None:
    here = set(UNARY) | set(BINARY) | {"pow", "compare", "where", "clip", "cast", "scale"}
    here |= {"softcap", "matmul", "linear", "reduce", "softmax", "layer_norm", "rms_norm", "rope"}
    here |= {"reshape", "transpose", "concat", "slice", "split", "gather", "expand", "pad"}
    here |= {"embedding", "conv"}
    elsewhere = {
        "attention": "tests/onnx/test_attention.py and test_interpret.py",
        "max_pool": "tests/onnx/test_onnx_ops.py",
        "average_pool": "tests/onnx/test_onnx_ops.py",
    }
    assert here | set(elsewhere) == set(OPS)
