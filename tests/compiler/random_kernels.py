"""Random kernels for the passes after tiling: loops in loops, tiles anywhere, every engine.

All bytes that a kernel may read are written at its start, so that a program in which a loop runs
zero times is as legal as any other. Which operations follow is a matter of the seed alone.
"""

from __future__ import annotations

import random

from mellivora.compiler.ir import Operand, Region
from mellivora.compiler.kernel import Buffer, Kernel, Ref, RowVec, Tile
from mellivora.isa.modes import BFormat, Op, Reduce, matmul_mode
from mellivora.isa.program import Window
from mellivora.spec import load_chip

CHIP = load_chip("nano")
WINDOWS = [Window("weights", 4096, False, "weights"), Window("io", 4096, True, "io")]
COUNTS = 3
"""Parameters 0.. that loop counts and row counts come from."""
PITCH = 4 * CHIP.columns
BUFFER_BYTES, BUFFERS = 1024, 3


def _stride(tile: Tile) -> int:
    assert isinstance(tile.stride, int)
    return tile.stride


class RandomKernel:
    """`kernel.items` holds the low-level program of a seed. loops False: straight code with exact
    regions only, which can be judged token by token.
    """

    def __init__(self, seed: int, *, loops: bool = True, size: int = 24) -> None:
        self.random = random.Random(seed)
        self.kernel, self.loops = Kernel(CHIP), loops
        self.buffers = [self.kernel.alloc(f"b{i}", BUFFER_BYTES) for i in range(BUFFERS)]
        self.acc = Buffer("acc", 0x4000_0000, CHIP.accumulator_rows * PITCH)
        self.counts = [self.kernel.parameter(i) for i in range(COUNTS)]
        self.cursor = self.kernel.reg()
        for buffer in self.buffers:
            self.kernel.dma("load", buffer.at(), window=0, offset=0, n=(BUFFER_BYTES,))
        zero = Tile(self.buffers[0].at(), 0)
        whole = Tile(self.acc.at(), PITCH)
        self.kernel.vew(whole, zero, rows=CHIP.accumulator_rows, cols=CHIP.columns)
        self.block(size, depth=0)

    def block(self, size: int, depth: int) -> None:
        kinds = [self.load, self.prefetch, self.store, self.vew, self.vew, self.vred, self.matmul]
        if self.loops:
            kinds += [self.load_at_cursor, self.vew_dynamic]
        for _ in range(size):
            if self.loops and depth < 2 and self.random.random() < 0.15:
                count: Operand = self.random.choice([*self.counts, 2])
                with self.kernel.loop(count):
                    self.block(self.random.randint(1, 7), depth + 1)
            else:
                self.random.choice(kinds)()

    # ------------------------------------------------------------------ operands

    def span(self, most: int = 128) -> tuple[Ref, int]:
        """A random piece of a buffer, a multiple of 4 bytes."""
        size = 4 * self.random.randint(1, most // 4)
        at = 4 * self.random.randint(0, (BUFFER_BYTES - size) // 4)
        return self.random.choice(self.buffers).at(at), size

    def tile(self, rows: int, cols: int) -> Tile:
        """A random FP32 tile of a buffer or of the accumulators."""
        if self.random.random() < 0.4:
            row = self.random.randint(0, CHIP.accumulator_rows - rows)
            return Tile(self.acc.at(row * PITCH), PITCH)
        stride = 4 * self.random.choice([cols, cols, cols + 3])
        room = BUFFER_BYTES - (rows - 1) * stride - 4 * cols
        at = 4 * self.random.randint(0, room // 4)
        return Tile(self.random.choice(self.buffers).at(at), stride)

    def source(
        self, dst: Tile, dst_rows: int, dst_cols: int, rows: int, cols: int, *, in_place: bool
    ) -> Tile:
        """A random tile apart from `dst`, or `dst` itself where VEW may have it in place: nothing
        else is legal (`isa.overlaps`)."""
        end = dst.ref.offset + (dst_rows - 1) * _stride(dst) + 4 * dst_cols
        while True:
            tile = self.tile(rows, cols)
            if in_place and (tile.ref, tile.stride) == (dst.ref, dst.stride):
                return tile
            last = tile.ref.offset + (rows - 1) * _stride(tile) + 4 * cols
            apart = last <= dst.ref.offset or end <= tile.ref.offset
            if apart or tile.ref.buffer is not dst.ref.buffer:
                return tile

    # ------------------------------------------------------------------ operations

    def load(self) -> None:
        """From either window; the second is also stored to."""
        ref, size = self.span()
        window, unit = self.random.randint(0, 1), self.random.randint(0, 20)
        far = Region("io", 32 * unit, 32 * unit + size) if window else None
        self.kernel.dma("load", ref, window=window, offset=unit, n=(size,), far=far)

    def prefetch(self) -> None:
        ref, size = self.span()
        unit = self.random.randint(0, 100)
        self.kernel.dma("load", ref, window=0, offset=unit, n=(size,), prefetch=True)

    def store(self) -> None:
        ref, size = self.span()
        unit = self.random.randint(0, 20)
        far = Region("io", 32 * unit, 32 * unit + size)
        self.kernel.dma("store", ref, window=1, offset=unit, n=(size,), far=far)

    def load_at_cursor(self) -> None:
        """To an address that CONTROL works out, a little further on each time."""
        buffer, k, c = self.random.choice(self.buffers), self.kernel, self.cursor
        k.scalar("add", c, c, 4 * self.random.randint(1, 9))
        k.scalar("max", c, c, buffer.address)
        k.scalar("min", c, c, buffer.address + BUFFER_BYTES - 32)
        k.dma("load", buffer.at(0, c), window=0, offset=self.random.randint(0, 99), n=(32,))

    def vew(self) -> None:
        rows, cols = self.random.randint(1, 4), self.random.randint(1, CHIP.columns)
        dst = self.tile(rows, cols)
        a, b = (self.source(dst, rows, cols, rows, cols, in_place=True) for _ in range(2))
        self.kernel.vew(dst, a, rows=rows, cols=cols, op1=Op.ADD, b=b)

    def vew_dynamic(self) -> None:
        """As many rows as a parameter says, 0 included."""
        cols = self.random.randint(1, 4)
        dst, a = (Tile(self.random.choice(self.buffers).at(), 4 * cols) for _ in range(2))
        self.kernel.vew(dst, a, rows=self.random.choice(self.counts), cols=cols)

    def vred(self) -> None:
        rows, cols = self.random.randint(1, 4), self.random.randint(1, CHIP.columns)
        ref, _ = self.span(4)
        out = RowVec(ref.buffer.at(min(ref.offset, BUFFER_BYTES - 4 * rows)), 4)
        source = self.source(out, rows, 1, rows, cols, in_place=False)
        self.kernel.vred(out, source, rows=rows, cols=cols, op=Reduce.MAX)

    def matmul(self) -> None:
        """Two rows of one block by all columns."""
        k, rows, n = self.kernel, 2, CHIP.columns
        a, scales, b = (self.random.choice(self.buffers) for _ in range(3))
        at = [64 * self.random.randint(0, 15), self.random.randint(0, 1022)]
        at_b = 4 * self.random.randint(0, (BUFFER_BYTES - 33 * n) // 4)
        row = self.random.randint(0, CHIP.accumulator_rows - rows)
        acc = Buffer("acc", 0x4000_0000 + row * PITCH, rows * PITCH)
        operands = [a.address + at[0], scales.address + at[1], b.address + at_b]
        k.put(
            "matmul",
            [row, *operands, rows, 1, n, matmul_mode(BFormat.MX8, a_slices=1, b_slices=1)],
            (32, 64, 1, n, 0, 0),
            reads=(
                a.at(at[0]).region(64),
                scales.at(at[1]).region(rows),
                b.at(at_b).region(33 * n),
            ),
            writes=(acc.at().region(None),),
        )
