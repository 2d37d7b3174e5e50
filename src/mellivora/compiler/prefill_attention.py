"""Attention of the prefill entry: every core projects, caches and attends for its own rows."""

from __future__ import annotations

from mellivora.compiler.blocks import Quantised, Stream
from mellivora.compiler.decoder import Decoder, LayerConstants
from mellivora.compiler.head import HeadTiles
from mellivora.compiler.ir import CORE_ID, Operand, Reg
from mellivora.compiler.kernel import Ref, RowVec, Tile
from mellivora.compiler.layout import TILE_SHIFT, TILE_TOKENS, PrefillParam
from mellivora.compiler.plan import Layer, Linear
from mellivora.compiler.rounding import ceil_div, round_up
from mellivora.isa.modes import Op


class PrefillAttention(Decoder):
    """Prefill's queries, keys and values, a key head at a time."""

    def attention_buffers(self) -> None:
        k, rows, s, hd = self.k, self.rows_max, self.kv.slices, self.head_dim
        self.group_cols = (self.group + 2) * hd
        self.heads_at_once = self.choose_heads_at_once()
        size = 4 * rows * self.group_cols * self.heads_at_once
        turns = 1 if self.heads_at_once == self.kv.kv_heads else 2
        self.qkv = [k.alloc(f"qkv{i}", size) for i in range(turns)]
        self.qk: list[Quantised] = []
        self.v: list[Quantised] = []
        for g in range(self.kv.kv_heads):
            self.qk.append(Quantised.alloc(k, f"qk{g}", (self.group + 1) * rows, hd, s))
            plane = rows * hd
            self.v.append(
                Quantised(k.alloc(f"v{g}", s * plane), k.alloc(f"v{g}.scales", rows), hd, s, plane)
            )

    def registers(self, head: HeadTiles) -> None:
        """What every layer uses: this core's rows, their first position, and what follows."""
        k = self.k
        total, kv_base = k.parameter(int(PrefillParam.ROWS)), k.parameter(int(PrefillParam.KV_BASE))
        self.position = k.parameter(int(PrefillParam.POSITION))
        self.rows, self.index, self.first_row = k.reg(), k.reg(), k.reg()
        self.part1, self.part2 = k.reg(), k.reg()
        self.cache, self.pairs, self.group_rows = k.reg(), k.reg(), k.reg()
        self.row_bytes, self.kv_base = k.reg(), kv_base
        k.scalar("mul", head.base, CORE_ID, head.image_units)
        with k.temps(1) as (temp,):
            self.share_rows(temp, total)
            k.scalar("mul", self.first_row, CORE_ID, temp)
            k.scalar("add", self.position, self.position, self.first_row)
            k.scalar("sub", self.rows, total, self.first_row)
            k.scalar("max", self.rows, self.rows, 0)
            k.scalar("min", self.rows, self.rows, temp)
            k.scalar("and", self.index, self.position, TILE_TOKENS - 1)
            k.scalar("li", temp, TILE_TOKENS)
            k.scalar("sub", temp, temp, self.index)
            k.scalar("min", self.part1, self.rows, temp)
            k.scalar("sub", self.part2, self.rows, self.part1)
            k.scalar("shr", self.cache, self.position, TILE_SHIFT)
            k.scalar("mul", self.cache, self.cache, self.kv.tile_bytes // 32)
            k.scalar("add", self.cache, self.cache, kv_base)
            k.scalar("add", self.pairs, self.position, self.rows)
            k.scalar("add", self.pairs, self.pairs, 2 * TILE_TOKENS - 1)
            k.scalar("shr", self.pairs, self.pairs, TILE_SHIFT + 1)
            k.scalar("min", temp, self.rows, 1)
            k.scalar("mul", self.pairs, self.pairs, temp)
            k.scalar("mul", self.group_rows, self.rows, self.group)
            k.scalar("mul", self.row_bytes, self.rows, self.head_dim)

    def share_rows(self, out: Reg, total: Reg) -> None:
        """out = ceil(total / cores): short prompts are spread over all cores too.

        CONTROL has no division: n // c is (n * ceil(2^20 / c)) >> 20, exact while n * c < 2^20;
        beyond that (more than 178 cores) each core in turn takes all the rows it can hold.
        """
        k, cores = self.k, self.chip.cores
        if (self.rows_max + 1) * cores * cores >= 1 << 20:
            k.scalar("li", out, self.rows_max)
            return
        k.scalar("add", out, total, cores - 1)
        k.scalar("mul", out, out, ceil_div(1 << 20, cores))
        k.scalar("shr", out, out, 20)

    def choose_heads_at_once(self) -> int:
        """Key heads projected side by side: as many as leave the fewest columns of tiles empty.

        Their FP32 results must fit a twelfth of the scratchpad; one head always goes.
        """
        columns, heads = self.chip.columns, self.kv.kv_heads

        def emptiness(n: int) -> float:
            wide = n * self.group_cols
            return round_up(wide, columns) / wide

        room = self.chip.sram_bytes // 12
        fitting = [
            n
            for n in range(1, heads + 1)
            if 4 * self.rows_max * n * self.group_cols * (1 if n == heads else 2) <= room
        ]
        return min(fitting or [1], key=lambda n: (emptiness(n), n))

    def queries_keys_values(
        self, index: int, layer: Layer, first: int, constants: LayerConstants, stream: Stream
    ) -> None:
        """Project `heads_at_once` key heads from `first` on, with their queries.

        A head whose columns are complete is rotated, quantised and appended to the cache while
        MATRIX works on the next.
        """
        k, rows, hd, group = self.k, self.rows, self.head_dim, self.group
        heads = range(first, min(first + self.heads_at_once, layer.kv_heads))
        buffer = self.qkv[first // self.heads_at_once % len(self.qkv)]
        pitch = 4 * self.group_cols * self.heads_at_once
        spans: list[tuple[Linear, int, int]] = []
        for g in heads:
            spans.append((layer.q, g * group * hd, (g + 1) * group * hd))
            spans.append((layer.k, g * hd, (g + 1) * hd))
            spans.append((layer.v, g * hd, (g + 1) * hd))
        waiting = list(heads)

        def keep(at: int, cols: int, acc: Tile) -> None:
            k.vew(Tile(buffer.at(4 * at), pitch), acc, rows=rows, cols=cols)
            while waiting and (waiting[0] - first + 1) * self.group_cols <= at + cols:
                g = waiting.pop(0)
                part = Tile(buffer.at(4 * (g - first) * self.group_cols), pitch)
                for linear, offset, start, size in (
                    (layer.q, 0, g * group * hd, group * hd),
                    (layer.k, group * hd, g * hd, hd),
                    (layer.v, (group + 1) * hd, g * hd, hd),
                ):
                    if linear.bias is not None:
                        target = Tile(part.ref.plus(4 * offset), pitch)
                        bias = constants.bias(linear.bias, start)
                        k.vew(target, target, rows=rows, cols=size, op1=Op.ADD, b=bias)
                self.rotate_and_append(index, layer, g, part, constants)

        with k.named(f"layers.{index}.qkv", "linear"):
            self.project(self.a_qkv, stream, [spans], rows, keep)

    def rotate_and_append(
        self, index: int, layer: Layer, g: int, part: Tile, constants: LayerConstants
    ) -> None:
        """Rotate and quantise a key head and its queries ([q | k | v] at `part`); append K, V."""
        k, rows, hd, group = self.k, self.rows, self.head_dim, self.group
        with k.named(f"layers.{index}.rope", "rope"), k.temps(2) as (codes, scales):
            k.scalar("li", codes, self.qk[g].codes.address)
            k.scalar("li", scales, self.qk[g].scales.address)
            for j in range(group + 1):
                head = Tile(part.ref.plus(4 * j * hd), part.stride)
                norm = layer.q_norm if j < group else layer.k_norm
                if norm:
                    self.head_norm(norm, constants, head, rows)
                self.rotate(head, self.rope_tables[layer.rope].at(), 4 * hd, rows)
                k.vquant(
                    Tile(self.qk[g].codes.at(0, codes), hd),
                    Tile(self.qk[g].scales.at(0, scales), hd // 32),
                    head,
                    rows=rows,
                    cols=hd,
                    slices=self.kv.slices,
                    plane=self.qk[g].plane,
                )
                if j < group:
                    k.scalar("add", codes, codes, self.row_bytes)
                    with k.temps(1) as (temp,):
                        k.scalar("shr", temp, self.row_bytes, 5)
                        k.scalar("add", scales, scales, temp)
            v = self.v[g]
            value = Tile(part.ref.plus(4 * (group + 1) * hd), part.stride)
            k.vquant(
                Tile(v.codes.at(), hd),
                Tile(v.scales.at(), 1),
                value,
                rows=rows,
                cols=hd,
                slices=self.kv.slices,
                plane=v.plane,
                wide=True,
            )
            self.append(index, g, codes, scales)

    def append(self, index: int, g: int, codes: Reg, scales: Reg) -> None:
        """K and V of this core's rows to the cache, in two parts where a tile ends between."""
        k, hd, qk, values = self.k, self.head_dim, self.qk[g], self.v[g]
        with k.temps(5) as (offset, codes2, scales2, v2, v_scales2):
            k.scalar("add", offset, self.cache, self.kv.head_offset(index, g))

            def store(
                first: Operand,
                rows: Reg,
                *,
                codes: Ref,
                scales: Ref,
                v: Ref,
                v_scales: Ref,
            ) -> None:
                self.cache_append(f"kv{index}").rows(
                    codes=codes,
                    scales=scales,
                    v=v,
                    v_scales=v_scales,
                    plane=qk.plane,
                    v_plane=values.plane,
                    count=rows,
                    offset=offset,
                    index=first,
                )

            store(
                self.index,
                self.part1,
                codes=qk.codes.at(0, codes),
                scales=qk.scales.at(0, scales),
                v=values.codes.at(),
                v_scales=values.scales.at(),
            )
            k.scalar("add", offset, offset, self.kv.tile_bytes // 32)
            k.scalar("mul", codes2, self.part1, hd)
            k.scalar("add", v2, codes2, values.codes.address)
            k.scalar("shr", scales2, codes2, 5)
            k.scalar("add", scales2, scales2, scales)
            k.scalar("add", codes2, codes2, codes)
            k.scalar("add", v_scales2, self.part1, values.scales.address)
            store(
                0,
                self.part2,
                codes=qk.codes.at(0, codes2),
                scales=qk.scales.at(0, scales2),
                v=values.codes.at(0, v2),
                v_scales=values.scales.at(0, v_scales2),
            )

    def attention_group(self, index: int, layer: Layer, g: int, memory: str) -> None:
        """Attention of one key head's queries; the result goes to `attended`, quantised."""
        k, hd, rows = self.k, self.head_dim, self.rows
        with k.temps(2) as (limit, offset):
            k.scalar("add", limit, self.position, 1)
            k.scalar("add", offset, self.kv_base, self.kv.head_offset(index, g))
            out, factor = self.attend(layer).run(
                rows=self.group_rows,
                tokens=rows,
                q=self.qk[g].codes.at(),
                q_scales=self.qk[g].scales.at(),
                q_plane=self.qk[g].plane,
                limit=limit,
                offset=offset,
                tile_pairs=self.pairs,
                memory=memory,
            )
            source, weight = limit, offset
            k.scalar("li", source, out.ref.buffer.address)
            k.scalar("li", weight, factor.ref.buffer.address)
            for j in range(self.group):
                if j:
                    with k.temps(1) as (temp,):
                        k.scalar("shl", temp, self.row_bytes, 2)
                        k.scalar("add", source, source, temp)
                        k.scalar("shl", temp, rows, 2)
                        k.scalar("add", weight, weight, temp)
                self.attended.write(
                    k,
                    Tile(Ref(out.ref.buffer, 0, source), 4 * hd),
                    rows=rows,
                    cols=hd,
                    first=(g * self.group + j) * hd,
                    b=RowVec(Ref(factor.ref.buffer, 0, weight), 4),
                )
