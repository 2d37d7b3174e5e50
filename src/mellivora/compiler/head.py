"""The output head: the vocabulary divided over the cores, tiles streamed, logits stored.

Its weights lie in the decode image; prefill reads them there too.
"""

from __future__ import annotations

from dataclasses import dataclass

from mellivora.compiler.blocks import Quantised, Stream, matmul, softcap
from mellivora.compiler.ir import CORE_ID, ZERO, Operand, Reg, Region
from mellivora.compiler.kernel import Buffer, Kernel, Tile, no_room
from mellivora.compiler.layout import Win
from mellivora.compiler.pack import ALIGN_BYTES, Image, PackedTile, TileSpec, Weights
from mellivora.compiler.plan import DecoderPlan
from mellivora.compiler.project import tile_spec
from mellivora.compiler.rounding import ceil_div, share
from mellivora.spec import ChipSpec

UNROLLED_TILES = 64
"""Up to so many head tiles a core are unrolled, so that their LOADs run ahead; more are a loop."""


@dataclass
class HeadTiles:
    """A core's tiles of the output head, all of one spec and even in number, in its decode image.

    base: register with the image's start, image_units its size, both in units of 32 bytes.
    """

    spec: TileSpec
    tiles: list[PackedTile]
    pitch_bytes: int
    core_bytes: int
    image_units: int
    unrolled: bool
    base: Reg = ZERO


def plan_head(plan: DecoderPlan, weights: Weights, chip: ChipSpec) -> HeadTiles:
    """Equal tiles, an even number a core, columns a multiple of 8; the vocabulary is padded."""
    each = share(plan.vocab, chip.cores, 8)
    pairs = ceil_div(each, 2 * chip.columns)
    columns = share(each, 2 * pairs, 8)
    spec = tile_spec(weights, plan.head, columns)
    core = 4 * columns * 2 * pairs
    return HeadTiles(spec, [], core * chip.cores, core, 0, 2 * pairs <= UNROLLED_TILES)


def place_head(head: HeadTiles, weight: str, images: list[Image]) -> None:
    """Put every core's tiles into its image."""
    columns, each = head.spec.columns, head.core_bytes // 4
    for c, image in enumerate(images):
        head.tiles = [
            image.tile(head.spec, [(weight, at, at + columns)])
            for at in range(c * each, (c + 1) * each, columns)
        ]


@dataclass(frozen=True)
class Head:
    """Emits logits. operand: the normed rows, at most rows_max; cap 0.0: no softcap."""

    kernel: Kernel
    tiles: HeadTiles
    operand: Quantised
    results: tuple[Buffer, Buffer]
    rows_max: int
    cap: float

    def run(self, rows: Operand, row: Operand, stream: Stream) -> None:
        """This core's share of the vocabulary, stored from row `row` of LOGITS on."""
        k, head = self.kernel, self.tiles
        with k.temps(1) as (out,):
            k.scalar("mul", out, CORE_ID, head.core_bytes // 32)
            if row != 0:
                with k.temps(1) as (down,):
                    k.scalar("mul", down, row, head.pitch_bytes // 32)
                    k.scalar("add", out, out, down)
            if head.unrolled:
                for i, tile in enumerate(head.tiles):
                    acc = stream.matmul(self.operand, tile, rows, self.rows_max)
                    self._store(rows, out, acc, i % 2)
            else:
                self._loop(rows, out, stream)

    def _store(self, rows: Operand, out: Reg, acc: Tile, i: int) -> None:
        """One tile's logits by way of buffer i."""
        k, columns = self.kernel, self.tiles.spec.columns
        result = Tile(self.results[i].at(), 4 * columns)
        if self.cap:
            softcap(k, result, acc, rows=rows, cols=columns, cap=self.cap, scale=1.0)
        else:
            k.vew(result, acc, rows=rows, cols=columns)
        k.dma(
            "store",
            result.ref,
            window=Win.LOGITS,
            offset=out,
            n=(4 * columns, rows),
            d=(self.tiles.pitch_bytes,),
            p=(4 * columns,),
            far=Region("logits", 0, 1),
        )
        k.scalar("add", out, out, 4 * columns // 32)

    def _loop(self, rows: Operand, out: Reg, stream: Stream) -> None:
        """Two tiles an iteration; their weights go through four parts of the ring in turn."""
        k, head, ring = self.kernel, self.tiles, stream.ring.buffer
        spec = head.spec
        part = ring.size // 4 // ALIGN_BYTES * ALIGN_BYTES
        buffers = [Buffer(ring.root, ring.address + i * part, part) for i in range(4)]
        if spec.block_bytes > part:
            raise no_room(
                f"{k.chip.name}: weight ring",
                given=f"{spec.block_bytes} bytes in one piece of the head",
                allowed=f"{part} bytes, a quarter of the ring",
            )
        per_chunk = min(part // spec.block_bytes, spec.blocks)
        with k.temps(1) as (fine,):
            k.scalar("li", fine, head.tiles[0].offset)
            with k.loop(len(head.tiles) // 2):
                turn = 0
                for i in range(2):
                    acc = k.accumulators(self.rows_max)
                    for first in range(0, spec.blocks, per_chunk):
                        count = min(per_chunk, spec.blocks - first)
                        size, at = count * spec.block_bytes, buffers[turn % 4].at()
                        turn += 1
                        k.dma("load", at, window=Win.DECODE, offset=head.base, fine=fine, n=(size,))
                        k.scalar("add", fine, fine, size)
                        matmul(k, acc, self.operand, at, spec, rows=rows, first=first, count=count)
                    if spec.size % ALIGN_BYTES:
                        k.scalar("add", fine, fine, ALIGN_BYTES - spec.size % ALIGN_BYTES)
                    self._store(rows, out, Tile(acc.at(), 4 * k.chip.columns), i)
