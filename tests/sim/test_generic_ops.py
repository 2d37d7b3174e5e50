"""Every lowering of the graph compiler on the functional simulator, against graph.interpret.

Tolerances. Errors of VECTOR functions are stated in compiler.generic.formulas in ulp; an ulp is at
most 2u of its value (u = 2**-24), and the interpreter errs by at most 8 ulp in NumPy's functions.
Products of three slices keep 22 bits at least of the largest element of each block of 32, for both
operands: |error| <= (2 * 2**-22 + k * u) * sum |a| |b|, bounded here by k * max|a| * max|b|.
Scratchpads start as NaN (poison) and each case runs three times on the same memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mellivora.errors import CompileError, UsageError
from mellivora.graph import Builder, Graph, interpret
from mellivora.isa.check import check_program
from mellivora.runtime.graph import GraphRunner
from mellivora.sim.expand import expand
from mellivora.spec import ChipSpec, load_chip

U = 2.0**-24
NAMES = {"float32": "f32", "float64": "f64"}


def normal(*shape: int, seed: int = 0, spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


def one(
    op: str, arrays: list[Any], params: list[Any] = (), **attrs: Any
) -> tuple[Graph, dict[str, Any]]:
    """A graph of one node; params follow the inputs. None leaves an operand out."""
    b, feed, names = Builder("one"), {}, []
    for i, array in enumerate(arrays):
        dtype = NAMES.get(str(array.dtype), str(array.dtype))
        names.append(b.input(f"x{i}", dtype, array.shape))
        feed[f"x{i}"] = array
    names += [b.param(f"p{i}", p) if p is not None else "" for i, p in enumerate(params)]
    for name in b.ops(op, names, **attrs):
        b.output(name)
    return b.build(), feed


def run(
    graph: Graph,
    feed: dict[str, Any],
    chip: str | ChipSpec = "nano",
    *,
    check: bool = True,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Three equal runs; the checker's proof."""
    chip = load_chip(chip) if isinstance(chip, str) else chip
    runner = GraphRunner(graph, chip, **options)
    first = runner.run(feed, poison=True)
    for _ in range(2):
        again = runner.run(feed, poison=True)
        for name, array in first.items():
            np.testing.assert_array_equal(again[name], array)
    if check:
        check_program(runner.compiled.program, resolver=expand)
    return first


def close(got: np.ndarray, want: np.ndarray, bound: object) -> None:
    """|got - want| <= bound where want is finite, else equal."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    finite = np.isfinite(want)
    with np.errstate(invalid="ignore"):
        error = np.abs(got.astype(np.float64) - want)
        allowed = np.broadcast_to(np.asarray(bound, np.float64), want.shape) + 2.0**-149
    assert np.all(error[finite] <= allowed[finite]), float((error / allowed)[finite].max())
    assert np.array_equal(got[~finite], want[~finite], equal_nan=True)


def compare(case: tuple[Graph, dict[str, Any]], bound: object = 0.0, **options: Any) -> None:
    graph, feed = case
    want = interpret(graph, feed)
    got = run(graph, feed, **options)
    for name in graph.outputs:
        close(got[name], want[name], bound(want[name]) if callable(bound) else bound)


# op: (ulp of the result, magnitude instead of the result: absolute error is ulp * 2u * that)
UNARY: dict[str, tuple[float, str]] = {
    **dict.fromkeys(("neg", "abs", "floor", "relu"), (0, "")),
    "exp": (60, ""),  # |x| up to about 20 here, the reference 8
    "log": (10, "1"),
    "sin": (40, "1"),  # |x| up to about 20
    "cos": (40, "1"),
    "sqrt": (10, ""),
    "rsqrt": (10, ""),
    "reciprocal": (10, ""),
    "tanh": (16, ""),
    "erf": (16, ""),
    "sigmoid": (40, ""),
    "softplus": (16, "1"),
    "silu": (60, ""),
    "gelu": (16, "x"),
    "gelu_tanh": (60, "x"),
}
SHAPES = [(), (1,), (7,), (8,), (9,), (2, 0, 3), (3, 5, 7), (1, 127), (1, 8191), (3, 4099)]


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unary(op: str, shape: tuple[int, ...]) -> None:
    x = np.asarray(normal(*shape), np.float32)
    if op in ("log", "sqrt", "rsqrt"):
        x = np.abs(x) + np.float32(1e-3)
    ulp, on = UNARY[op]
    size = {"": None, "1": np.maximum(np.abs(np.log(np.abs(x) + 1e-9)), 1), "x": np.abs(x)}[on]
    compare(one(op, [x]), lambda want: ulp * 2 * U * np.abs(want if size is None else size))


def test_special_values() -> None:
    """Zeros, infinities, subnormals and NaN of the functions that mend their ends."""
    x = np.array([0, -0.0, np.inf, 1e-45, 1e-38, 3e38, np.nan], np.float32)
    graph, feed = one("sqrt", [x])
    close(run(graph, feed)["sqrt_0"], np.sqrt(x), 4 * U * np.abs(np.sqrt(x)))
    x = np.array([0, -0.0, np.inf, -np.inf, 80, -80, 1e-45, 1e-10, np.nan], np.float32)
    for op in ("tanh", "erf", "sigmoid", "relu", "floor"):
        graph, feed = one(op, [x])
        want = interpret(graph, feed)[f"{op}_0"]
        close(run(graph, feed)[f"{op}_0"], want, 200 * U * np.abs(want))  # |x| is 80


def test_floor_near_integers() -> None:
    base = np.array(
        [0.5, 1, 1.5, 2, 2.5, 3, 2**22 + 0.5, 2**23 - 0.5, 2**23, 2**24, 2**30], np.float32
    )
    x = np.concatenate(
        [base, np.nextafter(base, np.float32(0)), np.nextafter(base, np.float32(1e38))]
    )
    x = np.concatenate([x, -x])
    compare(one("floor", [x]))
    small = x[np.abs(x) < 2**24]
    compare(one("cast", [small], to="int32"))


PAIRS = [
    ((), ()), ((7,), ()), ((), (7,)), ((3, 1, 5), (7, 1)), ((1,), (4, 3)), ((5, 300), (300,)),
    ((5, 300), (5, 1)), ((5, 1), (5, 300)), ((2, 3, 4, 50), (2, 1, 1, 50)), ((0,), (1,)),
    ((9000,), (1,)), ((3, 3000), (3000,)),
]  # fmt: skip


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "max", "min"])
@pytest.mark.parametrize(("a", "b"), PAIRS, ids=str)
def test_binary(op: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = np.asarray(normal(*a, seed=1), "f4"), np.asarray(normal(*b, seed=2), "f4")
    compare(one(op, [x, y]), (lambda want: 3 * 2 * U * np.abs(want)) if op == "div" else 0.0)


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "max", "min"])
@pytest.mark.parametrize("swap", [False, True])
def test_binary_with_a_number(op: str, swap: bool) -> None:
    b = Builder("number")
    x, c = b.input("x", "f32", (3, 5)), b.param("c", np.array([[1.7]], np.float32))
    b.output(b.op(op, [c, x] if swap else [x, c]))
    compare((b.build(), {"x": normal(3, 5)}), lambda want: (op == "div") * 6 * U * np.abs(want))


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, 4.0, 0.5, -0.5, -1.0, 2.5])
def test_pow(exponent: float) -> None:
    x = np.abs(normal(3, 7)) + np.float32(0.1)
    case = one("pow", [x], [np.array(exponent, np.float32)])
    compare(case, lambda want: (40 if exponent == 2.5 else 6) * U * np.abs(want))


@pytest.mark.parametrize("kind", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_compare(kind: str) -> None:
    x = np.array([0, -0.0, 1, 2, np.inf, -np.inf, np.nan], np.float32)
    compare(one("compare", [x[:, None], x[None]], kind=kind))


def test_where_with_infinities() -> None:
    c = np.array([[True], [False], [True]])
    a = np.array([1, np.inf, -np.inf, 4], np.float32)
    compare(one("where", [c, a], [np.array(-np.inf, np.float32)]))
    compare(one("where", [c, a, normal(3, 4)]))


def test_chains_of_elementwise_nodes() -> None:
    """GELU and a mask as exporters write them; every intermediate stays in the scratchpad."""
    b = Builder("chain")
    x, row = b.input("x", "f32", (5, 300)), b.input("row", "f32", (5, 1))
    half = b.param("half", np.array(0.5, np.float32))
    h = b.op("add", [b.op("erf", [b.op("div", [x, row])]), half])
    y = b.op("mul", [b.op("mul", [x, h]), half])
    y = b.op("sub", [half, b.op("div", [half, b.op("mul", [y, y])])])
    number = b.op("add", [half, half])
    kept = b.op("where", [b.op("compare", [y, row], kind="gt"), y, number])
    for name in (y, kept):
        b.output(name)
    graph, feed = b.build(), {"x": np.abs(normal(5, 300)) + 1, "row": np.abs(normal(5, 1)) + 1}
    want = interpret(graph, feed)
    got = run(graph, feed)
    runner = GraphRunner(graph, load_chip("nano"))
    labels = {label for _, _, label, _ in runner.compiled.program.entries["main"].symbols}
    assert len(labels) == 3  # a chain of eight, a node on its own, a chain of two
    # About 60 ulp of the terms, and 0.5 / y**2 (y from 0.5 on) at most doubles them twice.
    for name in graph.outputs:
        close(got[name], want[name], 60 * 4 * 2 * U * (np.abs(want[name]) + 2))


def test_numbers_and_casts() -> None:
    x = normal(3, 50)
    compare(one("scale", [x], factor=0.3))
    compare(one("clip", [x], low=-1.0, high=2.0))
    compare(one("softcap", [x], cap=2.0), 40 * U)
    for to in ("int32", "int64", "bool"):
        compare(one("cast", [x], to=to))
    compare(one("cast", [x > 0], to="f32"))
    compare(one("cast", [np.arange(-5, 5)], to="f32"))


PRODUCTS = [
    (1, 1, 1),
    (1, 32, 8),
    (5, 31, 7),
    (5, 33, 9),
    (70, 64, 17),
    (3, 2000, 3),
    (65, 40, 100),
]


def product_bound(k: int, a: np.ndarray, b: np.ndarray, bits: int = 22) -> float:
    scale = float(np.abs(a).max(initial=0) * np.abs(b).max(initial=0))
    return k * scale * (2 * 2.0**-bits + k * U)


@pytest.mark.parametrize(("m", "k", "n"), PRODUCTS)
def test_linear(m: int, k: int, n: int) -> None:
    x, w, c = normal(m, k), normal(n, k, seed=1), normal(n, seed=2)
    compare(one("linear", [x], [w, c]), product_bound(k, x, w))
    compare(one("linear", [x[None]], [w]), product_bound(k, x, w))


@pytest.mark.parametrize("slices", [1, 2])
def test_fewer_slices(slices: int) -> None:
    x, w = normal(9, 70), normal(5, 70, seed=1)
    compare(one("linear", [x], [w]), product_bound(70, x, w, 8 * slices - 2), slices=slices)


@pytest.mark.parametrize(("m", "k", "n"), PRODUCTS)
def test_matmul_of_activations(m: int, k: int, n: int) -> None:
    a, b = normal(m, k), normal(k, n, seed=1)
    compare(one("matmul", [a, b]), product_bound(k, a, b))


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 3, 5, 40), (2, 3, 40, 9)),
     ((2, 1, 5, 40), (3, 40, 9)), ((5, 40), (2, 40, 9)), ((0, 4), (4, 3))],
    ids=str,
)  # fmt: skip
def test_matmul_broadcasts(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = normal(*a), normal(*b, seed=1)
    compare(one("matmul", [x, y]), product_bound(40, x, y))
    compare(one("matmul", [x], [y]), product_bound(40, x, y))


def test_matmul_of_a_transposed_operand() -> None:
    b = Builder("scores")
    q, k = b.input("q", "f32", (2, 9, 3, 16)), b.input("k", "f32", (2, 9, 3, 16))
    left, right = (
        b.op("transpose", [q], perm=(0, 2, 1, 3)),
        b.op("transpose", [k], perm=(0, 2, 3, 1)),
    )
    b.output(b.op("matmul", [left, right]))
    feed = {"q": normal(2, 9, 3, 16), "k": normal(2, 9, 3, 16, seed=1)}
    compare((b.build(), feed), product_bound(16, feed["q"], feed["k"]))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 33, 8), (2, 7, 1000)], ids=str)
def test_softmax(shape: tuple[int, ...], axis: int) -> None:
    x = normal(*shape)
    compare(one("softmax", [x], axis=axis), lambda want: (40 + shape[axis]) * U * np.abs(want))


def test_softmax_with_masked_places() -> None:
    x = normal(4, 9)
    x[:, 5:] = -np.inf
    compare(one("softmax", [x]), lambda want: 80 * U * np.abs(want))


@pytest.mark.parametrize("width", [1, 7, 48, 384])
def test_norms(width: int) -> None:
    """Mean and variance are sums of `width`; gamma and the numbers here are of size 1 to 10."""
    x, gamma, beta = normal(5, 3, width), normal(width, seed=1), normal(width, seed=2)
    size = float(np.abs(gamma).max() * width**0.5)
    if width > 1:  # of one element the variance is zero: 1 / sqrt(eps) magnifies the rounding
        compare(one("layer_norm", [x], [gamma, beta], eps=1e-5), 40 * U * (size + 10))
        compare(one("layer_norm", [x], [gamma], eps=1e-5), 40 * U * size)
    compare(one("rms_norm", [x], [gamma], eps=1e-5), 40 * U * size)


def test_rms_norm_of_groups() -> None:
    compare(one("rms_norm", [normal(5, 24)], [normal(8, seed=1)], eps=1e-6, group_size=8), 400 * U)


@pytest.mark.parametrize("kind", ["sum", "mean", "max", "min"])
@pytest.mark.parametrize("axes", [(-1,), (0,), (1, 2), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_reduce(kind: str, axes: tuple[int, ...], keepdims: bool) -> None:
    x = normal(5, 9, 33)
    exact = kind in ("max", "min")
    bound = 0.0 if exact else np.abs(x).sum() * 20 * U
    compare(one("reduce", [x], kind=kind, axes=axes, keepdims=keepdims), bound)


@pytest.mark.parametrize("perm", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1), (2, 0, 1)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 50, 70)], ids=str)
def test_movement(perm: tuple[int, ...], shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    compare(one("transpose", [x], perm=perm))
    b = Builder("copy")
    t = b.op("transpose", [b.input("x", "f32", shape)], perm=perm)
    b.output(b.op("reshape", [t], shape=(-1, shape[perm[2]])))
    b.output(b.op("reshape", [t], shape=(-1,)))
    compare((b.build(), {"x": x}))


def test_slices_and_joins() -> None:
    x = normal(6, 7, 9)
    compare(one("slice", [x], axes=(0, 2), starts=(1, -1), stops=(5, 0), steps=(2, -3)))
    compare(one("concat", [x, x[:, :3], x[:, 1:2]], axis=1))
    compare(one("split", [x], axis=2, sizes=(2, 3, 4)))
    compare(one("expand", [x[:, :1]], shape=(2, 6, 5, 9)))
    compare(one("pad", [x], pads=(1, -2, 0, 0, 3, 2), value=1.5))
    compare(one("pad", [x], pads=(0, 0, 4, 0, 0, 0)))


def test_gathers() -> None:
    x, table = normal(4, 7, 3), normal(11, 40, seed=1)
    places = np.array([[0, 6, -1], [2, 3, -7]])
    compare(one("gather", [x], [places], axis=1))
    compare(one("gather", [x, places], axis=1))
    compare(one("gather", [x, places.astype(np.int32)], axis=-2))
    compare(one("embedding", [np.array([[10, 0, -1]])], [table]))
    compare(one("gather", [x], [np.array(2)], axis=2))


# kernel, stride, pad, dilation, groups, channels in, out
CONVOLUTIONS = [
    (1, 1, 0, 1, 1, 5, 7), (1, 2, 0, 1, 1, 32, 9), (3, 1, 1, 1, 1, 3, 8), (3, 2, 1, 1, 1, 40, 9),
    (3, 1, 2, 2, 1, 4, 5), (7, 2, 3, 1, 1, 3, 10), (3, 1, 1, 1, 2, 8, 6), (3, 2, 1, 1, 6, 6, 6),
    (5, 1, 0, 1, 1, 1, 4), (3, 1, 1, 1, 1, 300, 3),
]  # fmt: skip


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_conv(case: tuple[int, ...], bias: bool) -> None:
    kernel, stride, pad, dilation, groups, inside, outside = case
    x, w = normal(2, inside, 9, 11), normal(outside, inside // groups, kernel, kernel, seed=1)
    params = [w, normal(outside, seed=2)] if bias else [w]
    attrs = {"strides": (stride,) * 2, "pads": (pad,) * 4, "dilations": (dilation,) * 2}
    bound = product_bound(inside // groups * kernel**2, x, w)
    compare(one("conv", [x], params, groups=groups, **attrs), bound)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("kernel", [1, 3])
def test_relu_behind_a_product(groups: int, kernel: int) -> None:
    """The ReLU is part of the product: one operation, no value below zero."""
    x, w, c = normal(1, 8, 6, 6), normal(8, 8 // groups, kernel, kernel, seed=1), normal(8, seed=2)
    b = Builder("relu")
    y = b.op(
        "conv",
        [b.input("x", "f32", x.shape), b.param("w", w), b.param("c", c)],
        strides=(1, 1),
        pads=(kernel // 2,) * 4,
        dilations=(1, 1),
        groups=groups,
    )
    y = b.op("reshape", [b.op("relu", [y])], shape=(8, 36))
    b.output(b.op("relu", [b.op("linear", [y, b.param("v", normal(5, 36, seed=3))])], name="y"))
    graph = b.build()
    want = interpret(graph, {"x": x})["y"]
    inner = product_bound(8 // groups * kernel**2, x, w)
    # 36 weights of at most 15 (five deviations) carry the inner error on; then linear's own, on
    # hidden values that are at most ten times the outputs.
    got = run(graph, {"x": x})["y"]
    close(got, want, 36 * 15 * inner + product_bound(36, want, normal(5, 36, seed=3)) * 10)
    assert got.min() == 0 < got.max()
    symbols = GraphRunner(graph, load_chip("nano")).compiled.program.entries["main"].symbols
    assert "relu" not in {kind for _, _, _, kind in symbols}


def test_conv_over_one_axis() -> None:
    x, w = normal(2, 6, 30), normal(4, 6, 3, seed=1)
    case = one("conv", [x], [w], strides=(2,), pads=(1, 0), dilations=(1,))
    compare(case, product_bound(18, x, w))


POOLS = [
    ((2, 2), (2, 2), (0, 0, 0, 0)), ((3, 3), (2, 2), (1, 1, 1, 1)), ((1, 3), (1, 1), (0, 1, 0, 0)),
    ((9, 11), (1, 1), (0, 0, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "strides", "pads"), POOLS)
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("channels", [1, 5, 64])
def test_pools(kernel: Any, strides: Any, pads: Any, ceil: bool, channels: int) -> None:
    x = normal(2, channels, 9, 11)
    attrs = {"kernel": kernel, "strides": strides, "pads": pads, "ceil": ceil}
    compare(one("max_pool", [x], **attrs))
    for include in (False, True):
        case = one("average_pool", [x], include_pad=include, **attrs)
        compare(case, 99 * U * float(np.abs(x).max()))


def test_what_has_no_lowering_is_said() -> None:
    x, positions = normal(3, 32), np.arange(3, dtype=np.int32)
    graph, _ = one("rope", [x, positions], head_dim=32, theta=1e4)
    with pytest.raises(CompileError) as raised:
        GraphRunner(graph, load_chip("nano"))
    assert raised.value.code == "MV0430"
    assert raised.value.where == "node rope -> rope_0"
    assert raised.value.given == "rope"
    assert raised.value.hint
    graph, _ = one("neg", [x.astype(np.float64)])
    with pytest.raises(CompileError, match="dtype") as raised:
        GraphRunner(graph, load_chip("nano"))
    assert raised.value.code == "MV0432"


def test_symbols_must_have_sizes() -> None:
    b = Builder("symbols")
    b.output(b.op("relu", [b.input("x", "f32", ("rows", 3))], name="y"))
    graph = b.build()
    with pytest.raises(CompileError) as raised:
        GraphRunner(graph, load_chip("nano"))
    assert raised.value.code == "MV0429"
    compare((graph, {"x": normal(4, 3)}), dims={"rows": 4})


@pytest.mark.parametrize(
    ("feed", "code"),
    [({}, "MV0860"), ({"ids": np.zeros(3, np.float32)}, "MV0861"),
     ({"ids": np.zeros(4, np.int64)}, "MV0861"), ({"ids": np.array([0, 1, 11])}, "MV0862")],
)  # fmt: skip
def test_bad_inputs(feed: dict[str, Any], code: str) -> None:
    b = Builder("ids")
    ids = b.input("ids", "int64", (3,))
    b.output(b.op("embedding", [ids, b.param("table", normal(11, 5))]))
    runner = GraphRunner(b.build(), load_chip("nano"))
    with pytest.raises(UsageError) as raised:
        runner.run(feed)
    assert raised.value.code == code


def test_time_is_known_without_inputs() -> None:
    graph, feed = one("linear", [normal(5, 40)], [normal(9, 40, seed=1)])
    runner = GraphRunner(graph, load_chip("nano"))
    assert runner.timing().cycles == runner.timing(feed).cycles > 100
