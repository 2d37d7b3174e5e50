"""The prefill entry: rows divided over the cores, weights multicast to all of them.

Each core carries its run of rows through every layer alone; cores meet only where keys and values
must be visible to all (one barrier a layer). Any number of rows up to `chunk` and any start
position: nothing is compiled again for another prompt length.
"""

from __future__ import annotations

from dataclasses import replace

from mellivora.compiler.blocks import Quantised, Stream, gated
from mellivora.compiler.decoder import LayerConstants, Vectors
from mellivora.compiler.head import HeadTiles
from mellivora.compiler.ir import Reg, Region
from mellivora.compiler.kernel import Tile
from mellivora.compiler.layout import PrefillParam, Win
from mellivora.compiler.plan import Layer, Linear
from mellivora.compiler.prefill_attention import PrefillAttention
from mellivora.compiler.project import Segment
from mellivora.isa.modes import Op


class Prefill(PrefillAttention):
    """Emits the prefill entry. `head` describes the decode image's output head."""

    def build(self, head: HeadTiles) -> None:
        k, plan, rows_max = self.k, self.plan, self.rows_max
        head = replace(head, unrolled=False)
        self.head_spec = head.spec
        self.common_buffers(self.group * rows_max)
        head.base = k.reg()
        self.registers(head)
        with k.named("embed", "embedding"):
            self.load_zeros()
            self.load_rope()
            with k.temps(1) as (token,):
                k.scalar("add", token, self.first_row, 0)
                k.scalar("add", token, token, int(PrefillParam.TOKEN))
                self.embed(self.rows, token)
        stream = self.open_ring(0, multicast=True)
        for index, layer in enumerate(plan.layers):
            self.layer(index, layer, stream)
        with k.named("head", "linear"):
            self.head(stream, head)

    def head_columns(self) -> int:
        return self.head_spec.columns

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
        for first in range(0, layer.kv_heads, self.heads_at_once):
            self.queries_keys_values(index, layer, first, constants, stream)
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

    def layer_vectors(self, layer: Layer) -> Vectors:
        vectors = self.norm_vectors(layer)
        for linear in (layer.q, layer.k, layer.v, layer.o, layer.gate, layer.up, layer.down):
            if linear.bias is not None:
                vectors.append(
                    (linear.bias, [(0, self.weights.graph.params[linear.bias].shape[0])])
                )
        return vectors

    def residual(
        self, a: Quantised, linear: Linear, constants: LayerConstants, stream: Stream
    ) -> None:
        """x += a @ weight (+ bias); with a post norm the sum waits in y."""
        k, rows, pitch = self.k, self.rows, 4 * self.plan.hidden

        def add(first: int, cols: int, acc: Tile) -> None:
            x = Tile(self.x.ref.plus(4 * first), pitch)
            out, old = x, x
            if self.y is not None:
                out, old = Tile(self.y.ref.plus(4 * first), pitch), None
            op = Op.NONE if old is None else Op.ADD
            if linear.bias is not None:
                bias = constants.bias(linear.bias, first)
                k.vew(out, acc, rows=rows, cols=cols, op1=Op.ADD, b=bias, op2=op, c=old)
            else:
                k.vew(out, acc, rows=rows, cols=cols, op1=op, b=old)

        hidden = [(linear, 0, self.plan.hidden)]
        self.project(a, stream, [hidden], rows, add)

    def feed_forward(self, layer: Layer, constants: LayerConstants, stream: Stream) -> None:
        """h = quantise(activation(gate) * up), a panel of features at a time."""
        k, rows, ffn = self.k, self.rows, self.plan.ffn
        for first in range(0, ffn, self.gate_width):
            cols = min(self.gate_width, ffn - first)
            two_tiles = self.weights.fmt(layer.gate.weight) != self.weights.fmt(layer.up.weight)
            k.reserve_accumulators((1 + two_tiles) * self.rows_max)
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

    def _wide_pair(self, spans: list[Segment], cols: int, stream: Stream) -> tuple[Tile, Tile]:
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
                bias = constants.bias(linear.bias, first)
                self.k.vew(tile, tile, rows=self.rows, cols=cols, op1=Op.ADD, b=bias)
            tiles.append(tile)
        return tiles[0], tiles[1]

    # ------------------------------------------------------------------ head

    def head(self, stream: Stream, head: HeadTiles) -> None:
        """Rows meet in DRAM; then cores share the vocabulary, a group of rows at a time."""
        k, hidden, rows_max = self.k, self.plan.hidden, self.rows_max
        memory = Region("hidden", 0, 1)
        constants = self.constants([(self.plan.norm.gamma, [(0, hidden)])], stream)
        with k.temps(5) as (at, wanted, groups, count, row):
            k.scalar("mul", at, self.first_row, hidden * 4 // 32)
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
                self.logits(head, constants, count, row, stream)
                k.scalar("add", at, at, rows_max * hidden * 4 // 32)
                k.scalar("add", row, row, rows_max)
                k.scalar("sub", wanted, wanted, rows_max)

    def divide_up(self, out: Reg, value: Reg, step: int) -> None:
        """out = ceil(value / step); step is a power of two."""
        self.k.scalar("add", out, value, step - 1)
        self.k.scalar("shr", out, out, step.bit_length() - 1)
