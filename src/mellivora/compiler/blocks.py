"""Kernel pieces of prefill and decode: operands, weight streaming, norm, activation, rotation.

Nothing here depends on how the work is divided; the arithmetic of a row is the same everywhere,
which is why outputs do not depend on batch, cores, chunking or preset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mellivora.compiler.ir import Operand, Reg
from mellivora.compiler.kernel import ALIGN_BYTES, Buffer, Kernel, Ref, RowVec, Tile, no_room
from mellivora.compiler.pack import PackedTile, TileSpec
from mellivora.compiler.rounding import round_up
from mellivora.isa.modes import Func, Op, Reduce, matmul_mode

LOG2E = math.log2(math.e)


@dataclass(frozen=True)
class Quantised:
    """An A operand: [rows][k] bytes a slice, planes `plane` apart, scales [rows][k/32]."""

    codes: Buffer
    scales: Buffer
    k: int
    slices: int
    plane: int

    @staticmethod
    def alloc(kernel: Kernel, name: str, rows: int, k: int, slices: int) -> Quantised:
        plane = rows * k
        codes = kernel.alloc(name, slices * plane)
        scales = kernel.alloc(f"{name}.scales", rows * (k // 32))
        return Quantised(codes, scales, k, slices, plane)

    def write(
        self,
        kernel: Kernel,
        source: Tile,
        *,
        rows: Operand,
        cols: int,
        first: int = 0,
        b: Tile | None = None,
    ) -> None:
        """Quantise columns first..first+cols of all rows from FP32 (times b)."""
        kernel.vquant(
            Tile(self.codes.at(first), self.k),
            Tile(self.scales.at(first // 32), self.k // 32),
            source,
            rows=rows,
            cols=cols,
            slices=self.slices,
            plane=self.plane,
            b=b,
        )


class Ring:
    """The rest of the scratchpad as a circular buffer that weight LOADs fill ahead of MATRIX."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer, self.head = buffer, 0

    def next(self, size: int) -> Ref:
        if size > self.buffer.size:
            raise no_room(
                "weight ring",
                given=f"{size} bytes in one piece",
                allowed=f"{self.buffer.size} bytes left for weights",
            )
        if self.head + size > self.buffer.size:
            self.head = 0
        at = self.head
        self.head = round_up(at + size, ALIGN_BYTES)
        return self.buffer.at(at)


@dataclass
class Stream:
    """Weight tiles from one image, in chunks along k that fit the ring."""

    kernel: Kernel
    ring: Ring
    window: int
    base: Operand
    multicast: bool
    flag: Operand = 1
    """0 in cores that skip these weights: their LOADs move nothing."""

    @property
    def chunk_bytes(self) -> int:
        """Small enough that several are in flight, large enough to hide DRAM's latency."""
        return max(min(self.ring.buffer.size // 6, 256 * 1024), 1)

    def load(self, ref: Ref, at: int, size: int) -> None:
        """Bytes [at, at + size) of the image to ref; base counts units of 32 bytes."""
        dynamic = isinstance(self.base, Reg)
        self.kernel.dma(
            "loadm" if self.multicast else "load",
            ref,
            window=self.window,
            offset=self.base if dynamic else at // 32,
            fine=at if dynamic else at % 32,
            n=(size, self.flag),
            near_size=size,
            prefetch=True,
        )

    def matmul(self, a: Quantised, tile: PackedTile, rows: Operand, rows_max: int) -> Tile:
        """acc = A @ tile; returns the FP32 accumulator tile [rows, columns]."""
        spec = tile.spec
        acc = self.kernel.accumulators(rows_max)
        per_chunk = max(min(spec.blocks, self.chunk_bytes // spec.block_bytes), 1)
        for first in range(0, spec.blocks, per_chunk):
            count = min(per_chunk, spec.blocks - first)
            size = count * spec.block_bytes
            ref = self.ring.next(size)
            self.load(ref, tile.offset + first * spec.block_bytes, size)
            matmul(self.kernel, acc, a, ref, spec, rows=rows, first=first, count=count)
        return Tile(acc.at(), 4 * self.kernel.chip.columns)


def matmul(
    kernel: Kernel,
    acc: Buffer,
    a: Quantised,
    b: Ref,
    spec: TileSpec,
    *,
    rows: Operand,
    first: int,
    count: int,
) -> None:
    """One MATMUL over blocks first..first+count of A with weights at b."""
    mode = matmul_mode(spec.b_format, a_slices=a.slices, b_slices=spec.slices, accumulate=first > 0)
    size = count * spec.block_bytes
    kernel.put(
        "matmul",
        [
            kernel.acc_row(acc),
            a.codes.address + 32 * first,
            a.scales.address + first,
            b.operand,
            rows,
            count,
            spec.columns,
            mode,
        ],
        (a.k, a.plane, a.k // 32, spec.columns, 0, spec.block_bytes),
        reads=(a.codes.at().region(None), a.scales.at().region(None), b.region(size)),
        writes=(acc.at().region(None),),
    )


def rms_scale(
    kernel: Kernel, x: Tile, out: RowVec, *, rows: Operand, cols: int, eps: float
) -> None:
    """out[r] = rsqrt(sum(x[r]^2) / cols + eps)."""
    kernel.vred(out, x, rows=rows, cols=cols, op=Reduce.SUMSQ)
    line = Tile(out.ref, 0)
    kernel.vew(
        line, line, rows=1, cols=rows, op1=Op.MUL, b=1.0 / cols, op2=Op.ADD, c=eps, func=Func.RSQRT
    )


def norm_quantise(
    kernel: Kernel,
    x: Tile,
    gamma: Ref,
    a: Quantised,
    *,
    rows: Operand,
    eps: float,
    scale: RowVec,
    panel: Buffer,
    panel_cols: int,
) -> None:
    """A = quantise(rms_norm(x) * gamma), a panel of columns at a time."""
    rms_scale(kernel, x, scale, rows=rows, cols=a.k, eps=eps)
    for first in range(0, a.k, panel_cols):
        cols = min(panel_cols, a.k - first)
        temp = Tile(panel.at(), 4 * panel_cols)
        kernel.vew(
            temp,
            Tile(x.ref.plus(4 * first), x.stride),
            rows=rows,
            cols=cols,
            op1=Op.MUL,
            b=scale,
            op2=Op.MUL,
            c=Tile(gamma.plus(4 * first), 0),
        )
        a.write(kernel, temp, rows=rows, cols=cols, first=first)


def gated(
    kernel: Kernel,
    gate: Tile,
    up: Tile,
    out: Tile,
    temp: Tile,
    *,
    rows: Operand,
    cols: int,
    activation: str,
) -> None:
    """out = activation(gate) * up, with sigmoid(z) = 1 / (1 + 2^(-z log2 e)) of table functions."""
    if activation == "silu":
        kernel.vew(temp, gate, rows=rows, cols=cols, op1=Op.MUL, b=-LOG2E, func=Func.EXP2)
    else:  # gelu_tanh(x) = x * sigmoid(2 * sqrt(2/pi) * (x + 0.044715 x^3))
        k = 2.0 * math.sqrt(2.0 / math.pi)
        kernel.vew(temp, gate, rows=rows, cols=cols, op1=Op.MUL, b=gate, op2=Op.MUL, c=0.044715 * k)
        kernel.vew(temp, temp, rows=rows, cols=cols, op1=Op.ADD, b=k, op2=Op.MUL, c=gate)
        kernel.vew(temp, temp, rows=rows, cols=cols, op1=Op.MUL, b=-LOG2E, func=Func.EXP2)
    kernel.vew(temp, temp, rows=rows, cols=cols, op1=Op.ADD, b=1.0, func=Func.RECIP)
    kernel.vew(out, temp, rows=rows, cols=cols, op1=Op.MUL, b=gate, op2=Op.MUL, c=up)


def softcap(
    kernel: Kernel, out: Tile, x: Tile, *, rows: Operand, cols: int, cap: float, scale: float
) -> None:
    """out = cap * tanh(x * scale / cap), as cap - 2 cap / (1 + e^(2z))."""
    factor = 2.0 * scale / cap * LOG2E
    kernel.vew(out, x, rows=rows, cols=cols, op1=Op.MUL, b=factor, func=Func.EXP2)
    kernel.vew(out, out, rows=rows, cols=cols, op1=Op.ADD, b=1.0, func=Func.RECIP)
    kernel.vew(out, out, rows=rows, cols=cols, op1=Op.MUL, b=-2.0 * cap, op2=Op.ADD, c=cap)


def rotate(
    kernel: Kernel,
    x: Tile,
    cos: Tile,
    sin: Tile,
    temp: Tile,
    *,
    rows: Operand,
    head_dim: int,
    upper: Tile | None = None,
) -> None:
    """Rotate the halves of x in place: (a, b) -> (a cos - b sin, b cos + a sin).

    upper: b, if x is dynamic.
    """
    half = head_dim // 2
    a, b = x, upper or Tile(x.ref.plus(4 * half), x.stride)
    other = Tile(temp.ref.plus(4 * half), temp.stride)
    kernel.vew(temp, b, rows=rows, cols=half, op1=Op.MUL, b=sin)
    kernel.vew(other, a, rows=rows, cols=half, op1=Op.MUL, b=sin)
    kernel.vew(a, a, rows=rows, cols=half, op1=Op.MUL, b=cos, op2=Op.SUB, c=temp)
    kernel.vew(b, b, rows=rows, cols=half, op1=Op.MUL, b=cos, op2=Op.ADD, c=other)
