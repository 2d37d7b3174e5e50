"""Keys and values on their way to the cache, in the layout of `layout.KvLayout`."""

from __future__ import annotations

from dataclasses import dataclass

from mellivora.compiler.ir import Operand, Reg, Region
from mellivora.compiler.kernel import Kernel, Ref
from mellivora.compiler.layout import TILE_TOKENS, KvLayout, Win


@dataclass(frozen=True)
class CacheAppend:
    """STOREs of quantised rows of one layer; plane_reg: a register of its own."""

    kernel: Kernel
    kv: KvLayout
    plane_reg: Reg
    memory: str
    """Root under which conflicts over this layer's cache are looked for."""

    def rows(
        self,
        *,
        codes: Ref,
        scales: Ref,
        v: Ref,
        v_scales: Ref,
        plane: int,
        v_plane: int,
        count: Operand,
        offset: Reg,
        index: Operand,
    ) -> None:
        """Append `count` rows, from token `index` of the tile at `offset` (units of 32 bytes) on.

        codes, scales, v, v_scales: rows in the scratchpad; slices of K and V lie plane and v_plane
        bytes apart.
        """
        k, kv, hd = self.kernel, self.kv, self.kv.head_dim
        far = Region(self.memory, 0, 1)
        with k.temps(3) as (temp, by4, by_row):
            k.scalar("shl", by4, index, 2)
            k.scalar("mul", by_row, index, hd)
            for j in range(kv.slices):
                k.scalar("add", temp, offset, j * TILE_TOKENS)
                k.dma(
                    "store",
                    self._plane(codes, j * plane),
                    window=Win.KV,
                    offset=temp,
                    fine=by4,
                    n=(4, count, 8, hd // 32),
                    d=(4, 4 * TILE_TOKENS, kv.k_block_bytes),
                    p=(hd, 4, 32),
                    far=far,
                )
            k.scalar("add", temp, offset, kv.slices * TILE_TOKENS)
            k.dma(
                "store",
                scales,
                window=Win.KV,
                offset=temp,
                fine=index,
                n=(1, count, hd // 32),
                d=(1, kv.k_block_bytes),
                p=(hd // 32, 1),
                far=far,
            )
            k.scalar("add", temp, offset, kv.k_bytes // 32)
            k.dma(
                "store",
                v,
                window=Win.KV,
                offset=temp,
                fine=by_row,
                n=(hd, count, kv.slices),
                d=(hd, TILE_TOKENS * hd),
                p=(hd, v_plane),
                far=far,
            )
            k.scalar("add", temp, offset, kv.v_scale_at // 32)
            k.dma(
                "store",
                v_scales,
                window=Win.KV,
                offset=temp,
                fine=index,
                n=(1, count),
                d=(1,),
                p=(1,),
                far=far,
            )

    def _plane(self, ref: Ref, distance: int) -> Ref:
        if ref.reg is None or distance == 0:
            return ref.plus(distance)
        reg = self.kernel.scalar("add", self.plane_reg, ref.reg, distance)
        return Ref(ref.buffer, ref.offset, reg)
