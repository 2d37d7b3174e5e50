"""Shape and dtype rules: what a node makes of its operands. Symbolic dimensions are carried.

Each rule takes the operands (None for an optional one left out) and the attributes, complete and of
the right type, and returns a (dtype, shape) for each output. It raises GraphError MV0307 (shape) or
MV0308 (dtype); the caller adds which node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

from mellivora.errors import GraphError
from mellivora.graph.ir import FLOATS, Attrs, Dim, Shape, Value

Operands: TypeAlias = Sequence[Value | None]
Results: TypeAlias = list[tuple[str, Shape]]
Rule: TypeAlias = Callable[[Operands, Attrs], Results]


def bad_shape(what: str, given: object, *, allowed: str = "", hint: str = "") -> GraphError:
    """The error of a broken shape rule."""
    return GraphError("MV0307", what, given=str(given), allowed=allowed, hint=hint)


def need(operands: Operands, index: int) -> Value:
    """Operand `index`, which is there."""
    value = operands[index]
    assert value is not None  # arity is checked before the rule runs
    return value


def ints_of(attrs: Attrs, key: str) -> tuple[int, ...]:
    """An attribute of several ints."""
    return cast("tuple[int, ...]", attrs[key])


def int_of(attrs: Attrs, key: str) -> int:
    """An int attribute."""
    return cast("int", attrs[key])


def need_floats(*values: Value | None) -> None:
    """GraphError MV0308 unless all are floats (or left out)."""
    for value in values:
        if value is not None and value.dtype not in FLOATS:
            raise GraphError(
                "MV0308",
                "this operand has to be a float",
                given=str(value),
                allowed=" ".join(FLOATS),
                hint="insert a cast",
            )


def same_dtype(*values: Value) -> str:
    """The one dtype of all; GraphError MV0308 where they differ."""
    if len({value.dtype for value in values}) > 1:
        raise GraphError(
            "MV0308",
            "the operands differ in dtype",
            given=", ".join(map(str, values)),
            allowed="one dtype for all",
            hint="insert a cast",
        )
    return values[0].dtype


def need_integers(value: Value) -> None:
    """GraphError MV0308 unless an integer."""
    if not value.dtype.startswith(("int", "uint")):
        raise GraphError(
            "MV0308",
            "indices have to be integers",
            given=str(value),
            allowed="int8 to int64, uint8 to uint64",
            hint="insert a cast",
        )


def axis_of(axis: int, rank: int) -> int:
    """A non-negative axis; GraphError MV0307 outside [-rank, rank)."""
    if not -rank <= axis < rank:
        raise bad_shape("the axis is outside the operand", axis, allowed=f"{-rank} to {rank - 1}")
    return axis % rank


def broadcast_shapes(*shapes: Shape) -> Shape:
    """NumPy's broadcasting over int and symbolic dimensions. A symbol equals only itself."""
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        dims: set[Dim] = {s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0}
        dims = (dims - {1}) or {1}
        if len(dims) > 1:
            raise bad_shape(
                "the shapes do not broadcast",
                " and ".join(str(list(shape)) for shape in shapes),
                allowed="equal dimensions, or 1",
            )
        result.append(dims.pop())
    return tuple(result)


def same(operands: Operands, attrs: Attrs) -> Results:
    """Float in, the same out."""
    x = need(operands, 0)
    need_floats(x)
    return [(x.dtype, x.shape)]


def same_any(operands: Operands, attrs: Attrs) -> Results:
    """Any dtype but bool in, the same out."""
    x = need(operands, 0)
    if x.dtype == "bool":
        raise GraphError("MV0308", "this operand has to be a number", given=str(x))
    return [(x.dtype, x.shape)]


def cast_to(operands: Operands, attrs: Attrs) -> Results:
    """dtype `to`."""
    return [(str(attrs["to"]), need(operands, 0).shape)]


def broadcast(operands: Operands, attrs: Attrs) -> Results:
    """Two operands of one dtype, broadcast."""
    a, b = need(operands, 0), need(operands, 1)
    return [(same_dtype(a, b), broadcast_shapes(a.shape, b.shape))]


def compare(operands: Operands, attrs: Attrs) -> Results:
    """Two operands of one dtype, broadcast, to bool."""
    return [("bool", broadcast(operands, attrs)[0][1])]


def where(operands: Operands, attrs: Attrs) -> Results:
    """A bool condition and two operands of one dtype, all broadcast."""
    condition, a, b = (need(operands, i) for i in range(3))
    if condition.dtype != "bool":
        raise GraphError(
            "MV0308", "the condition has to be bool", given=str(condition), allowed="bool"
        )
    return [(same_dtype(a, b), broadcast_shapes(condition.shape, a.shape, b.shape))]


def matmul(operands: Operands, attrs: Attrs) -> Results:
    """[..., m, k] @ [..., k, n], leading dimensions broadcast."""
    a, b = need(operands, 0), need(operands, 1)
    dtype = same_dtype(a, b)
    if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2]:
        raise bad_shape(
            "these matrices do not multiply",
            f"{list(a.shape)} @ {list(b.shape)}",
            allowed="[..., m, k] @ [..., k, n]",
        )
    return [(dtype, (*broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]))]


def linear(operands: Operands, attrs: Attrs) -> Results:
    """[..., k] with weight [n, k] and bias [n] to [..., n]."""
    x, weight, bias = need(operands, 0), need(operands, 1), operands[2]
    need_floats(x, weight, bias)
    if len(weight.shape) != 2 or not x.shape or x.shape[-1] != weight.shape[1]:
        raise bad_shape(
            "the weight does not fit the operand",
            f"x {list(x.shape)}, weight {list(weight.shape)}",
            allowed="x [..., k], weight [n, k]",
        )
    if bias is not None and bias.shape != (weight.shape[0],):
        raise bad_shape(
            "the bias does not fit the weight",
            f"bias {list(bias.shape)}",
            allowed=f"[{weight.shape[0]}]",
        )
    return [(x.dtype, (*x.shape[:-1], weight.shape[0]))]


def _spatial(
    x: Value, kernel: Sequence[Dim], attrs: Attrs, *, dilations: tuple[int, ...], ceil: bool = False
) -> list[Dim]:
    """Spatial dimensions of a sliding window over x [n, c, *spatial]."""
    spatial, rank = x.shape[2:], len(kernel)
    strides, pads = ints_of(attrs, "strides"), ints_of(attrs, "pads")
    if not (len(spatial) == rank == len(strides) == len(dilations) and len(pads) == 2 * rank):
        raise bad_shape(
            "window attributes and operand differ in rank",
            f"x {list(x.shape)}, kernel {list(kernel)}, strides {list(strides)}, "
            f"dilations {list(dilations)}, pads {list(pads)}",
            allowed="one kernel, stride and dilation, and two pads, for each spatial axis",
        )
    result: list[Dim] = []
    for i, size in enumerate(spatial):
        width = kernel[i]
        if not isinstance(size, int) or not isinstance(width, int):
            raise bad_shape(
                "a sliding window needs fixed spatial dimensions",
                list(x.shape),
                hint="fix the dimension when loading: dims={...}",
            )
        if width < 1 or strides[i] < 1 or dilations[i] < 1 or pads[i] < 0 or pads[rank + i] < 0:
            raise bad_shape(
                "window attributes have to be positive",
                f"kernel {width}, stride {strides[i]}, dilation {dilations[i]}, pads {list(pads)}",
                allowed="kernel, stride, dilation at least 1; pads at least 0",
            )
        room = size + pads[i] + pads[rank + i] - dilations[i] * (width - 1) - 1
        if room < 0:
            raise bad_shape(
                "the window is larger than the padded operand",
                f"x {list(x.shape)}, kernel {list(kernel)}, pads {list(pads)}",
            )
        count = room // strides[i] + 1
        # In ceil mode a last window may hang over the end, but has to start inside the operand.
        if ceil and room % strides[i] and count * strides[i] < size + pads[i]:
            count += 1
        result.append(count)
    return result


def conv(operands: Operands, attrs: Attrs) -> Results:
    """x [n, c, *spatial], weight [m, c/groups, *kernel], bias [m] to [n, m, *spatial]."""
    x, weight, bias = need(operands, 0), need(operands, 1), operands[2]
    need_floats(x, weight, bias)
    groups = int_of(attrs, "groups")
    if len(x.shape) < 3 or len(weight.shape) != len(x.shape) or groups < 1:
        raise bad_shape(
            "these are not a convolution's operands",
            f"x {list(x.shape)}, weight {list(weight.shape)}, groups {groups}",
            allowed="x [n, c, *spatial], weight [m, c/groups, *kernel]",
        )
    channels, (out, each) = x.shape[1], weight.shape[:2]
    if not isinstance(out, int) or not isinstance(each, int) or channels != each * groups:
        raise bad_shape(
            "channels do not fit",
            f"x {list(x.shape)}, weight {list(weight.shape)}, groups {groups}",
            allowed="x channels = weight channels * groups",
        )
    if out % groups or (bias is not None and bias.shape != (out,)):
        raise bad_shape(
            "output channels do not fit",
            f"weight {list(weight.shape)}, groups {groups}, bias {bias and list(bias.shape)}",
            allowed="a multiple of groups, and a bias for each",
        )
    spatial = _spatial(x, weight.shape[2:], attrs, dilations=ints_of(attrs, "dilations"))
    return [(x.dtype, (x.shape[0], out, *spatial))]


def pool(operands: Operands, attrs: Attrs) -> Results:
    """x [n, c, *spatial] to the same with the windows' counts."""
    x, kernel = need(operands, 0), ints_of(attrs, "kernel")
    need_floats(x)
    ceil, dilations = bool(attrs["ceil"]), ints_of(attrs, "dilations")
    if len(x.shape) < 3:
        raise bad_shape("pooling needs spatial axes", list(x.shape), allowed="[n, c, *spatial]")
    spatial = _spatial(x, kernel, attrs, dilations=dilations or (1,) * len(kernel), ceil=ceil)
    return [(x.dtype, (*x.shape[:2], *spatial))]


def reduce(operands: Operands, attrs: Attrs) -> Results:
    """Drop `axes`, or keep them as 1. No axes: no reduction."""
    x = need(operands, 0)
    axes = {axis_of(axis, len(x.shape)) for axis in ints_of(attrs, "axes")}
    if attrs["kind"] == "mean":
        need_floats(x)
    if attrs["kind"] in ("max", "min", "mean") and any(x.shape[axis] == 0 for axis in axes):
        raise bad_shape("an empty axis has no maximum or mean", str(x))
    keep = bool(attrs["keepdims"])
    dims = [1 if i in axes else dim for i, dim in enumerate(x.shape) if keep or i not in axes]
    return [(x.dtype, tuple(dims))]


def softmax(operands: Operands, attrs: Attrs) -> Results:
    """Same shape; the axis exists."""
    x = need(operands, 0)
    axis_of(int_of(attrs, "axis"), len(x.shape))
    return same(operands, attrs)


def layer_norm(operands: Operands, attrs: Attrs) -> Results:
    """Same shape; gamma and beta are as long as the last axis."""
    x, gamma, beta = need(operands, 0), need(operands, 1), operands[2]
    need_floats(x, gamma, beta)
    for value in (gamma, beta):
        if value is not None and (not x.shape or value.shape != x.shape[-1:]):
            raise bad_shape(
                "gamma or beta does not fit the last axis",
                f"x {list(x.shape)}, {value}",
                allowed=f"{list(x.shape[-1:])}",
            )
    return [(x.dtype, x.shape)]


def rms_norm(operands: Operands, attrs: Attrs) -> Results:
    """Same shape; gamma is as long as a group, and groups divide the last axis."""
    x, gamma, group = need(operands, 0), need(operands, 1), int_of(attrs, "group_size")
    need_floats(x, gamma)
    if not x.shape or not isinstance(x.shape[-1], int):
        raise bad_shape("the normalised axis has to be fixed", list(x.shape))
    size = group or x.shape[-1]
    if group < 0 or (group and x.shape[-1] % group) or gamma.shape != (size,):
        raise bad_shape(
            "gamma or the group does not fit the last axis",
            f"x {list(x.shape)}, gamma {list(gamma.shape)}, group_size {group}",
            allowed=f"gamma [{size}], and groups that divide {x.shape[-1]}",
        )
    return [(x.dtype, x.shape)]


def rope(operands: Operands, attrs: Attrs) -> Results:
    """x [rows, heads * head_dim], positions [rows], freq_factors [head_dim / 2]; same as x."""
    x, positions, factors = need(operands, 0), need(operands, 1), operands[2]
    need_floats(x, factors)
    need_integers(positions)
    size = int_of(attrs, "head_dim")
    rotary = int_of(attrs, "rotary_dim") or size
    width = x.shape[-1] if x.shape else 0
    if size < 2 or rotary % 2 or not 0 < rotary <= size:
        raise bad_shape(
            "a rotated head is even and no wider than the head", f"head_dim {size}, {rotary}"
        )
    if len(x.shape) != 2 or not isinstance(width, int) or width % size:
        raise bad_shape(
            "rope needs rows of whole heads", f"{list(x.shape)}", allowed=f"[rows, n * {size}]"
        )
    if positions.shape != x.shape[:1] or (factors and factors.shape != (rotary // 2,)):
        raise bad_shape(
            "positions or frequency factors do not fit",
            f"{positions}; {factors}",
            allowed=f"positions [{x.shape[0]}], factors [{rotary // 2}]",
        )
    return [(x.dtype, x.shape)]


def attention(operands: Operands, attrs: Attrs) -> Results:
    """q [rows, heads*d], k and v [rows, kv_heads*d], positions [rows] to [rows, heads*d]."""
    q, k, v, positions = (need(operands, i) for i in range(4))
    need_floats(q, k, v)
    need_integers(positions)
    heads, kv, size = int_of(attrs, "heads"), int_of(attrs, "kv_heads"), int_of(attrs, "head_dim")
    rows = positions.shape[0] if len(positions.shape) == 1 else None
    if min(heads, kv, size) < 1 or heads % kv or rows is None:
        raise bad_shape(
            "heads do not group",
            f"heads {heads}, kv_heads {kv}, head_dim {size}, {positions}",
            allowed="heads a multiple of kv_heads, positions [rows]",
        )
    for value, count in ((q, heads), (k, kv), (v, kv)):
        if value.shape != (rows, count * size):
            raise bad_shape(
                "an operand of attention does not fit its heads",
                str(value),
                allowed=f"[{rows}, {count * size}]",
            )
    return [(same_dtype(q, k, v), q.shape)]
