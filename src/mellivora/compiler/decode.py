"""The decode entry: columns divided over the cores, activations exchanged four times a layer.

One token for each of up to `max_batch` sequences, each with a position and a place in the cache of
its own. Every core reads only its share of the weights; norms and quantisation are done by all,
redundantly, which costs less than sending their results.
"""

from __future__ import annotations

from mellivora.compiler.blocks import Quantised, Stream, gated
from mellivora.compiler.decode_attention import DecodeAttention
from mellivora.compiler.decoder import LayerConstants, Vectors
from mellivora.compiler.head import HeadTiles, place_head, plan_head
from mellivora.compiler.ir import CORE_ID, ScalarOp
from mellivora.compiler.kernel import Buffer, Tile
from mellivora.compiler.layout import DecodeParam, Win
from mellivora.compiler.plan import Layer, Linear
from mellivora.compiler.project import Segment
from mellivora.compiler.request import Request
from mellivora.compiler.rounding import share
from mellivora.isa.modes import Op


class Decode(DecodeAttention):
    """Emits the decode entry."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.hidden_share = share(self.plan.hidden, self.chip.cores, 4)
        self.ffn_share = share(self.plan.ffn, self.chip.cores, 4)

    def build(self) -> HeadTiles:
        k, plan = self.k, self.plan
        head = plan_head(plan, self.weights, self.chip)
        self.head_spec = head.spec
        self.exchange_buffers()
        self.common_buffers(self.group)
        head.base, image_units = k.reg(), k.reg()
        size = ScalarOp("li", image_units, 0)  # filled in when the image's size is known
        k.items.append(size)
        k.scalar("mul", head.base, CORE_ID, image_units)
        self.batch = k.parameter(int(DecodeParam.BATCH))
        self.head_registers()
        stream = self.open_ring(head.base, multicast=False)
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
            place_head(head, plan.head.weight, self.images)
            self.logits(head, constants, self.batch, 0, stream)
        size.a = head.image_units = self.images[0].size // 32
        return head

    def head_columns(self) -> int:
        return self.head_spec.columns

    def exchange_buffers(self) -> None:
        """Own parts, and one place for what all cores' parts make up, one exchange at a time."""
        k, rows, cores = self.k, self.rows_max, self.chip.cores
        self.own_out = k.alloc("own.out", 4 * rows * self.width)
        self.own_hidden = k.alloc("own.hidden", 4 * rows * self.hidden_share)
        self.own_ffn = [k.alloc(f"own.ffn{i}", 4 * rows * self.ffn_share) for i in range(2)]
        widest = max(self.width, self.hidden_share, self.ffn_share)
        self.everyone = k.alloc("everyone", 4 * rows * widest * cores)

    def feed_forward_buffers(self) -> None:
        """Gate and up stay in accumulators and in `own.ffn`."""

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

    def everywhere(self, name: str, size: int) -> Vectors:
        return [(name, [(0, size)] * len(self.images))]

    def spans(self, linear: Linear, width: int) -> list[list[Segment]]:
        """Core c's columns c*width .. (c+1)*width."""
        return [[(linear, c * width, (c + 1) * width)] for c in range(len(self.images))]

    def bias_spans(self, linear: Linear, width: int) -> Vectors:
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

    def layer_vectors(self, layer: Layer) -> Vectors:
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

    def residual(
        self, a: Quantised, linear: Linear, constants: LayerConstants, stream: Stream
    ) -> None:
        """x += a @ weight (+ bias): own columns, exchanged, added by all."""
        k, rows, pitch = self.k, self.batch, 4 * self.hidden_share

        def keep(first: int, cols: int, acc: Tile) -> None:
            own = Tile(self.own_hidden.at(4 * first), pitch)
            bias = constants.bias(linear.bias, first) if linear.bias is not None else None
            op = Op.NONE if bias is None else Op.ADD
            k.vew(own, acc, rows=rows, cols=cols, op1=op, b=bias)

        self.project(a, stream, self.spans(linear, self.hidden_share), rows, keep)
        self.exchange(self.own_hidden, self.everyone, self.hidden_share)
        total = Tile(self.everyone.at(), 4 * self.hidden_share * self.chip.cores)
        if self.y is not None:
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
            two_tiles = 2 * cols > self.chip.columns or self.weights.fmt(
                layer.gate.weight
            ) != self.weights.fmt(layer.up.weight)
            k.reserve_accumulators((1 + two_tiles) * self.rows_max)
            places: dict[int, Tile] = {}

            def take(at: int, count: int, acc: Tile, places: dict[int, Tile] = places) -> None:
                places[at] = acc

            self.project(
                self.a_ffn, stream, segments, rows, take, width=min(2 * cols, self.chip.columns)
            )
            gate = places[0]
            up = places.get(cols) or Tile(gate.ref.plus(4 * cols), gate.stride)
            sides: list[Tile] = []
            for linear, tile in ((layer.gate, gate), (layer.up, up)):
                if linear.bias is not None:
                    bias = constants.bias(linear.bias, first)
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
