"""Shape rules of the operations that move elements and do not change them. See shapes.py."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import cast

from mellivora.graph.ir import Attrs, Dim, Shape
from mellivora.graph.shapes import (
    Operands,
    Results,
    axis_of,
    bad_shape,
    broadcast_shapes,
    int_of,
    ints_of,
    need,
    need_floats,
    need_integers,
    same_dtype,
)


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
    x = need(operands, 0)
    return [(x.dtype, resolve_reshape(x.shape, cast("Shape", attrs["shape"])))]


def transpose(operands: Operands, attrs: Attrs) -> Results:
    """Output axis i is input axis perm[i]."""
    x, perm = need(operands, 0), ints_of(attrs, "perm")
    if sorted(perm) != list(range(len(x.shape))):
        raise bad_shape(
            "perm is not a permutation of the axes", list(perm), allowed=f"of {len(x.shape)} axes"
        )
    return [(x.dtype, tuple(x.shape[axis] for axis in perm))]


def concat(operands: Operands, attrs: Attrs) -> Results:
    """Joined along `axis`; all else equal."""
    values = [need(operands, i) for i in range(len(operands))]
    dtype, first = same_dtype(*values), values[0].shape
    axis = axis_of(int_of(attrs, "axis"), len(first))
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
    """Python's x[start:stop:step] for each of `axes`; step may be negative.

    A stop may be a symbol: x[0:rows], which gives the axis that symbol as its size.
    """
    x = need(operands, 0)
    axes, steps = ints_of(attrs, "axes"), ints_of(attrs, "steps")
    starts, stops = ints_of(attrs, "starts"), cast("Shape", attrs["stops"])
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
        if isinstance(stop, str):
            if (start, step) != (0, 1):
                raise bad_shape(
                    "a slice to a symbol starts at 0, in steps of 1", f"{start}, {step}"
                )
            dims[at] = stop
            continue
        dims[at] = len(range(*python_slice(start, stop, step).indices(size)))
    return [(x.dtype, tuple(dims))]


def python_slice(start: int, stop: int, step: int) -> slice:
    """The slice of these numbers. A stop below -2**31 with a negative step runs past index 0."""
    return slice(start, None if step < 0 and stop <= -(2**31) else stop, step)


def split(operands: Operands, attrs: Attrs) -> Results:
    """Cut along `axis` into pieces of `sizes`."""
    x, sizes = need(operands, 0), ints_of(attrs, "sizes")
    axis = axis_of(int_of(attrs, "axis"), len(x.shape))
    if not sizes or min(sizes) < 0 or sum(sizes) != x.shape[axis]:
        raise bad_shape(
            "the pieces do not add up", f"{list(sizes)}", allowed=f"a sum of {x.shape[axis]}"
        )
    return [(x.dtype, (*x.shape[:axis], size, *x.shape[axis + 1 :])) for size in sizes]


def gather(operands: Operands, attrs: Attrs) -> Results:
    """x with `axis` replaced by the indices' shape."""
    x, indices = need(operands, 0), need(operands, 1)
    need_integers(indices)
    axis = axis_of(int_of(attrs, "axis"), len(x.shape))
    return [(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))]


def embedding(operands: Operands, attrs: Attrs) -> Results:
    """ids [...] and table [vocab, width] to f32 [..., width]."""
    ids, table = need(operands, 0), need(operands, 1)
    need_integers(ids)
    need_floats(table)
    if len(table.shape) != 2:
        raise bad_shape("an embedding table has two axes", list(table.shape), allowed="[vocab, w]")
    return [("f32", (*ids.shape, table.shape[1]))]


def expand(operands: Operands, attrs: Attrs) -> Results:
    """Broadcast to `shape`."""
    x, target = need(operands, 0), cast("Shape", attrs["shape"])
    if broadcast_shapes(x.shape, target) != target:
        raise bad_shape("the operand does not expand", f"{list(x.shape)} to {list(target)}")
    return [(x.dtype, target)]


def pad(operands: Operands, attrs: Attrs) -> Results:
    """Grown by `pads` (all begins, then all ends); a negative pad crops."""
    x, pads = need(operands, 0), ints_of(attrs, "pads")
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
