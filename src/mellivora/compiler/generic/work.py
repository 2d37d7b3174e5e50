"""What lowerings write with: kernel, arena, strided transfers, and jobs dealt out to the cores."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from mellivora.compiler.generic.tensors import ACTIVATIONS, Arena, Dram, View
from mellivora.compiler.ir import CORE_ID, Reg, Region
from mellivora.compiler.kernel import Buffer, Kernel, Ref, Tile
from mellivora.errors import CompileError
from mellivora.spec import ChipSpec

ZERO_BYTES = 4096
TILE_ELEMENTS = 1 << 15
"""No tile is larger: enough to hide the latency of DRAM, small enough for cores to share work."""
Dim = tuple[int, int, int]
"""(count, bytes from one to the next in DRAM, in the scratchpad)."""


@dataclass
class Work:
    """State of a compilation. slices: 8-bit slices of MATRIX operands, 1 to 3."""

    chip: ChipSpec
    slices: int
    kernel: Kernel
    arena: Arena = field(default_factory=Arena)
    where: str = ""
    temps: list[Dram] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)
    mine: list[Reg] = field(default_factory=list)
    _jobs: int = 0
    _zeros: Dram | None = None

    # -------------------------------------------------------------------------------- DRAM

    def new(self, shape: Sequence[int], order: Sequence[int] | None = None) -> View:
        """A tensor of activations, row major in `order` of its axes."""
        return View.dense(self.arena.alloc(4 * int(np.prod(shape))), shape, order)

    def scratch(self, size: int) -> Dram:
        """Bytes of DRAM until the end of this operation."""
        self.temps.append(self.arena.alloc(size))
        return self.temps[-1]

    def temporary(self, view: View) -> View:
        """A new tensor that lives until the end of this operation only."""
        self.temps.append(view.dram)
        return view

    @property
    def zeros(self) -> Dram:
        if self._zeros is None:
            self._zeros = self.arena.constant(np.zeros(ZERO_BYTES, np.uint8))
        return self._zeros

    # -------------------------------------------------------------------------- scratchpad

    @property
    def room_bytes(self) -> int:
        """What is left of the scratchpad, less the rounding of a few buffers."""
        return self.chip.sram_bytes - self.kernel.free_bytes - 1024

    def pad(self, name: str, size: int) -> Buffer:
        """A buffer of this operation."""
        return self.kernel.alloc(f"{self.where}.{name}", max(size, 4), root="pad")

    @contextmanager
    def operation(self, where: str, kind: str) -> Iterator[None]:
        """Scratchpad and temporary DRAM of one operation; other cores' stores are seen after it."""
        self.where = where
        base, self.kernel.free_bytes = self.kernel.free_bytes, self.kernel.free_bytes
        with self.kernel.named(where, kind):
            yield
            self.barrier()
        self.kernel.free_bytes = base
        for dram in self.temps:
            self.arena.free(dram)
        self.temps.clear()

    # ------------------------------------------------------------------------------- cores

    def start(self) -> None:
        """Scratchpad as one piece of memory; registers that say which core this is.

        1 - (id - core)**2 is 1 on that core, less elsewhere: the count of a loop around its jobs.
        """
        self.kernel.overlay_root = "pad"
        if self.chip.cores == 1:
            return
        for core in range(self.chip.cores):
            reg = self.kernel.reg()
            self.kernel.scalar("sub", reg, CORE_ID, core)
            self.kernel.scalar("mul", reg, reg, reg)
            self.kernel.scalar("sub", reg, 1, reg)
            self.mine.append(reg)

    @contextmanager
    def job(self) -> Iterator[int]:
        """Work for one core, dealt out in turn; yields which of two buffer sets to use."""
        turn = self._jobs // self.chip.cores % 2
        core = self._jobs % self.chip.cores
        self._jobs += 1
        if not self.mine:
            yield turn
            return
        with self.kernel.loop(self.mine[core]):
            yield turn

    def barrier(self) -> None:
        """Every core's stores so far are done before any core's later loads."""
        everything = (Region(f"dram{ACTIVATIONS}", 0, 1 << 48),)
        if self.mine:
            self.kernel.put("barrier", [], None, reads=(), writes=everything)
        self._jobs = 0

    # --------------------------------------------------------------------------- transfers

    def move(
        self, name: str, dram: Dram, offset: int, near: Ref, dims: Sequence[Dim], piece: int = 4
    ) -> None:
        """LOAD or STORE pieces of `piece` bytes over dims; neighbours in DRAM go together."""
        if any(count <= 0 for count, _, _ in dims):
            return
        live = sorted((d for d in dims if d[0] > 1), key=lambda d: (d[1] <= 0, d[1]))
        run = piece
        merged: list[Dim] = []
        for count, far, pad in live:
            if not merged and far == run and pad == run:
                run *= count
            elif (
                merged
                and far == merged[-1][0] * merged[-1][1]
                and (pad == merged[-1][0] * merged[-1][2])
            ):
                merged[-1] = (merged[-1][0] * count, *merged[-1][1:])
            else:
                merged.append((count, far, pad))
        fit = [i for i, d in enumerate(merged) if d[1] >= 0][:3]
        inner = [merged[i] for i in fit]
        outer = [d for i, d in enumerate(merged) if i not in fit]
        counts = (run, *(d[0] for d in inner))
        extent = run + sum((d[0] - 1) * d[2] for d in inner)
        for index in itertools.product(*(range(d[0]) for d in outer)):
            at = offset + sum(i * d[1] for i, d in zip(index, outer, strict=True))
            ref = near.plus(sum(i * d[2] for i, d in zip(index, outer, strict=True)))
            self.kernel.dma(
                name,
                ref,
                window=dram.window,
                offset=at // 32,
                fine=at % 32,
                n=counts,
                d=tuple(d[1] for d in inner),
                p=tuple(d[2] for d in inner),
                far=dram.region,
                near_size=extent,
            )

    def load(self, view: View, near: Ref, pad_strides: Sequence[int]) -> None:
        """Elements of a view to the scratchpad, pad_strides bytes apart along its axes."""
        self._view("load", view, near, pad_strides)

    def store(self, view: View, near: Ref, pad_strides: Sequence[int]) -> None:
        """The other way."""
        self._view("store", view, near, pad_strides)

    def _view(self, name: str, view: View, near: Ref, pad_strides: Sequence[int]) -> None:
        dims = [
            (n, 4 * s, p) for n, s, p in zip(view.shape, view.strides, pad_strides, strict=True)
        ]
        self.move(name, view.dram, view.offset, near, dims)

    def fill_zero(self, near: Ref, rows: int, row_bytes: int, stride: int) -> None:
        """Zero bytes: rows of row_bytes, `stride` apart in the scratchpad."""
        if stride == row_bytes:
            rows, row_bytes = 1, rows * row_bytes
        for first in range(0, row_bytes, ZERO_BYTES * 256):
            size = min(row_bytes - first, ZERO_BYTES * 256)
            whole, rest = divmod(size, ZERO_BYTES)
            dims: list[Dim] = [(rows, 0, stride)]
            if whole:
                steps: list[Dim] = [*dims, (whole, 0, ZERO_BYTES)]
                self.move("load", self.zeros, self.zeros.start, near.plus(first), steps, ZERO_BYTES)
            if rest:
                at = near.plus(first + whole * ZERO_BYTES)
                self.move("load", self.zeros, self.zeros.start, at, dims, rest)

    # ------------------------------------------------------------------------------ errors

    def no_form(self, given: str, allowed: str, hint: str) -> CompileError:
        """The operation is known, this form of it is not."""
        return CompileError(
            "MV0431",
            "this form of the operation has no lowering to the chip",
            where=self.where,
            given=given,
            allowed=allowed,
            hint=hint,
        )

    def not_constant(self, given: str) -> CompileError:
        """An operand that must be packed before the program runs."""
        return CompileError(
            "MV0435",
            "this operand must be a parameter of the graph",
            where=self.where,
            given=given,
            allowed="a constant",
            hint="fold what computes it into the model, or use matmul",
        )

    def too_long(self, elements: int, most: int) -> CompileError:
        """A row that has to be in the scratchpad whole."""
        return CompileError(
            "MV0434",
            "a row is too long for the scratchpad",
            where=self.where,
            given=f"{elements} elements",
            allowed=str(most),
            hint="do it in two steps, or use a chip with more sram_bytes",
        )


def rows_tile(buffer: Buffer, cols: int, offset: int = 0) -> Tile:
    """Dense FP32 rows in a buffer."""
    return Tile(buffer.at(offset), 4 * cols)


def steps(total: int, step: int) -> Iterator[tuple[int, int]]:
    """(start, count) pieces of at most `step`."""
    for start in range(0, total, step):
        yield start, min(step, total - start)


def indices(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(n) for n in shape))
