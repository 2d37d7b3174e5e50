"""Shape and dtype rules: what a node makes of its operands. Symbolic dimensions are carried.

Each rule takes the operands (None for an optional one left out) and the attributes, complete and of
the right type, and returns a (dtype, shape) for each output. It raises GraphError MV0307 (shape) or
MV0308 (dtype); the caller adds which node.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from mellivora.errors import GraphError
from mellivora.graph.ir import DTYPES, FLOATS, Attrs, Dim, Shape, Value

Operands: TypeAlias = Sequence[Value | None]
Results: TypeAlias = list[tuple[str, Shape]]
Rule: TypeAlias = Callable[[Operands, Attrs], Results]


def bad_shape(what: str, given: object, *, allowed: str = "", hint: str = "") -> GraphError:
    """The error of a broken shape rule."""
    return GraphError("MV0307", what, given=str(given), allowed=allowed, hint=hint)


def _need(operands: Operands, index: int) -> Value:
    value = operands[index]
    assert value is not None  # arity is checked before the rule runs
    return value


def _ints(attrs: Attrs, key: str) -> tuple[int, ...]:
    return cast("tuple[int, ...]", attrs[key])


def _int(attrs: Attrs, key: str) -> int:
    return cast("int", attrs[key])


def _floats(*values: Value | None) -> None:
    for value in values:
        if value is not None and value.dtype not in FLOATS:
            raise GraphError(
                "MV0308",
                "this operand has to be a float",
                given=str(value),
                allowed=" ".join(FLOATS),
                hint="insert a cast",
            )


def _same_dtype(*values: Value) -> str:
    if len({value.dtype for value in values}) > 1:
        raise GraphError(
            "MV0308",
            "the operands differ in dtype",
            given=", ".join(map(str, values)),
            allowed="one dtype for all",
            hint="insert a cast",
        )
    return values[0].dtype


def _integers(value: Value) -> None:
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
    x = _need(operands, 0)
    _floats(x)
    return [(x.dtype, x.shape)]


def same_any(operands: Operands, attrs: Attrs) -> Results:
    """Any dtype but bool in, the same out."""
    x = _need(operands, 0)
    if x.dtype == "bool":
        raise GraphError("MV0308", "this operand has to be a number", given=str(x))
    return [(x.dtype, x.shape)]


def cast_to(operands: Operands, attrs: Attrs) -> Results:
    """dtype `to`."""
    return [(str(attrs["to"]), _need(operands, 0).shape)]


def broadcast(operands: Operands, attrs: Attrs) -> Results:
    """Two operands of one dtype, broadcast."""
    a, b = _need(operands, 0), _need(operands, 1)
    return [(_same_dtype(a, b), broadcast_shapes(a.shape, b.shape))]


def compare(operands: Operands, attrs: Attrs) -> Results:
    """Two operands of one dtype, broadcast, to bool."""
    return [("bool", broadcast(operands, attrs)[0][1])]


def where(operands: Operands, attrs: Attrs) -> Results:
    """A bool condition and two operands of one dtype, all broadcast."""
    condition, a, b = (_need(operands, i) for i in range(3))
    if condition.dtype != "bool":
        raise GraphError(
            "MV0308", "the condition has to be bool", given=str(condition), allowed="bool"
        )
    return [(_same_dtype(a, b), broadcast_shapes(condition.shape, a.shape, b.shape))]


def matmul(operands: Operands, attrs: Attrs) -> Results:
    """[..., m, k] @ [..., k, n], leading dimensions broadcast."""
    a, b = _need(operands, 0), _need(operands, 1)
    dtype = _same_dtype(a, b)
    if len(a.shape) < 2 or len(b.shape) < 2 or a.shape[-1] != b.shape[-2]:
        raise bad_shape(
            "these matrices do not multiply",
            f"{list(a.shape)} @ {list(b.shape)}",
            allowed="[..., m, k] @ [..., k, n]",
        )
    return [(dtype, (*broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]))]


def linear(operands: Operands, attrs: Attrs) -> Results:
    """[..., k] with weight [n, k] and bias [n] to [..., n]."""
    x, weight, bias = _need(operands, 0), _need(operands, 1), operands[2]
    _floats(x, weight, bias)
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
    strides, pads = _ints(attrs, "strides"), _ints(attrs, "pads")
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
    x, weight, bias = _need(operands, 0), _need(operands, 1), operands[2]
    _floats(x, weight, bias)
    groups = _int(attrs, "groups")
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
    spatial = _spatial(x, weight.shape[2:], attrs, dilations=_ints(attrs, "dilations"))
    return [(x.dtype, (x.shape[0], out, *spatial))]


def pool(operands: Operands, attrs: Attrs) -> Results:
    """x [n, c, *spatial] to the same with the windows' counts."""
    x, kernel = _need(operands, 0), _ints(attrs, "kernel")
    _floats(x)
    ceil, dilations = bool(attrs["ceil"]), _ints(attrs, "dilations")
    if len(x.shape) < 3:
        raise bad_shape("pooling needs spatial axes", list(x.shape), allowed="[n, c, *spatial]")
    spatial = _spatial(x, kernel, attrs, dilations=dilations or (1,) * len(kernel), ceil=ceil)
    return [(x.dtype, (*x.shape[:2], *spatial))]


def reduce(operands: Operands, attrs: Attrs) -> Results:
    """Drop `axes`, or keep them as 1. No axes: no reduction."""
    x = _need(operands, 0)
    axes = {axis_of(axis, len(x.shape)) for axis in _ints(attrs, "axes")}
    if attrs["kind"] == "mean":
        _floats(x)
    if attrs["kind"] in ("max", "min", "mean") and any(x.shape[axis] == 0 for axis in axes):
        raise bad_shape("an empty axis has no maximum or mean", str(x))
    keep = bool(attrs["keepdims"])
    dims = [1 if i in axes else dim for i, dim in enumerate(x.shape) if keep or i not in axes]
    return [(x.dtype, tuple(dims))]


def softmax(operands: Operands, attrs: Attrs) -> Results:
    """Same shape; the axis exists."""
    x = _need(operands, 0)
    axis_of(_int(attrs, "axis"), len(x.shape))
    return same(operands, attrs)


def layer_norm(operands: Operands, attrs: Attrs) -> Results:
    """Same shape; gamma and beta are as long as the last axis."""
    x, gamma, beta = _need(operands, 0), _need(operands, 1), operands[2]
    _floats(x, gamma, beta)
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
    x, gamma, group = _need(operands, 0), _need(operands, 1), _int(attrs, "group_size")
    _floats(x, gamma)
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


def _product(shape: Sequence[Dim]) -> tuple[int, Counter[str]]:
    fixed = math.prod(dim for dim in shape if isinstance(dim, int))
    return fixed, Counter(dim for dim in shape if isinstance(dim, str))


def resolve_reshape(shape: Shape, target: Shape) -> Shape:
    """The target with its one -1 worked out. GraphError MV0307 where the sizes differ."""
    if any(isinstance(dim, int) and dim < -1 for dim in target) or target.count(-1) > 1:
        raise bad_shape("a shape has at most one -1", list(target))
    have, have_symbols = _product(shape)
    want, want_symbols = _product([dim for dim in target if dim != -1])
    error = bad_shape(
        "the sizes differ", f"{list(shape)} to {list(target)}", allowed="as many elements"
    )
    if -1 not in target:
        # A fixed 0 makes both sides empty, whatever the symbols.
        if have != want or (have_symbols != want_symbols and have != 0):
            raise error
        return target
    left = have_symbols - want_symbols
    if want_symbols - have_symbols or sum(left.values()) > 1 or want == 0 or have % want:
        raise error
    if left and have != want:
        raise error
    rest: Dim = next(iter(left)) if left else have // want
    return tuple(rest if dim == -1 else dim for dim in target)


def reshape(operands: Operands, attrs: Attrs) -> Results:
    """As many elements, in the same order; one dimension of `shape` may be -1."""
    x = _need(operands, 0)
    return [(x.dtype, resolve_reshape(x.shape, cast("Shape", attrs["shape"])))]


def transpose(operands: Operands, attrs: Attrs) -> Results:
    """Output axis i is input axis perm[i]."""
    x, perm = _need(operands, 0), _ints(attrs, "perm")
    if sorted(perm) != list(range(len(x.shape))):
        raise bad_shape(
            "perm is not a permutation of the axes", list(perm), allowed=f"of {len(x.shape)} axes"
        )
    return [(x.dtype, tuple(x.shape[axis] for axis in perm))]


def concat(operands: Operands, attrs: Attrs) -> Results:
    """Joined along `axis`; all else equal."""
    values = [_need(operands, i) for i in range(len(operands))]
    dtype, first = _same_dtype(*values), values[0].shape
    axis = axis_of(_int(attrs, "axis"), len(first))
    total = 0
    for value in values:
        size = value.shape[axis] if len(value.shape) == len(first) else ""
        others = value.shape[:axis] + value.shape[axis + 1 :]
        if not isinstance(size, int) or others != first[:axis] + first[axis + 1 :]:
            raise bad_shape(
                "the operands do not join",
                ", ".join(map(str, values)),
                allowed=f"equal but for a fixed axis {axis}",
            )
        total += size
    return [(dtype, (*first[:axis], total, *first[axis + 1 :]))]


def slice_(operands: Operands, attrs: Attrs) -> Results:
    """Python's x[start:stop:step] for each of `axes`; step may be negative."""
    x = _need(operands, 0)
    axes, steps = _ints(attrs, "axes"), _ints(attrs, "steps")
    starts, stops = _ints(attrs, "starts"), _ints(attrs, "stops")
    if not len(axes) == len(starts) == len(stops) == len(steps) or 0 in steps:
        raise bad_shape(
            "slices need a start, a stop and a step for each axis",
            f"axes {list(axes)}, starts {list(starts)}, stops {list(stops)}, steps {list(steps)}",
            allowed="lists of one length; no step of 0",
        )
    dims = list(x.shape)
    seen: set[int] = set()
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        at = axis_of(axis, len(dims))
        size = dims[at]
        if at in seen or not isinstance(size, int):
            raise bad_shape("a sliced axis is fixed and named once", f"{x}, axis {axis}")
        seen.add(at)
        dims[at] = len(range(*python_slice(start, stop, step).indices(size)))
    return [(x.dtype, tuple(dims))]


def python_slice(start: int, stop: int, step: int) -> slice:
    """The slice of these numbers. A stop below -2**31 with a negative step runs past index 0."""
    return slice(start, None if step < 0 and stop <= -(2**31) else stop, step)


def split(operands: Operands, attrs: Attrs) -> Results:
    """Cut along `axis` into pieces of `sizes`."""
    x, sizes = _need(operands, 0), _ints(attrs, "sizes")
    axis = axis_of(_int(attrs, "axis"), len(x.shape))
    if not sizes or min(sizes) < 0 or sum(sizes) != x.shape[axis]:
        raise bad_shape(
            "the pieces do not add up", f"{list(sizes)}", allowed=f"a sum of {x.shape[axis]}"
        )
    return [(x.dtype, (*x.shape[:axis], size, *x.shape[axis + 1 :])) for size in sizes]


def gather(operands: Operands, attrs: Attrs) -> Results:
    """x with `axis` replaced by the indices' shape."""
    x, indices = _need(operands, 0), _need(operands, 1)
    _integers(indices)
    axis = axis_of(_int(attrs, "axis"), len(x.shape))
    return [(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))]


def embedding(operands: Operands, attrs: Attrs) -> Results:
    """ids [...] and table [vocab, width] to f32 [..., width]."""
    ids, table = _need(operands, 0), _need(operands, 1)
    _integers(ids)
    _floats(table)
    if len(table.shape) != 2:
        raise bad_shape("an embedding table has two axes", list(table.shape), allowed="[vocab, w]")
    return [("f32", (*ids.shape, table.shape[1]))]


def expand(operands: Operands, attrs: Attrs) -> Results:
    """Broadcast to `shape`."""
    x, target = _need(operands, 0), cast("Shape", attrs["shape"])
    if broadcast_shapes(x.shape, target) != target:
        raise bad_shape("the operand does not expand", f"{list(x.shape)} to {list(target)}")
    return [(x.dtype, target)]


def pad(operands: Operands, attrs: Attrs) -> Results:
    """Grown by `pads` (all begins, then all ends); a negative pad crops."""
    x, pads = _need(operands, 0), _ints(attrs, "pads")
    rank = len(x.shape)
    if len(pads) != 2 * rank:
        raise bad_shape("pads are two for each axis", list(pads), allowed=f"{2 * rank} numbers")
    dims: list[Dim] = []
    for i, size in enumerate(x.shape):
        grow = pads[i] + pads[rank + i]
        if isinstance(size, str):
            if pads[i] or pads[rank + i]:
                raise bad_shape("a symbolic axis cannot be padded", str(x))
            dims.append(size)
            continue
        if size + grow < 0 or (attrs["mode"] != "constant" and size == 0 and grow):
            raise bad_shape("nothing is left to pad", f"{x}, pads {list(pads)}")
        dims.append(size + grow)
    return [(x.dtype, tuple(dims))]


def rope(operands: Operands, attrs: Attrs) -> Results:
    """x [rows, heads * head_dim], positions [rows], freq_factors [head_dim / 2]; same as x."""
    x, positions, factors = _need(operands, 0), _need(operands, 1), operands[2]
    _floats(x, factors)
    _integers(positions)
    size = _int(attrs, "head_dim")
    rotary = _int(attrs, "rotary_dim") or size
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
    q, k, v, positions = (_need(operands, i) for i in range(4))
    _floats(q, k, v)
    _integers(positions)
    heads, kv, size = _int(attrs, "heads"), _int(attrs, "kv_heads"), _int(attrs, "head_dim")
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
    return [(_same_dtype(q, k, v), q.shape)]


def dtype_names() -> tuple[str, ...]:
    """The dtypes a value may have."""
    return tuple(DTYPES)


def bind(shape: Shape, symbols: dict[str, Any]) -> tuple[int, ...]:
    """A shape with its symbols replaced by numbers; KeyError names an unbound symbol."""
    return tuple(symbols[dim] if isinstance(dim, str) else dim for dim in shape)
