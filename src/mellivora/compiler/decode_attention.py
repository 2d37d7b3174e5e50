"""Attention of the decode entry: key heads divided over the cores, a sequence at a time.

A core projects, rotates and caches only its own heads. The results meet in `own_out`, from where
`Decode` exchanges them.
"""

from __future__ import annotations

from dataclasses import replace

from mellivora.compiler.blocks import Quantised, Stream, rotate
from mellivora.compiler.decoder import Decoder, LayerConstants
from mellivora.compiler.ir import CORE_ID, Operand, Reg
from mellivora.compiler.kernel import Buffer, Ref, Tile
from mellivora.compiler.layout import TILE_SHIFT, TILE_TOKENS, DecodeParam, Win
from mellivora.compiler.pack import Image
from mellivora.compiler.plan import Layer
from mellivora.compiler.project import Segment
from mellivora.compiler.request import Request
from mellivora.compiler.rounding import ceil_div
from mellivora.isa.modes import Op


class DecodeAttention(Decoder):
    """Decode's queries, keys and values. local_heads: key heads of a core, the last may be none.

    batch: register with the number of sequences; own_out: FP32 [batch][width] of this core's heads.
    """

    batch: Reg
    own_out: Buffer

    def __init__(self, request: Request) -> None:
        images = [Image() for _ in range(request.chip.cores)]
        super().__init__(request, images, Win.DECODE, request.max_batch)
        self.local_heads = ceil_div(self.plan.layers[0].kv_heads, self.chip.cores)
        self.width = self.local_heads * self.group * self.head_dim

    def attention_buffers(self) -> None:
        k, rows, hd, s, group = self.k, self.rows_max, self.head_dim, self.kv.slices, self.group
        self.qkv_cols = self.local_heads * (group + 2) * hd
        self.qkv = k.alloc("qkv", 4 * rows * self.qkv_cols)
        """[q of the group | k | v] of every local head."""
        self.qk = [Quantised.alloc(k, f"qk{i}", group + 1, hd, s) for i in range(2)]
        self.v = [
            Quantised(k.alloc(f"v{i}", s * hd), k.alloc(f"v{i}.scales", 1), hd, s, hd)
            for i in range(2)
        ]

    def head_registers(self) -> None:
        """Where this core's heads lie in a slot of the cache, and which of them there are."""
        k, layer = self.k, self.plan.layers[0]
        self.first_head = k.reg()
        k.scalar("mul", self.first_head, CORE_ID, self.local_heads * self.kv.head_units)
        self.head_rows_flags: list[tuple[Reg, Operand]] = []
        """For each local head: (batch, or 0 where this core has no such head; 1 or 0)."""
        everyone = self.local_heads * self.chip.cores == layer.kv_heads
        for j in range(self.local_heads):
            if everyone:
                self.head_rows_flags.append((self.batch, 1))
                continue
            rows, flag = k.reg(), k.reg()
            k.scalar("mul", rows, CORE_ID, self.local_heads)
            k.scalar("li", flag, layer.kv_heads - j)
            k.scalar("sub", flag, flag, rows)
            k.scalar("max", flag, flag, 0)
            k.scalar("min", flag, flag, 1)
            k.scalar("mul", rows, flag, self.batch)
            self.head_rows_flags.append((rows, flag))

    def queries_keys_values(self, layer: Layer, constants: LayerConstants, stream: Stream) -> None:
        """This core's heads, [q of the group | k | v] each, to FP32 `qkv`. No others are read."""
        k, hd, group, pitch = self.k, self.head_dim, self.group, 4 * self.qkv_cols
        for j in range(self.local_heads):
            segments: list[list[Segment]] = []
            for core in range(len(self.images)):
                head = core * self.local_heads + j
                segments.append(
                    [
                        (layer.q, head * group * hd, (head + 1) * group * hd),
                        (layer.k, head * hd, (head + 1) * hd),
                        (layer.v, head * hd, (head + 1) * hd),
                    ]
                )
            at = j * (group + 2) * hd
            rows, flag = self.head_rows_flags[j]

            def keep(first: int, cols: int, acc: Tile, at: int = at, rows: Operand = rows) -> None:
                k.vew(Tile(self.qkv.at(4 * (at + first)), pitch), acc, rows=rows, cols=cols)

            self.project(self.a_qkv, replace(stream, flag=flag), segments, rows, keep)
            for linear, first, cols in (
                (layer.q, j * group * hd, group * hd),
                (layer.k, j * hd, hd),
                (layer.v, j * hd, hd),
            ):
                if linear.bias is not None:
                    part = Tile(self.qkv.at(4 * at), pitch)
                    bias = constants.bias(linear.bias, first)
                    k.vew(part, part, rows=rows, cols=cols, op1=Op.ADD, b=bias)
                at += cols

    def sequences(self, index: int, layer: Layer, j: int, constants: LayerConstants) -> None:
        """Attention of local key head j, a sequence at a time; cores that lack it skip it."""
        k, hd, group = self.k, self.head_dim, self.group
        row, qk, v, memory = 4 * self.qkv_cols, self.qk[j % 2], self.v[j % 2], f"kv{index}"
        with k.temps(6) as (count, seq, source, rope, position, cache):
            k.scalar("add", count, self.head_rows_flags[j][0], 0)
            k.scalar("li", seq, 0)
            k.scalar("li", source, self.qkv.address + 4 * j * (group + 2) * hd)
            k.scalar("li", rope, self.rope_tables[layer.rope].address)
            with k.loop(count):
                with k.named(f"layers.{index}.rope", "rope"):
                    k.scalar("add", position, seq, int(DecodeParam.POSITION))
                    k.scalar("ldp", position, position)
                    k.scalar("add", cache, seq, int(DecodeParam.KV_BASE))
                    k.scalar("ldp", cache, cache)
                    k.scalar("add", cache, cache, self.first_head)
                    k.scalar("add", cache, cache, self.kv.head_offset(index, j))
                    self.one_sequence(
                        layer, qk, v, source, rope, position, cache, memory, constants
                    )
                with k.named(f"layers.{index}.attention", "attention"):
                    self.one_attention(layer, qk, j, seq, position, cache, memory)
                k.scalar("add", seq, seq, 1)
                k.scalar("add", source, source, row)
                k.scalar("add", rope, rope, 4 * hd)

    def one_sequence(
        self,
        layer: Layer,
        qk: Quantised,
        v: Quantised,
        source: Reg,
        rope: Reg,
        position: Reg,
        cache: Reg,
        memory: str,
        constants: LayerConstants,
    ) -> None:
        """Rotate and quantise one token's queries and key (rows of one tile), append K and V."""
        k, hd, group = self.k, self.head_dim, self.group
        heads = Tile(self.qkv.at(0, source), 4 * hd)
        with k.temps(1) as (key,):
            if layer.q_norm and layer.k_norm:
                self.head_norm(layer.q_norm, constants, heads, group)
                k.scalar("add", key, source, 4 * group * hd)
                self.head_norm(layer.k_norm, constants, Tile(self.qkv.at(0, key), 4 * hd), 1)
            self.rotate_rows(heads, rope, layer, group + 1)
            k.vquant(
                Tile(qk.codes.at(), hd),
                Tile(qk.scales.at(), hd // 32),
                heads,
                rows=group + 1,
                cols=hd,
                slices=self.kv.slices,
                plane=qk.plane,
            )
            k.scalar("add", key, source, 4 * (group + 1) * hd)
            k.vquant(
                Tile(v.codes.at(), hd),
                Tile(v.scales.at(), 1),
                Tile(self.qkv.at(0, key), 0),
                rows=1,
                cols=hd,
                slices=self.kv.slices,
                plane=v.plane,
                wide=True,
            )
        with k.temps(2) as (offset, at):
            k.scalar("shr", offset, position, TILE_SHIFT)
            k.scalar("mul", offset, offset, self.kv.tile_bytes // 32)
            k.scalar("add", offset, offset, cache)
            k.scalar("and", at, position, TILE_TOKENS - 1)
            self.cache_append(memory).rows(
                codes=qk.codes.at(group * hd),
                scales=qk.scales.at(group * hd // 32),
                v=v.codes.at(),
                v_scales=v.scales.at(),
                plane=qk.plane,
                v_plane=v.plane,
                count=1,
                offset=offset,
                index=at,
            )

    def rotate_rows(self, heads: Tile, rope: Reg, layer: Layer, rows: int) -> None:
        """All heads of a token by the same angles: the table row repeats (stride 0)."""
        k, table = self.k, self.rope_tables[layer.rope]
        with k.temps(2) as (second, sin):
            k.scalar("add", second, heads.ref.reg or 0, 2 * self.head_dim)
            k.scalar("add", sin, rope, 2 * self.head_dim)
            upper = Tile(Ref(heads.ref.buffer, 0, second), heads.stride)
            rotate(
                k,
                heads,
                Tile(table.at(0, rope), 0),
                Tile(table.at(0, sin), 0),
                self.rotation_temp,
                rows=rows,
                head_dim=self.head_dim,
                upper=upper,
            )

    def one_attention(
        self, layer: Layer, qk: Quantised, j: int, seq: Reg, position: Reg, cache: Reg, memory: str
    ) -> None:
        k, hd, group = self.k, self.head_dim, self.group
        with k.temps(3) as (limit, pairs, target):
            k.scalar("add", limit, position, 1)
            k.scalar("shr", pairs, position, TILE_SHIFT + 1)
            k.scalar("add", pairs, pairs, 1)
            out, factor = self.attend(layer).run(
                rows=group,
                tokens=1,
                q=qk.codes.at(),
                q_scales=qk.scales.at(),
                q_plane=qk.plane,
                limit=limit,
                offset=cache,
                tile_pairs=pairs,
                memory=memory,
            )
            k.scalar("mul", target, seq, 4 * self.width)
            k.scalar("add", target, target, self.own_out.address + 4 * j * group * hd)
            k.vew(
                Tile(self.own_out.at(0, target), 4 * hd),
                out,
                rows=group,
                cols=hd,
                op1=Op.MUL,
                b=factor,
            )
