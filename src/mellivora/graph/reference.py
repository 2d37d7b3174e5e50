"""What each operation means, in NumPy float32. Clear first, fast where it costs nothing.

A reference takes a `Context` (the cache and the precision), the attributes with every symbol bound,
and the operands; it returns an array, or a list of arrays where the op has several outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from mellivora.graph.ir import DTYPES, Array, Attrs, Quantised
from mellivora.graph.kv_cache import KVCache
from mellivora.graph.shapes_moves import python_slice

Linear: TypeAlias = Callable[[Array, "Array | Quantised"], Array]
Operands: TypeAlias = Sequence[Any]
Reference: TypeAlias = "Callable[[Context, Attrs, Operands], Array | list[Array]]"


class Precision:
    """How matrix products are worked out. This one: float32, as NumPy does it.

    Subclass it, or give `linear` alone, to interpret a graph at a chip's stated precision:
    linear(x [m, k] f32, weight [n, k], an array or a block tensor) -> f32 [m, n].
    """

    def __init__(self, linear: Linear | None = None) -> None:
        if linear is not None:
            setattr(self, "linear", linear)  # noqa: B010 - shadows the method, on purpose

    def linear(self, x: Array, weight: Array | Quantised) -> Array:
        """x @ weight.T."""
        return x @ as_f32(weight).T

    def attend(
        self, q: Array, k: Array, v: Array, visible: Array, *, scale: float, softcap: float
    ) -> Array:
        """One head: q [m, d] over k, v [n, d] where `visible` [m, n] is true, to [m, d]."""
        scores = self.linear(q, k) * np.float32(scale)
        if softcap:
            scores = np.float32(softcap) * np.tanh(scores / np.float32(softcap))
        scores = np.where(visible, scores, np.float32(-np.inf))
        return self.linear(stable_softmax(scores, -1), np.ascontiguousarray(v.T))


@dataclass(slots=True)
class Context:
    """What a run carries besides its values."""

    cache: KVCache
    precision: Precision


def as_f32(tensor: Any) -> Array:
    """The float32 values of an array or a block tensor."""
    if isinstance(tensor, np.ndarray):
        return cast("Array", tensor).astype(np.float32, copy=False)
    return cast("Quantised", tensor).dequantize()


# ---- elementwise ---------------------------------------------------------------------------------
def unary(function: Callable[[Array], Array]) -> Reference:
    """Lift an elementwise function; the result keeps the operand's dtype."""
    return lambda _c, _a, x: np.asarray(function(x[0])).astype(x[0].dtype, copy=False)


def binary(function: Callable[[Array, Array], Array]) -> Reference:
    """Lift a function of two arrays."""
    return lambda _c, _a, x: np.asarray(function(x[0], x[1]))


_ERF_STEP = 2.0**-10
_erf_table: list[Array] = []


def erf(x: Array) -> Array:
    """The error function: cubic Hermite over a table of step h = 2**-10 on [0, 6], in float64.

    Its error is at most h**4 / 384 * max|erf''''| < 2e-14, far under float32's last place;
    towards 0 the error falls faster than x, so small arguments keep their relative accuracy.
    """
    if not _erf_table:
        grid = np.arange(0, 6 + 2 * _ERF_STEP, _ERF_STEP)
        slope = 2 / math.sqrt(math.pi) * np.exp(-grid * grid) * _ERF_STEP
        _erf_table.extend([np.array([math.erf(g) for g in grid]), slope])
    values, slopes = _erf_table
    at = np.minimum(np.abs(x.astype(np.float64)), 6.0) / _ERF_STEP
    i = np.nan_to_num(at).astype(np.int64)
    t = at - i
    a, b, m, n = values[i], values[i + 1], slopes[i], slopes[i + 1]
    smooth = a + t * (m + t * (3 * (b - a) - 2 * m - n + t * (2 * (a - b) + m + n)))
    return np.copysign(smooth, x).astype(x.dtype)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def gelu(x: Array) -> Array:
    """x * Phi(x)."""
    return x * (erf(x * np.float32(math.sqrt(0.5))) + 1) * np.float32(0.5)


def gelu_tanh(x: Array) -> Array:
    """GELU by tanh: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x**3)))."""
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    return np.float32(0.5) * x * (1 + np.tanh(inner))


def divide(a: Array, b: Array) -> Array:
    """Float division; integers divide towards zero, as C and ONNX do."""
    if a.dtype.kind == "f" or a.dtype == DTYPES["bf16"]:
        return a / b
    quotient = a // b
    return (quotient + ((quotient < 0) & (quotient * b != a))).astype(a.dtype)


def scale(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """x * factor."""
    return x[0] * x[0].dtype.type(attrs["factor"])


def softcap(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """cap * tanh(x / cap)."""
    cap = x[0].dtype.type(attrs["cap"])
    return cap * np.tanh(x[0] / cap)


def clip(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """Into [low, high]; NaN stays. Integers meet the bounds of their own dtype."""
    array, low, high = x[0], float(cast("float", attrs["low"])), float(cast("float", attrs["high"]))
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        low, high = int(max(low, info.min)), int(min(high, info.max))
    return np.minimum(np.maximum(array, array.dtype.type(low)), array.dtype.type(high))


def cast_to(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """Values in another dtype; floats to integers towards zero."""
    with np.errstate(invalid="ignore", over="ignore"):
        return x[0].astype(DTYPES[str(attrs["to"])])


COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def compare(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """a `kind` b, to bool."""
    return np.asarray(COMPARISONS[str(attrs["kind"])](x[0], x[1]))


def where(_c: Context, _a: Attrs, x: Operands) -> Array:
    """a where the condition holds, else b."""
    return np.asarray(cast("Any", np.where(x[0], x[1], x[2])))


# ---- contractions --------------------------------------------------------------------------------
def linear(context: Context, _a: Attrs, x: Operands) -> Array:
    """x @ weight.T + bias, by the run's precision."""
    rows = x[0].reshape(math.prod(x[0].shape[:-1]), x[0].shape[-1]).astype(np.float32, copy=False)
    y = context.precision.linear(rows, x[1])
    if x[2] is not None:
        y = y + as_f32(x[2])
    return y.reshape(*x[0].shape[:-1], y.shape[-1]).astype(x[0].dtype, copy=False)


def attention(context: Context, attrs: Attrs, x: Operands) -> Array:
    """Causal grouped-query attention over the cached rows of `layer` and the new ones.

    A query at position p sees keys at positions <= p, and > p - window where a window is given.
    """
    heads, kv_heads, size = (cast("int", attrs[key]) for key in ("heads", "kv_heads", "head_dim"))
    window = cast("int", attrs["window"])
    q = x[0].reshape(-1, heads, size)
    k, v = (x[i].reshape(-1, kv_heads, size) for i in (1, 2))
    context.cache.append(cast("int", attrs["layer"]), k, v, x[3])
    k, v, key_positions = context.cache.read(cast("int", attrs["layer"]))
    distance = x[3].astype(np.int64)[:, None] - key_positions[None, :]  # [rows, cached rows]
    visible = distance >= 0
    if window:
        visible &= distance < window
    y = np.empty_like(q)
    for head in range(heads):
        group = head // (heads // kv_heads)
        y[:, head] = context.precision.attend(
            q[:, head],
            k[:, group],
            v[:, group],
            visible,
            scale=cast("float", attrs["scale"]),
            softcap=cast("float", attrs["softcap"]),
        )
    return y.reshape(x[0].shape)


# ---- reductions and normalisation ----------------------------------------------------------------
def reduce(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """sum, max, min or mean over `axes`."""
    axes = cast("tuple[int, ...]", attrs["axes"])
    function: Any = {"sum": np.sum, "max": np.max, "min": np.min, "mean": np.mean}[
        str(attrs["kind"])
    ]
    y: Array = np.asarray(function(x[0], axis=axes, keepdims=bool(attrs["keepdims"])))
    return y.astype(x[0].dtype, copy=False)


def stable_softmax(x: Array, axis: int) -> Array:
    """exp(x - max) / sum; a slice of length 0 stays empty."""
    if x.shape[axis] == 0:
        return x
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def softmax(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """Softmax along `axis`."""
    return stable_softmax(x[0], cast("int", attrs["axis"])).astype(x[0].dtype, copy=False)


def layer_norm(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """(x - mean) / sqrt(variance + eps) * gamma + beta over the last axis."""
    wide = x[0].astype(np.float32, copy=False)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    y = centred / np.sqrt(variance + np.float32(cast("float", attrs["eps"]))) * as_f32(x[1])
    return (y if x[2] is None else y + as_f32(x[2])).astype(x[0].dtype, copy=False)


def rms_norm(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """x / sqrt(mean(x**2) + eps) * gamma over the last axis, or each group of it."""
    group = cast("int", attrs["group_size"]) or x[0].shape[-1]
    wide = x[0].astype(np.float32, copy=False)
    wide = wide.reshape(*wide.shape[:-1], wide.shape[-1] // group if group else 1, group)
    mean = np.mean(wide * wide, axis=-1, keepdims=True) if group else np.float32(0)
    y = wide / np.sqrt(mean + np.float32(cast("float", attrs["eps"]))) * as_f32(x[1])
    return y.reshape(x[0].shape).astype(x[0].dtype, copy=False)


def rope_angles(positions: Array, attrs: Attrs, factors: Array | None) -> Array:
    """Angles in radians, float64 [rows, rotary / 2]: position * theta**(-2i/rotary) / factor."""
    rotary = cast("int", attrs["rotary_dim"]) or cast("int", attrs["head_dim"])
    exponents = np.arange(0, rotary, 2, dtype=np.float64) / rotary
    frequency = float(cast("float", attrs["theta"])) ** -exponents
    if factors is not None:
        frequency = frequency / factors.astype(np.float64)
    return positions.astype(np.float64)[:, None] * frequency[None, :]


def rope(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """Rotate pairs of each head: (i, i + rotary/2) in style half, (2i, 2i + 1) interleaved.

    Cosines and sines are worked out in float64 and rounded once to float32.
    """
    size = cast("int", attrs["head_dim"])
    rotary = cast("int", attrs["rotary_dim"]) or size
    angles = rope_angles(x[1], attrs, None if x[2] is None else as_f32(x[2]))
    cos, sin = (f(angles).astype(np.float32)[:, None, :] for f in (np.cos, np.sin))
    heads = x[0].reshape(x[0].shape[0], x[0].shape[1] // size, size)
    half = attrs["style"] == "half"
    first = slice(0, rotary // 2) if half else slice(0, rotary, 2)
    second = slice(rotary // 2, rotary) if half else slice(1, rotary, 2)
    a, b = heads[..., first], heads[..., second]
    y = heads.copy()
    y[..., first], y[..., second] = a * cos - b * sin, b * cos + a * sin
    return y.reshape(x[0].shape)


# ---- movement ------------------------------------------------------------------------------------
def reshape(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """The same elements in another shape."""
    return x[0].reshape(cast("Any", attrs["shape"]))


def transpose(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """Axes permuted."""
    return np.asarray(x[0].transpose(cast("Any", attrs["perm"])), order="C")


def concat(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """Operands joined along `axis`."""
    return np.concatenate(list(x), axis=cast("int", attrs["axis"]))


def slice_(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """x[start:stop:step] along each of `axes`."""
    index = [slice(None)] * x[0].ndim
    keys = (cast("tuple[int, ...]", attrs[k]) for k in ("axes", "starts", "stops", "steps"))
    for axis, start, stop, step in zip(*keys, strict=True):
        index[axis] = python_slice(start, stop, step)
    return x[0][tuple(index)]


def split(_c: Context, attrs: Attrs, x: Operands) -> list[Array]:
    """Pieces of `sizes` along `axis`."""
    cuts = np.cumsum(cast("Any", attrs["sizes"]))[:-1]
    return np.split(x[0], cuts.tolist(), axis=cast("int", attrs["axis"]))


def _checked_indices(indices: Array, size: int) -> Array:
    """Indices counted from the front; negative ones count from the end. IndexError outside."""
    wide = indices.astype(np.int64)
    if wide.size and (wide.min() < -size or wide.max() >= size):
        raise IndexError(f"an index from {wide.min()} to {wide.max()} into {size} rows")
    return np.where(wide < 0, wide + size, wide)


def gather(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """x taken at the indices along `axis`."""
    axis = cast("int", attrs["axis"])
    return np.take(x[0], _checked_indices(x[1], x[0].shape[axis]), axis=axis)


def embedding(_c: Context, _a: Attrs, x: Operands) -> Array:
    """Rows of the table, as f32."""
    table = as_f32(x[1])
    return table[_checked_indices(x[0], table.shape[0])]


def expand(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """Broadcast to `shape`."""
    return np.broadcast_to(x[0], cast("Any", attrs["shape"]))


def pad(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """Pads grow or (negative) crop; constant, reflect or edge."""
    pads, array = cast("tuple[int, ...]", attrs["pads"]), cast("Array", x[0])
    rank = array.ndim
    widths = [(max(pads[i], 0), max(pads[rank + i], 0)) for i in range(rank)]
    mode, fill = str(attrs["mode"]), array.dtype.type(attrs["value"])
    if mode == "constant":
        array = np.pad(array, widths, constant_values=fill)
    else:
        array = np.pad(array, widths, mode=cast("Any", mode))
    crop = [
        slice(max(-pads[i], 0), size - max(-pads[rank + i], 0))
        for i, size in enumerate(array.shape)
    ]
    return array[tuple(crop)]
