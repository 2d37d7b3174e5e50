"""The decode entry: columns divided over the cores, activations exchanged four times a layer.

One token for each of up to `max_batch` sequences, each with a position and a place in the cache of its own.
Every core reads only its share of the weights; norms and quantisation are done by all, redundantly, which costs
less than sending their results.
"""

from __future__ import annotations

from dataclasses import replace

from mellivora.compiler.blocks import Quantised, Stream, gated
from mellivora.compiler.decoder import Decoder, HeadTiles, LayerConstants, Request
from mellivora.compiler.ir import CORE_ID, Operand, Reg
from mellivora.compiler.kernel import Buffer, Ref, Tile
from mellivora.compiler.layout import TILE_TOKENS, DecodeParam, Win
from mellivora.compiler.pack import Image
from mellivora.compiler.plan import Layer, Linear
from mellivora.isa.modes import Op

UNROLLED_TILES = 64
"""Up to this many head tiles a core, they are unrolled so that their LOADs run ahead; beyond, a loop."""


def share(total: int, cores: int, multiple: int) -> int:
    """Columns of one core: an equal part rounded up."""
    return -(-total // (cores * multiple)) * multiple


class Decode(Decoder):
    """Emits the decode entry."""

    def __init__(self, request: Request) -> None:
        images = [Image() for _ in range(request.chip.cores)]
        super().__init__(request, images, Win.DECODE, request.max_batch)
        layer, cores = self.plan.layers[0], self.chip.cores
        self.local_heads = -(-layer.kv_heads // cores)
        self.hidden_share = share(self.plan.hidden, cores, 4)
        self.ffn_share = share(self.plan.ffn, cores, 4)
        self.width = self.local_heads * self.group * self.head_dim

    def build(self) -> HeadTiles:
        k, plan = self.k, self.plan
        head = self.plan_head()
        self.head_spec = head.spec
        self.exchange_buffers()
        self.common_buffers(self.group)
        self.base = head.base = k.reg()
        self.image_li = k.scalar("li", k.reg(), 0)  # patched when the image's size is known
        size_op = k.items[-1]
        k.scalar("mul", self.base, CORE_ID, self.image_li)
        self.registers()
        stream = self.open_ring(self.base, multicast=False)
        with k.named("embed", "embedding"):
            self.load_zeros()
            zeros = self.zero_bytes // 4
            for first in range(0, self.width, zeros):
                k.vew(
                    Tile(self.own_out.at(4 * first), 4 * self.width),
                    Tile(self.zeros.at(), 0),
                    rows=self.rows_max,
                    cols=min(zeros, self.width - first),
                )
            self.load_rope()
            with k.temps(1) as (token,):
                k.scalar("li", token, int(DecodeParam.TOKEN))
                self.embed(self.batch, token)
        for index, layer in enumerate(plan.layers):
            self.layer(index, layer, stream)
        with k.named("head", "linear"):
            constants = self.constants(self.everywhere(plan.norm.gamma, plan.hidden), stream)
            self.place_head(head)
            self.head_rows(self.batch, 0, head, constants, stream)
        head.image_units = self.images[0].size // 32
        size_op.a = head.image_units  # type: ignore[union-attr]
        return head

    def head_columns(self) -> int:
        return self.head_spec.columns

    def exchange_buffers(self) -> None:
        """Own parts, and one place for what all cores' parts make up: it holds one exchange at a time."""
        k, rows, cores = self.k, self.rows_max, self.chip.cores
        self.own_out = k.alloc("own.out", 4 * rows * self.width)
        self.own_hidden = k.alloc("own.hidden", 4 * rows * self.hidden_share)
        self.own_ffn = [k.alloc(f"own.ffn{i}", 4 * rows * self.ffn_share) for i in range(2)]
        widest = max(self.width, self.hidden_share, self.ffn_share)
        self.everyone = k.alloc("everyone", 4 * rows * widest * cores)

    def attention_buffers(self) -> None:
        k, rows, hd, s, group = self.k, self.rows_max, self.head_dim, self.kv.slices, self.group
        self.qkv_cols = self.local_heads * (group + 2) * hd
        self.qkv = k.alloc("qkv", 4 * rows * self.qkv_cols)
        self.qk = [Quantised.alloc(k, f"qk{i}", group + 1, hd, s) for i in range(2)]
        self.v = [
            Quantised(k.alloc(f"v{i}", s * hd), k.alloc(f"v{i}.scales", 1), hd, s, hd)
            for i in range(2)
        ]

    def feed_forward_buffers(self) -> None:
        """Gate and up stay in accumulators and in `own.ffn`."""

    def registers(self) -> None:
        k, layer = self.k, self.plan.layers[0]
        self.batch = k.parameter(int(DecodeParam.BATCH))
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

    def load_rope(self) -> None:
        k, row = self.k, 4 * self.head_dim
        for key, buffer in self.rope_tables.items():
            with k.temps(3) as (index, near, offset):
                k.scalar("li", index, int(DecodeParam.POSITION))
                k.scalar("li", near, buffer.address)
                with k.loop(self.batch):
                    k.scalar("ldp", offset, index)
                    k.scalar("mul", offset, offset, row // 32)
                    k.scalar("add", offset, offset, self.request.tables.rope[key] // 32)
                    k.dma("load", buffer.at(0, near), window=Win.TABLES, offset=offset, n=(row,))
                    k.scalar("add", near, near, row)
                    k.scalar("add", index, index, 1)

    # ------------------------------------------------------------------ dividing columns

    def everywhere(self, name: str, size: int) -> list[tuple[str, list[tuple[int, int]]]]:
        return [(name, [(0, size)] * len(self.images))]

    def spans(self, linear: Linear, width: int) -> list[list[tuple[Linear, int, int]]]:
        """Core c's columns c*width .. (c+1)*width."""
        return [[(linear, c * width, (c + 1) * width)] for c in range(len(self.images))]

    def bias_spans(self, linear: Linear, width: int) -> list[tuple[str, list[tuple[int, int]]]]:
        if linear.bias is None:
            return []
        return [(linear.bias, [(c * width, (c + 1) * width) for c in range(len(self.images))])]

    def exchange(self, own: Buffer, everyone: Buffer, width: int) -> None:
        """Every core gets [batch][cores * width] from all cores' [batch][width]."""
        row = 4 * width * self.chip.cores
        self.k.put(
            "exch",
            [everyone.address, own.address, 4 * width, 4 * width, self.batch, row, 4 * width],
            None,
            reads=(own.at().region(None),),
            writes=(everyone.at().region(None),),
        )

    # ------------------------------------------------------------------ a layer

    def layer(self, index: int, layer: Layer, stream: Stream) -> None:
        k, rows, hd = self.k, self.batch, self.head_dim
        with k.named(f"layers.{index}.norm", "norm"):
            constants = self.constants(self.layer_vectors(layer), stream)
            self.norm_to(self.a_qkv, layer.attn_norm, constants, rows)
        with k.named(f"layers.{index}.qkv", "linear"):
            self.queries_keys_values(layer, constants, stream)
        for j in range(self.local_heads):
            self.sequences(index, layer, j, constants)
        with k.named(f"layers.{index}.attention", "attention"):
            self.exchange(self.own_out, self.everyone, self.width)
            self.attended.write(
                k,
                Tile(self.everyone.at(), 4 * self.width * self.chip.cores),
                rows=rows,
                cols=layer.heads * hd,
            )
        with k.named(f"layers.{index}.o", "linear"):
            self.residual(self.attended, layer.o, constants, stream)
        if layer.post_attn_norm:
            self.add_normed(layer.post_attn_norm, constants, rows)
        with k.named(f"layers.{index}.norm", "norm"):
            self.norm_to(self.a_ffn, layer.ffn_norm, constants, rows)
        with k.named(f"layers.{index}.gate_up", "linear"):
            self.feed_forward(layer, constants, stream)
        with k.named(f"layers.{index}.down", "linear"):
            self.residual(self.h, layer.down, constants, stream)
        if layer.post_ffn_norm:
            self.add_normed(layer.post_ffn_norm, constants, rows)

    def layer_vectors(self, layer: Layer) -> list[tuple[str, list[tuple[int, int]]]]:
        vectors, kv_width = self.norm_vectors(layer), self.local_heads * self.head_dim
        for linear, width in (
            (layer.q, kv_width * self.group),
            (layer.k, kv_width),
            (layer.v, kv_width),
            (layer.o, self.hidden_share),
            (layer.gate, self.ffn_share),
            (layer.up, self.ffn_share),
            (layer.down, self.hidden_share),
        ):
            vectors += self.bias_spans(linear, width)
        return vectors

    def queries_keys_values(self, layer: Layer, constants: LayerConstants, stream: Stream) -> None:
        """This core's heads: [q of the group | k | v] for each, FP32 in `qkv`. Heads it lacks are not loaded."""
        k, hd, group, pitch = self.k, self.head_dim, self.group, 4 * self.qkv_cols
        for j in range(self.local_heads):
            segments: list[list[tuple[Linear, int, int]]] = []
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
                    bias = Tile(constants[linear.bias].plus(4 * first), 0)
                    k.vew(part, part, rows=rows, cols=cols, op1=Op.ADD, b=bias)
                at += cols

    def sequences(self, index: int, layer: Layer, j: int, constants: LayerConstants) -> None:
        """Attention of local key head j, sequence by sequence; cores without such a head skip it."""
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
            k.scalar("shr", offset, position, 7)
            k.scalar("mul", offset, offset, self.kv.tile_bytes // 32)
            k.scalar("add", offset, offset, cache)
            k.scalar("and", at, position, TILE_TOKENS - 1)
            self.store_kv(
                memory,
                codes=qk.codes.at(group * hd),
                scales=qk.scales.at(group * hd // 32),
                v=v.codes.at(),
                v_scales=v.scales.at(),
                plane=qk.plane,
                v_plane=v.plane,
                rows=1,
                offset=offset,
                index=at,
            )

    def rotate_rows(self, heads: Tile, rope: Reg, layer: Layer, rows: int) -> None:
        """All heads of a token by the same angles: the table row repeats (stride 0)."""
        from mellivora.compiler.blocks import rotate

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
            k.scalar("shr", pairs, position, 8)
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

    def residual(
        self, a: Quantised, linear: Linear, constants: LayerConstants, stream: Stream
    ) -> None:
        """x += a @ weight (+ bias): own columns, exchanged, added by all."""
        k, rows, pitch = self.k, self.batch, 4 * self.hidden_share

        def keep(first: int, cols: int, acc: Tile) -> None:
            bias = None if linear.bias is None else Tile(constants[linear.bias].plus(4 * first), 0)
            op = Op.NONE if bias is None else Op.ADD
            k.vew(
                Tile(self.own_hidden.at(4 * first), pitch),
                acc,
                rows=rows,
                cols=cols,
                op1=op,
                b=bias,
            )

        self.project(a, stream, self.spans(linear, self.hidden_share), rows, keep)
        self.exchange(self.own_hidden, self.everyone, self.hidden_share)
        total = Tile(self.everyone.at(), 4 * self.hidden_share * self.chip.cores)
        if hasattr(self, "y"):
            k.vew(self.y, total, rows=rows, cols=self.plan.hidden)
        else:
            k.vew(self.x, total, rows=rows, cols=self.plan.hidden, op1=Op.ADD, b=self.x)

    def feed_forward(self, layer: Layer, constants: LayerConstants, stream: Stream) -> None:
        k, rows, width = self.k, self.batch, self.ffn_share
        panel = max(self.chip.columns // 2, 8)
        for first in range(0, width, panel):
            cols = min(panel, width - first)
            segments = [
                [
                    (linear, c * width + first, c * width + first + cols)
                    for linear in (layer.gate, layer.up)
                ]
                for c in range(len(self.images))
            ]
            places: dict[int, Tile] = {}

            def take(at: int, count: int, acc: Tile, places: dict[int, Tile] = places) -> None:
                places[at] = acc

            self.project(
                self.a_ffn, stream, segments, rows, take, width=min(2 * cols, self.chip.columns)
            )
            gate = places[0]
            up = places.get(cols) or Tile(gate.ref.plus(4 * cols), gate.stride)
            sides = []
            for linear, tile in ((layer.gate, gate), (layer.up, up)):
                if linear.bias is not None:
                    bias = Tile(constants[linear.bias].plus(4 * first), 0)
                    k.vew(tile, tile, rows=rows, cols=cols, op1=Op.ADD, b=bias)
                sides.append(tile)
            out, temp = (Tile(buffer.at(4 * first), 4 * width) for buffer in self.own_ffn)
            gated(
                k, sides[0], sides[1], out, temp, rows=rows, cols=cols, activation=layer.activation
            )
        self.exchange(self.own_ffn[0], self.everyone, width)
        self.h.write(
            k, Tile(self.everyone.at(), 4 * width * self.chip.cores), rows=rows, cols=self.plan.ffn
        )

    # ------------------------------------------------------------------ head

    def plan_head(self) -> HeadTiles:
        """Equal tiles, an even number a core, columns a multiple of 8; the vocabulary is padded with zeros."""
        each = share(self.plan.vocab, self.chip.cores, 8)
        pairs = -(-each // (2 * self.chip.columns))
        columns = share(each, 2 * pairs, 8)
        spec = self.spec(self.plan.head, columns)
        core = 4 * columns * 2 * pairs
        return HeadTiles(spec, [], core * self.chip.cores, core, 0, 2 * pairs <= UNROLLED_TILES)

    def place_head(self, head: HeadTiles) -> None:
        columns, each = head.spec.columns, head.core_bytes // 4
        for c, image in enumerate(self.images):
            tiles = [
                image.tile(head.spec, [(self.plan.head.weight, at, at + columns)])
                for at in range(c * each, (c + 1) * each, columns)
            ]
            head.tiles = tiles
