"""What convolution and pooling mean: sliding windows in NumPy float32, any number of axes.

One step for each offset inside the kernel, over all windows at once: no copy of the operand is as
large as kernel times operand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, cast

import numpy as np

from mellivora.graph.ir import Array, Attrs
from mellivora.graph.reference import Context, Operands, as_f32


def _windows(
    spatial: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[tuple[tuple[int, ...], tuple[slice, ...]]]]:
    """Output counts over a padded operand, and for each kernel offset the elements it meets."""
    counts = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(spatial, kernel, strides, dilations, strict=True)
    ]
    taps = [
        (
            offset,
            tuple(
                slice(o * d, o * d + s * (n - 1) + 1, s) if n else slice(0, 0)
                for o, d, s, n in zip(offset, dilations, strides, counts, strict=True)
            ),
        )
        for offset in product(*(range(k) for k in kernel))
    ]
    return counts, taps


def _padded(x: Array, pads: Sequence[int], value: float) -> Array:
    rank = len(pads) // 2
    widths = [(0, 0), (0, 0), *((pads[i], pads[rank + i]) for i in range(rank))]
    return np.pad(x, widths, constant_values=value) if any(pads) else x


def conv(_c: Context, attrs: Attrs, operands: Operands) -> Array:
    """Cross-correlation, one matrix product for each kernel offset and group."""
    x, weight, groups = operands[0], as_f32(operands[1]), cast("int", attrs["groups"])
    kernel = weight.shape[2:]
    x = _padded(x.astype(np.float32, copy=False), cast("Any", attrs["pads"]), 0.0)
    counts, taps = _windows(
        x.shape[2:], kernel, cast("Any", attrs["strides"]), cast("Any", attrs["dilations"])
    )
    batch, out, each = x.shape[0], weight.shape[0], weight.shape[1]
    # [n, g, m/g, positions] += [g, m/g, c/g] @ [n, g, c/g, positions]
    y = np.zeros((batch, groups, out // groups, math.prod(counts)), np.float32)
    for offset, window in taps:
        tap = weight[(slice(None), slice(None), *offset)].reshape(groups, out // groups, each)
        y += tap @ x[(slice(None), slice(None), *window)].reshape(
            batch, groups, each, math.prod(counts)
        )
    y = y.reshape(batch, out, *counts)
    if operands[2] is not None:
        y += as_f32(operands[2]).reshape(-1, *([1] * len(kernel)))
    return y.astype(operands[0].dtype, copy=False)


def _pool(attrs: Attrs, x: Array, fill: float) -> tuple[Array, list[Any], list[int], list[int]]:
    """The padded operand, the kernel's taps, output counts, and pads with ceil mode's overhang."""
    kernel, strides = cast("Any", attrs["kernel"]), cast("Any", attrs["strides"])
    dilations = cast("Any", attrs["dilations"]) or (1,) * len(kernel)
    pads, rank = list(cast("Any", attrs["pads"])), len(kernel)
    if attrs["ceil"]:
        for i, size in enumerate(x.shape[2:]):
            room = size + pads[i] + pads[rank + i] - dilations[i] * (kernel[i] - 1) - 1
            if room % strides[i] and (room // strides[i] + 1) * strides[i] < size + pads[i]:
                pads[rank + i] += strides[i] - room % strides[i]
    padded = _padded(x, pads, fill)
    counts, taps = _windows(padded.shape[2:], kernel, strides, dilations)
    return padded, taps, counts, pads


def max_pool(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """The largest of each window; padding never wins."""
    padded, taps, counts, _ = _pool(attrs, x[0], -np.inf)
    y = np.full((*x[0].shape[:2], *counts), -np.inf, x[0].dtype)
    for _offset, window in taps:
        y = np.maximum(y, padded[(slice(None), slice(None), *window)])
    return y


def average_pool(_c: Context, attrs: Attrs, x: Operands) -> Array:
    """The mean of each window, over its elements or (`include_pad`) over its padding as well."""
    padded, taps, counts, pads = _pool(attrs, x[0], 0.0)
    here = (slice(None), slice(None))
    total = np.zeros((*x[0].shape[:2], *counts), np.float32)
    for _offset, window in taps:
        total += padded[(*here, *window)]
    # How many elements count: stated pads do with include_pad; ceil mode's overhang never does.
    given, rank = cast("Any", attrs["pads"]), len(counts)
    ones = np.ones((1, 1, *x[0].shape[2:]), np.float32)
    ones = _padded(ones, given, 1.0 if attrs["include_pad"] else 0.0)
    ones = _padded(ones, [0] * rank + [p - g for p, g in zip(pads[rank:], given[rank:])], 0.0)
    number = sum(ones[(*here, *window)] for _offset, window in taps)
    return (total / np.maximum(number, np.float32(1))).astype(x[0].dtype, copy=False)
