"""What prefill and decode of a decoder-only model share: buffers, embedding, norms, constants.

`Decoder` owns the kernel under construction. Subclasses divide the work: `Prefill` gives each core
a run of rows, `Decode` gives each core a share of the columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from mellivora.compiler.attention import Attention, AttentionBuffers
from mellivora.compiler.blocks import Quantised, Ring, Stream, norm_quantise, rms_scale, rotate
from mellivora.compiler.cache_append import CacheAppend
from mellivora.compiler.head import Head, HeadTiles
from mellivora.compiler.ir import Operand, Reg
from mellivora.compiler.kernel import Kernel, Ref, RowVec, Tile
from mellivora.compiler.layout import Win
from mellivora.compiler.pack import Image, TileSpec
from mellivora.compiler.plan import Layer, Norm
from mellivora.compiler.project import Segment, project
from mellivora.compiler.request import Request
from mellivora.isa.modes import Deq, Op

PANEL_COLUMNS = 256

DEQ = {
    "mxint8": Deq.MX1,
    "x2": Deq.MX2,
    "x3": Deq.MX3,
    "q8_0": Deq.Q8_0,
    "q4_0": Deq.Q4_0,
    "q4_1": Deq.Q4_1,
}


Vectors: TypeAlias = list[tuple[str, list[tuple[int, int]]]]
"""Names of FP32 parameters, each with the (start, end) of it that every image holds."""


@dataclass
class LayerConstants:
    """FP32 vectors of a layer in the scratchpad."""

    place: dict[str, Ref]

    def __getitem__(self, name: str) -> Ref:
        return self.place[name]

    def bias(self, name: str, first: int = 0) -> Tile:
        """Elements from `first` on, the same for every row."""
        return Tile(self.place[name].plus(4 * first), 0)


class Decoder:
    """Common emitter. rows_max: rows a core holds at once."""

    def __init__(
        self, request: Request, images: list[Image], stream_window: int, rows_max: int
    ) -> None:
        self.request, self.images, self.rows_max = request, images, rows_max
        self.plan, self.weights, self.kv = request.plan, request.weights, request.kv
        self.chip = request.chip
        self.k = Kernel(request.chip)
        self.stream_window = stream_window
        layer = self.plan.layers[0]
        self.group, self.head_dim = layer.group, layer.head_dim

    # ------------------------------------------------------------------ buffers

    def common_buffers(self, attention_rows: int) -> None:
        """Everything but the ring, which takes the rest. What never lives at once shares bytes."""
        k, plan, rows, use = self.k, self.plan, self.rows_max, self.request.slices
        hidden, layer = plan.hidden, plan.layers[0]
        self.x = Tile(k.alloc("x", 4 * rows * hidden).at(), 4 * hidden)
        self.panel = k.alloc("panel", 4 * rows * PANEL_COLUMNS)
        self.scale = RowVec(k.alloc("row_scale", 4 * rows).at(), 4)
        with k.overlay("operand", 2) as phase:
            phase()
            widest = Quantised.alloc(k, "normed", rows, hidden, max(use.qkv, use.ffn, use.head))
            self.a_qkv, self.a_ffn, self.a_head = (
                replace(widest, slices=n) for n in (use.qkv, use.ffn, use.head)
            )
            phase()
            self.attended = Quantised.alloc(
                k, "attended", rows, layer.heads * layer.head_dim, use.out
            )
        zero_floats = max(attention_rows, self.head_dim, 32)
        self.zeros = k.alloc("zeros", 4 * zero_floats)
        self.zero_bytes = 4 * zero_floats
        self.rope_tables = {
            key: k.alloc(f"rope{i}", 4 * rows * self.head_dim)
            for i, key in enumerate(self.request.tables.rope)
        }
        self.y: Tile | None = None
        """With norms behind attention or feed-forward: what these gave, before it is added to x."""
        if any(layer.post_attn_norm or layer.post_ffn_norm for layer in plan.layers):
            self.y = Tile(k.alloc("y", 4 * rows * hidden).at(), 4 * hidden)
        self.plane_reg = k.reg()
        with k.overlay("phase", 4) as phase:
            phase()
            self.landing = k.alloc("embedding", rows * self.request.tables.embed_pitch)
            phase()
            softcapped = any(layer.softcap for layer in plan.layers)
            self.attention = AttentionBuffers.alloc(
                k, attention_rows, self.kv, self.zeros, weight_slices=use.weights, scores=softcapped
            )
            head_rows = max(attention_rows, rows) + 1
            self.head_scale = RowVec(k.alloc("head_scale", 4 * head_rows).at(), 4)
            self.rotation_temp = Tile(
                k.alloc("rotation", 4 * max(rows, self.group + 1) * self.head_dim).at(),
                4 * self.head_dim,
            )
            self.attention_buffers()
            phase()
            self.h = Quantised.alloc(k, "h", rows, plan.ffn, use.ffn)
            self.feed_forward_buffers()
            phase()
            size = 4 * rows * self.head_columns()
            self.results = k.alloc("logits0", size), k.alloc("logits1", size)

    def attention_buffers(self) -> None:
        """Buffers between projection and attention."""
        raise NotImplementedError

    def feed_forward_buffers(self) -> None:
        """Buffers between gate and down."""
        raise NotImplementedError

    def head_columns(self) -> int:
        """Columns of a tile of the output head."""
        raise NotImplementedError

    def open_ring(self, base: Operand, *, multicast: bool) -> Stream:
        """The ring on all that is left of the scratchpad, and the stream that fills it."""
        vectors = [self.layer_vectors(layer) for layer in self.plan.layers]
        vectors.append([(self.plan.norm.gamma, [(0, self.plan.hidden)])])
        size = max(4 * sum(spans[0][1] - spans[0][0] for _, spans in names) for names in vectors)
        # Two, for this layer and the next: they are read until the layer's end, longer than what
        # goes through the ring.
        self.constant_buffers = [self.k.alloc(f"constants{i}", size) for i in range(2)]
        self.constant_turn = 0
        left = self.chip.sram_bytes - self.k.free_bytes
        ring = Ring(self.k.alloc("ring", max(left, 4 * self._smallest_chunk())))
        return Stream(self.k, ring, self.stream_window, base, multicast)

    def _smallest_chunk(self) -> int:
        names = [
            self.plan.head.weight,
            self.plan.layers[0].q.weight,
            self.plan.layers[0].down.weight,
        ]
        columns = min(self.chip.columns, 8)
        return max(TileSpec(self.weights.fmt(n), columns, 1).block_bytes for n in names)

    # ------------------------------------------------------------------ start

    def load_zeros(self) -> None:
        self.k.dma(
            "load",
            self.zeros.at(),
            window=Win.TABLES,
            offset=self.request.tables.zeros // 32,
            n=(self.zero_bytes,),
        )

    def embed(self, rows: Operand, first_token: Reg) -> None:
        """x = embedding rows of the tokens in parameter memory from index first_token (changed)."""
        k, tables, hidden = self.k, self.request.tables, self.plan.hidden
        fmt, pitch = tables.embed_format, tables.embed_pitch
        landing = self.landing
        with k.temps(2) as (near, token):
            k.scalar("li", near, landing.address)
            with k.loop(rows):
                k.scalar("ldp", token, first_token)
                k.scalar("mul", token, token, pitch // 32)
                k.scalar("add", token, token, tables.embed // 32)
                k.dma("load", landing.at(0, near), window=Win.TABLES, offset=token, n=(pitch,))
                k.scalar("add", near, near, pitch)
                k.scalar("add", first_token, first_token, 1)
        if fmt == "f32":
            source = Tile(landing.at(), pitch)
            k.vew(self.x, source, rows=rows, cols=hidden)
        else:
            codes = (
                hidden // 2 if fmt in ("q4_0", "q4_1") else hidden * {"x2": 2, "x3": 3}.get(fmt, 1)
            )
            k.vdeq(
                self.x,
                Tile(landing.at(), pitch),
                Tile(landing.at(codes), pitch),
                rows=rows,
                cols=hidden,
                fmt=DEQ[fmt],
                plane=hidden,
            )
        if self.plan.embedding_scale != 1.0:
            k.vew(self.x, self.x, rows=rows, cols=hidden, op1=Op.MUL, b=self.plan.embedding_scale)

    # ------------------------------------------------------------------ per layer

    def constants(self, names: Vectors, stream: Stream) -> LayerConstants:
        """FP32 vectors side by side in one LOAD; each name with its (start, end) in every image."""
        at = size = 0
        for i, image in enumerate(self.images):
            at, size = image.constant([(name, *spans[i]) for name, spans in names])
        ref = self.constant_buffers[self.constant_turn % 2].at()
        self.constant_turn += 1
        stream.load(ref, at, size)
        place: dict[str, Ref] = {}
        offset = 0
        for name, spans in names:
            place[name] = ref.plus(offset)
            offset += 4 * (spans[0][1] - spans[0][0])
        return LayerConstants(place)

    def layer_vectors(self, layer: Layer) -> Vectors:
        """Norm weights and biases that a layer needs, with what of them each image holds."""
        raise NotImplementedError

    def norm_vectors(self, layer: Layer) -> Vectors:
        """Norm weights of a layer, whole in every image."""
        hidden, head = self.plan.hidden, self.head_dim
        sized = [
            (layer.attn_norm, hidden),
            (layer.ffn_norm, hidden),
            (layer.q_norm, head),
            (layer.k_norm, head),
            (layer.post_attn_norm, hidden),
            (layer.post_ffn_norm, hidden),
        ]
        return [(n.gamma, [(0, size)] * len(self.images)) for n, size in sized if n is not None]

    def project(
        self,
        a: Quantised,
        stream: Stream,
        segments: list[list[Segment]],
        rows: Operand,
        consume: Callable[[int, int, Tile], None],
        *,
        width: int = 0,
    ) -> None:
        """`project.project` with this model's weights into these images."""
        project(
            a,
            stream,
            segments,
            rows,
            consume,
            weights=self.weights,
            images=self.images,
            rows_max=self.rows_max,
            width=width,
        )

    def norm_to(self, a: Quantised, norm: Norm, constants: LayerConstants, rows: Operand) -> None:
        norm_quantise(
            self.k,
            self.x,
            constants[norm.gamma],
            a,
            rows=rows,
            eps=norm.eps,
            scale=self.scale,
            panel=self.panel,
            panel_cols=PANEL_COLUMNS,
        )

    def add_normed(self, norm: Norm, constants: LayerConstants, rows: Operand) -> None:
        """x += rms_norm(y) * gamma."""
        k, y, cols, gamma = self.k, self.y, self.plan.hidden, constants.bias(norm.gamma)
        assert y is not None
        rms_scale(k, y, self.scale, rows=rows, cols=cols, eps=norm.eps)
        k.vew(y, y, rows=rows, cols=cols, op1=Op.MUL, b=self.scale, op2=Op.MUL, c=gamma)
        k.vew(self.x, self.x, rows=rows, cols=cols, op1=Op.ADD, b=y)

    def head_norm(self, norm: Norm, constants: LayerConstants, x: Tile, rows: Operand) -> None:
        """x = rms_norm of each row of head_dim, in place."""
        cols, scale, gamma = self.head_dim, self.head_scale, constants.bias(norm.gamma)
        rms_scale(self.k, x, scale, rows=rows, cols=cols, eps=norm.eps)
        self.k.vew(x, x, rows=rows, cols=cols, op1=Op.MUL, b=scale, op2=Op.MUL, c=gamma)

    def rotate(self, x: Tile, cos: Ref, stride: int, rows: Operand) -> None:
        half = Tile(cos, stride), Tile(cos.plus(2 * self.head_dim), stride)
        rotate(self.k, x, *half, self.rotation_temp, rows=rows, head_dim=self.head_dim)

    def cache_append(self, memory: str) -> CacheAppend:
        return CacheAppend(self.k, self.kv, self.plane_reg, memory)

    def attend(self, layer: Layer) -> Attention:
        return Attention(self.k, self.attention, self.kv, layer)

    def logits(
        self,
        head: HeadTiles,
        constants: LayerConstants,
        rows: Operand,
        row: Operand,
        stream: Stream,
    ) -> None:
        """Logits of x's rows by this core's share of the vocabulary, to LOGITS from row `row`."""
        self.norm_to(self.a_head, self.plan.norm, constants, rows)
        cap = self.plan.logit_softcap
        Head(self.k, head, self.a_head, self.results, self.rows_max, cap).run(rows, row, stream)
