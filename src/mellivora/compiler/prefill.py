"""The prefill entry: rows divided over the cores, weights multicast to all of them.

Each core carries its run of rows through every layer alone; cores meet only where keys and values must be
visible to all (one barrier a layer). Any number of rows up to `chunk` and any start position: nothing is
compiled again for another prompt length.
"""

from __future__ import annotations

from dataclasses import replace

from mellivora.compiler.blocks import Quantised, Stream, gated
from mellivora.compiler.decoder import Decoder, HeadTiles, LayerConstants
from mellivora.compiler.ir import CORE_ID, Reg, Region
from mellivora.compiler.kernel import Ref, RowVec, Tile
from mellivora.compiler.layout import TILE_TOKENS, PrefillParam, Win
from mellivora.compiler.plan import Layer, Linear
from mellivora.isa.modes import Op


class Prefill(Decoder):
    """Emits the prefill entry. `head` describes the decode image's output head."""

    def build(self, head: HeadTiles) -> None:
        k, plan, rows_max = self.k, self.plan, self.rows_max
        head = replace(head, unrolled=False)
        self.head_spec = head.spec
        self.common_buffers(self.group * rows_max)
        head.base = self.head_base = k.reg()
        self.decode_units = head.image_units
        self.registers()
        with k.named("embed", "embedding"):
            self.load_zeros()
            self.load_rope()
            with k.temps(1) as (token,):
                k.scalar("mul", token, CORE_ID, rows_max)
                k.scalar("add", token, token, int(PrefillParam.TOKEN))
                self.embed(self.rows, token)
        stream = self.open_ring(0, multicast=True)
        for index, layer in enumerate(plan.layers):
            self.layer(index, layer, stream)
        with k.named("head", "linear"):
            self.head(stream, head)

    def head_columns(self) -> int:
        return self.head_spec.columns

    def attention_buffers(self) -> None:
        k, rows, s, hd = self.k, self.rows_max, self.kv.slices, self.head_dim
        self.group_cols = (self.group + 2) * hd
        self.qkv = [k.alloc(f"qkv{i}", 4 * rows * self.group_cols) for i in range(2)]
        self.qk: list[Quantised] = []
        self.v: list[Quantised] = []
        for g in range(self.kv.kv_heads):
            self.qk.append(Quantised.alloc(k, f"qk{g}", (self.group + 1) * rows, hd, s))
            plane = rows * hd
            self.v.append(
                Quantised(k.alloc(f"v{g}", s * plane), k.alloc(f"v{g}.scales", rows), hd, s, plane)
            )

    def feed_forward_buffers(self) -> None:
        k, rows = self.k, self.rows_max
        width = min(self.chip.columns // 2, self.plan.ffn)
        self.gate_width = max(width // 32 * 32, 32)
        size = 4 * rows * self.gate_width
        formats = {
            self.weights.fmt(linear.weight)
            for layer in self.plan.layers
            for linear in (layer.gate, layer.up)
        }
        if 2 * self.gate_width > self.chip.columns or len(formats) > 1:
            self.pair = [
                Tile(k.alloc(f"pair{i}", size).at(), 4 * self.gate_width) for i in range(2)
            ]
        self.act = [Tile(k.alloc(f"act{i}", size).at(), 4 * self.gate_width) for i in range(2)]

    def registers(self) -> None:
        """What every layer uses: this core's rows, their first position, and what follows from them."""
        k, rows_max = self.k, self.rows_max
        total, kv_base = k.parameter(int(PrefillParam.ROWS)), k.parameter(int(PrefillParam.KV_BASE))
        self.position = k.parameter(int(PrefillParam.POSITION))
        self.rows, self.index = k.reg(), k.reg()
        self.part1, self.part2 = k.reg(), k.reg()
        self.cache, self.pairs, self.group_rows = k.reg(), k.reg(), k.reg()
        self.row_bytes, self.kv_base = k.reg(), kv_base
        k.scalar("mul", self.head_base, CORE_ID, self.decode_units)
        with k.temps(1) as (temp,):
            k.scalar("mul", temp, CORE_ID, rows_max)
            k.scalar("add", self.position, self.position, temp)
            k.scalar("sub", self.rows, total, temp)
            k.scalar("max", self.rows, self.rows, 0)
            k.scalar("min", self.rows, self.rows, rows_max)
            k.scalar("and", self.index, self.position, TILE_TOKENS - 1)
            k.scalar("li", temp, TILE_TOKENS)
            k.scalar("sub", temp, temp, self.index)
            k.scalar("min", self.part1, self.rows, temp)
            k.scalar("sub", self.part2, self.rows, self.part1)
            k.scalar("shr", self.cache, self.position, 7)
            k.scalar("mul", self.cache, self.cache, self.kv.tile_bytes // 32)
            k.scalar("add", self.cache, self.cache, kv_base)
            k.scalar("add", self.pairs, self.position, self.rows)
            k.scalar("add", self.pairs, self.pairs, 2 * TILE_TOKENS - 1)
            k.scalar("shr", self.pairs, self.pairs, 8)
            k.scalar("min", temp, self.rows, 1)
            k.scalar("mul", self.pairs, self.pairs, temp)
            k.scalar("mul", self.group_rows, self.rows, self.group)
            k.scalar("mul", self.row_bytes, self.rows, self.head_dim)

    def load_rope(self) -> None:
        k, row = self.k, 4 * self.head_dim
        for key, buffer in self.rope_tables.items():
            with k.temps(1) as (offset,):
                k.scalar("mul", offset, self.position, row // 32)
                k.scalar("add", offset, offset, self.request.tables.rope[key] // 32)
                k.dma(
                    "load",
                    buffer.at(),
                    window=Win.TABLES,
                    offset=offset,
                    n=(row, self.rows),
                    d=(row,),
                    p=(row,),
                )

    # ------------------------------------------------------------------ a layer

    def layer(self, index: int, layer: Layer, stream: Stream) -> None:
        k, rows, memory = self.k, self.rows, f"kv{index}"
        with k.named(f"layers.{index}.norm", "norm"):
            constants = self.constants(self.layer_vectors(layer), stream)
            self.norm_to(self.a_qkv, layer.attn_norm, constants, rows)
        for g in range(layer.kv_heads):
            self.queries_keys_values(index, layer, g, constants, stream)
        with k.named(f"layers.{index}.attention", "attention"):
            k.put("barrier", [], None, writes=(Region(memory, 0, 1),))
            for g in range(layer.kv_heads):
                self.attention_group(index, layer, g, memory)
        with k.named(f"layers.{index}.o", "linear"):
            self.residual(self.attended, layer.o, constants, stream)
        if layer.post_attn_norm:
            with k.named(f"layers.{index}.norm", "norm"):
                self.add_normed(layer.post_attn_norm, constants, rows)
        with k.named(f"layers.{index}.norm", "norm"):
            self.norm_to(self.a_ffn, layer.ffn_norm, constants, rows)
        with k.named(f"layers.{index}.gate_up", "linear"):
            self.feed_forward(layer, constants, stream)
        with k.named(f"layers.{index}.down", "linear"):
            self.residual(self.h, layer.down, constants, stream)
        if layer.post_ffn_norm:
            with k.named(f"layers.{index}.norm", "norm"):
                self.add_normed(layer.post_ffn_norm, constants, rows)

    def layer_vectors(self, layer: Layer) -> list[tuple[str, list[tuple[int, int]]]]:
        vectors = self.norm_vectors(layer)
        for linear in (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down):
            if linear.bias is not None:
                vectors.append(
                    (linear.bias, [(0, self.weights.graph.params[linear.bias].shape[0])])
                )
        return vectors

    def queries_keys_values(
        self, index: int, layer: Layer, g: int, constants: LayerConstants, stream: Stream
    ) -> None:
        """Project, rotate and quantise one key head with its queries; append K and V to the cache."""
        k, rows, hd, group = self.k, self.rows, self.head_dim, self.group
        buffer = self.qkv[g % 2]
        pitch = 4 * self.group_cols
        spans = [
            (layer.q, g * group * hd, (g + 1) * group * hd),
            (layer.k, g * hd, (g + 1) * hd),
            (layer.v, g * hd, (g + 1) * hd),
        ]

        def keep(first: int, cols: int, acc: Tile) -> None:
            k.vew(Tile(buffer.at(4 * first), pitch), acc, rows=rows, cols=cols)

        with k.named(f"layers.{index}.qkv", "linear"):
            self.project(self.a_qkv, stream, [spans], rows, keep)
            at = 0
            for linear, start, end in spans:
                if linear.bias is not None:
                    part = Tile(buffer.at(4 * at), pitch)
                    bias = Tile(constants[linear.bias].plus(4 * start), 0)
                    k.vew(part, part, rows=rows, cols=end - start, op1=Op.ADD, b=bias)
                at += end - start
        with k.named(f"layers.{index}.rope", "rope"), k.temps(2) as (codes, scales):
            k.scalar("li", codes, self.qk[g].codes.address)
            k.scalar("li", scales, self.qk[g].scales.address)
            for j in range(group + 1):
                head = Tile(buffer.at(4 * j * hd), pitch)
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
            value = Tile(buffer.at(4 * (group + 1) * hd), pitch)
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
        """K and V of this core's rows to the cache, in two parts where they straddle a tile's end."""
        k, hd, qk, v = self.k, self.head_dim, self.qk[g], self.v[g]
        with k.temps(5) as (offset, codes2, scales2, v2, v_scales2):
            k.scalar("add", offset, self.cache, self.kv.head_offset(index, g))
            common = {
                "memory": f"kv{index}",
                "plane": qk.plane,
                "v_plane": v.plane,
                "offset": offset,
            }
            self.store_kv(
                codes=qk.codes.at(0, codes),
                scales=qk.scales.at(0, scales),
                v=v.codes.at(),
                v_scales=v.scales.at(),
                rows=self.part1,
                index=self.index,
                **common,
            )  # type: ignore[arg-type]
            k.scalar("add", offset, offset, self.kv.tile_bytes // 32)
            k.scalar("mul", codes2, self.part1, hd)
            k.scalar("add", v2, codes2, v.codes.address)
            k.scalar("shr", scales2, codes2, 5)
            k.scalar("add", scales2, scales2, scales)
            k.scalar("add", codes2, codes2, codes)
            k.scalar("add", v_scales2, self.part1, v.scales.address)
            self.store_kv(
                codes=qk.codes.at(0, codes2),
                scales=qk.scales.at(0, scales2),
                v=v.codes.at(0, v2),
                v_scales=v.scales.at(0, v_scales2),
                rows=self.part2,
                index=0,
                **common,
            )  # type: ignore[arg-type]

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

    def residual(
        self, a: Quantised, linear: Linear, constants: LayerConstants, stream: Stream
    ) -> None:
        """x += a @ weight (+ bias); with a post norm the sum waits in y."""
        k, rows, pitch = self.k, self.rows, 4 * self.plan.hidden
        post = hasattr(self, "y")

        def add(first: int, cols: int, acc: Tile) -> None:
            x = Tile(self.x.ref.plus(4 * first), pitch)
            y = Tile(self.y.ref.plus(4 * first), pitch) if post else x
            if linear.bias is not None:
                bias = Tile(constants[linear.bias].plus(4 * first), 0)
                k.vew(
                    y,
                    acc,
                    rows=rows,
                    cols=cols,
                    op1=Op.ADD,
                    b=bias,
                    op2=Op.NONE if post else Op.ADD,
                    c=None if post else x,
                )
            else:
                k.vew(
                    y,
                    acc,
                    rows=rows,
                    cols=cols,
                    op1=Op.NONE if post else Op.ADD,
                    b=None if post else x,
                )

        hidden = [(linear, 0, self.plan.hidden)]
        self.project(a, stream, [hidden], rows, add)

    def feed_forward(self, layer: Layer, constants: LayerConstants, stream: Stream) -> None:
        """h = quantise(activation(gate) * up), a panel of features at a time."""
        k, rows, ffn = self.k, self.rows, self.plan.ffn
        for first in range(0, ffn, self.gate_width):
            cols = min(self.gate_width, ffn - first)
            places: dict[int, Tile] = {}

            def take(at: int, count: int, acc: Tile, places: dict[int, Tile] = places) -> None:
                places[at] = acc

            spans = [(layer.gate, first, first + cols), (layer.up, first, first + cols)]
            whole = 2 * cols <= self.chip.columns
            if whole:
                self.project(self.a_ffn, stream, [spans], rows, take)
                gate = places[0]
                up = places.get(cols) or Tile(gate.ref.plus(4 * cols), gate.stride)
            else:
                gate, up = self._wide_pair(spans, cols, stream)
            gate, up = self._biased(layer, constants, gate, up, first, cols)
            out = self.act[0]
            gated(k, gate, up, out, self.act[1], rows=rows, cols=cols, activation=layer.activation)
            self.h.write(k, out, rows=rows, cols=cols, first=first)

    def _wide_pair(
        self, spans: list[tuple[Linear, int, int]], cols: int, stream: Stream
    ) -> tuple[Tile, Tile]:
        """Gate and up of a panel wider than half the columns, gathered in the scratchpad."""
        for tile, span in zip(self.pair, spans, strict=True):

            def keep(at: int, count: int, acc: Tile, tile: Tile = tile) -> None:
                self.k.vew(
                    Tile(tile.ref.plus(4 * at), tile.stride), acc, rows=self.rows, cols=count
                )

            self.project(self.a_ffn, stream, [[span]], self.rows, keep)
        return self.pair[0], self.pair[1]

    def _biased(
        self, layer: Layer, constants: LayerConstants, gate: Tile, up: Tile, first: int, cols: int
    ) -> tuple[Tile, Tile]:
        tiles: list[Tile] = []
        for linear, tile in ((layer.gate, gate), (layer.up, up)):
            if linear.bias is not None:
                bias = Tile(constants[linear.bias].plus(4 * first), 0)
                self.k.vew(tile, tile, rows=self.rows, cols=cols, op1=Op.ADD, b=bias)
            tiles.append(tile)
        return tiles[0], tiles[1]

    # ------------------------------------------------------------------ head

    def head(self, stream: Stream, head: HeadTiles) -> None:
        """Rows meet in DRAM; then the vocabulary is divided over the cores, a group of rows at a time."""
        k, hidden, rows_max = self.k, self.plan.hidden, self.rows_max
        memory = Region("hidden", 0, 1)
        constants = self.constants([(self.plan.norm.gamma, [(0, hidden)])], stream)
        with k.temps(5) as (at, wanted, groups, count, row):
            k.scalar("mul", at, CORE_ID, rows_max * hidden * 4 // 32)
            k.dma(
                "store",
                self.x.ref,
                window=Win.HIDDEN,
                offset=at,
                n=(4 * hidden, self.rows),
                d=(4 * hidden,),
                p=(4 * hidden,),
                far=memory,
            )
            k.put("barrier", [], None, writes=(memory,))
            k.scalar("ldp", at, int(PrefillParam.HEAD_FIRST))
            k.scalar("mul", at, at, hidden * 4 // 32)
            k.scalar("ldp", wanted, int(PrefillParam.HEAD_ROWS))
            k.scalar("li", row, 0)
            self.divide_up(groups, wanted, rows_max)
            with k.loop(groups):
                k.scalar("min", count, wanted, rows_max)
                k.dma(
                    "load",
                    self.x.ref,
                    window=Win.HIDDEN,
                    offset=at,
                    n=(4 * hidden, count),
                    d=(4 * hidden,),
                    p=(4 * hidden,),
                    far=memory,
                )
                self.head_rows(count, row, head, constants, stream)
                k.scalar("add", at, at, rows_max * hidden * 4 // 32)
                k.scalar("add", row, row, rows_max)
                k.scalar("sub", wanted, wanted, rows_max)

    def divide_up(self, out: Reg, value: Reg, step: int) -> None:
        """out = ceil(value / step); step is a power of two."""
        self.k.scalar("add", out, value, step - 1)
        self.k.scalar("shr", out, out, step.bit_length() - 1)
