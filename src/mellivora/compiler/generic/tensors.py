"""Tensors in DRAM: strided views of FP32, and the arena that they live in.

Reshape, transpose, slice and broadcast are views and cost nothing; whoever reads a view gets its
elements by strided LOADs. Integers and booleans are FP32 values too, exact up to 2**24.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mellivora.compiler.ir import Region

CONSTANTS, ACTIVATIONS = 0, 1
"""Windows of a program of a graph."""
ALIGN_BYTES = 64


@dataclass(frozen=True)
class Dram:
    """Bytes [start, start + size) of a window."""

    window: int
    start: int
    size: int

    @property
    def region(self) -> Region:
        return Region(f"dram{self.window}", self.start, self.start + max(self.size, 1))


@dataclass(frozen=True)
class View:
    """FP32 elements at byte `offset` of the window, `strides` elements apart (0: broadcast)."""

    dram: Dram
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @staticmethod
    def dense(dram: Dram, shape: Sequence[int], order: Sequence[int] | None = None) -> View:
        """Row-major over `dram`; order: axes from the slowest to the fastest."""
        strides, step = [0] * len(shape), 1
        for axis in reversed(order if order is not None else range(len(shape))):
            strides[axis] = step
            step *= max(shape[axis], 1)
        return View(dram, dram.start, tuple(shape), tuple(strides))

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def order(self) -> list[int]:
        """Axes from the slowest to the fastest in memory."""
        return sorted(range(len(self.shape)), key=lambda i: -abs(self.strides[i]))

    def permute(self, perm: Sequence[int]) -> View:
        shape = tuple(self.shape[i] for i in perm)
        return replace(self, shape=shape, strides=tuple(self.strides[i] for i in perm))

    def broadcast(self, shape: Sequence[int]) -> View:
        """To a shape that NumPy would broadcast to."""
        lead = len(shape) - len(self.shape)
        strides = [0] * lead + [
            0 if own == 1 else step for own, step in zip(self.shape, self.strides, strict=True)
        ]
        return replace(self, shape=tuple(shape), strides=tuple(strides))

    def reshape(self, shape: Sequence[int]) -> View | None:
        """The same elements in another shape, None where that needs a copy."""
        if self.size == 0:
            return View.dense(self.dram, shape)
        fake = np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), self.shape, self.strides)
        try:
            strides = np.reshape(fake, tuple(shape), copy=False).strides
        except ValueError:
            return None
        return replace(self, shape=tuple(shape), strides=strides)

    def cut(self, axis: int, start: int, count: int, step: int = 1) -> View:
        """`count` elements from `start` along an axis, `step` apart."""
        shape, strides = list(self.shape), list(self.strides)
        offset = self.offset + 4 * start * strides[axis]
        shape[axis], strides[axis] = count, strides[axis] * step
        return View(self.dram, offset, tuple(shape), tuple(strides))

    def at(self, index: Sequence[int]) -> View:
        """The view behind these leading indices."""
        offset = self.offset + 4 * sum(
            i * s for i, s in zip(index, self.strides[: len(index)], strict=True)
        )
        return View(self.dram, offset, self.shape[len(index) :], self.strides[len(index) :])


def collapse(
    shape: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[list[int], list[list[int]]]:
    """Join neighbouring axes that all operands step through evenly; axes of one element go.

    strides: a list of strides for each operand. Returns the new shape and strides.
    """
    sizes: list[int] = []
    steps: list[list[int]] = [[] for _ in strides]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        mine = [one[axis] for one in strides]
        if sizes and all(o[-1] == m * size for o, m in zip(steps, mine, strict=True)):
            sizes[-1] *= size
            for o, m in zip(steps, mine, strict=True):
                o[-1] = m
        else:
            sizes.append(size)
            for o, m in zip(steps, mine, strict=True):
                o.append(m)
    return sizes, steps


@dataclass
class Arena:
    """Constants in the order of their first use; activations by first fit, freed at the last."""

    constant_bytes: int = 0
    constants: list[tuple[int, npt.NDArray[Any]]] = field(default_factory=list)
    activation_bytes: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)

    def constant(self, array: npt.NDArray[Any]) -> Dram:
        """Bytes of an array in the window of constants."""
        start = self.constant_bytes
        self.constants.append((start, array))
        self.constant_bytes += _round(max(array.nbytes, 1))
        return Dram(CONSTANTS, start, array.nbytes)

    def alloc(self, size: int) -> Dram:
        """`size` bytes of activations."""
        need = _round(max(size, 1))
        for index, (start, room) in enumerate(self.holes):
            if room >= need:
                self.holes[index : index + 1] = [(start + need, room - need)] if room > need else []
                return Dram(ACTIVATIONS, start, size)
        if self.holes and sum(self.holes[-1]) == self.activation_bytes:
            start = self.holes.pop()[0]
        else:
            start = self.activation_bytes
        self.activation_bytes = start + need
        return Dram(ACTIVATIONS, start, size)

    def free(self, dram: Dram) -> None:
        """Give bytes back; neighbouring holes join."""
        merged: list[tuple[int, int]] = []
        for start, room in sorted([*self.holes, (dram.start, _round(max(dram.size, 1)))]):
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + room)
            else:
                merged.append((start, room))
        self.holes = merged

    def image(self) -> npt.NDArray[np.uint8]:
        """The window of constants."""
        out = np.zeros(self.constant_bytes, np.uint8)
        for start, array in self.constants:
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            out[start : start + flat.nbytes] = flat
        return out


def _round(size: int) -> int:
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES
