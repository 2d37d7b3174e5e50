"""What prefill and decode of a decoder-only model share: buffers, queries and keys, cache, head.

`Decoder` owns the kernel under construction. Subclasses divide the work: `Prefill` gives each core a run of
rows, `Decode` gives each core a share of the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mellivora.compiler.attention import Attention, AttentionBuffers
from mellivora.compiler.blocks import (
    Quantised,
    Ring,
    Stream,
    matmul,
    norm_quantise,
    rms_scale,
    rotate,
    softcap,
    split,
)
from mellivora.compiler.ir import CORE_ID, Operand, Reg, Region
from mellivora.compiler.kernel import Buffer, Kernel, Ref, RowVec, Tile
from mellivora.compiler.layout import TILE_TOKENS, KvLayout, Win
from mellivora.compiler.pack import ALIGN_BYTES, Image, PackedTile, TileSpec, Weights
from mellivora.compiler.plan import DecoderPlan, Layer, Linear, Norm
from mellivora.isa.modes import Deq, Op
from mellivora.spec import ChipSpec

PANEL_COLUMNS = 256

DEQ = {
    "mxint8": Deq.MX1,
    "x2": Deq.MX2,
    "x3": Deq.MX3,
    "q8_0": Deq.Q8_0,
    "q4_0": Deq.Q4_0,
    "q4_1": Deq.Q4_1,
}


@dataclass(frozen=True)
class Slices:
    """Eight-bit slices of each kind of activation: inputs of qkv, softmax weights, input of o, of gate/up and
    down, of the head, and the KV cache (with the queries).
    """

    qkv: int
    weights: int
    out: int
    ffn: int
    head: int
    kv: int


@dataclass
class Tables:
    """Offsets (bytes) in the TABLES window: rotary tables by (theta, divisor), zeros, embedding rows."""

    rope: dict[tuple[float, str | None], int]
    zeros: int
    embed: int
    embed_pitch: int
    embed_format: str
    size: int


@dataclass
class Request:
    """What is compiled: model, chip, formats, limits."""

    plan: DecoderPlan
    weights: Weights
    chip: ChipSpec
    kv: KvLayout
    slices: Slices
    tables: Tables
    max_batch: int
    rows: int


@dataclass
class LayerConstants:
    """FP32 vectors of a layer in the scratchpad."""

    place: dict[str, Ref]

    def __getitem__(self, name: str) -> Ref:
        return self.place[name]


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
        """Everything but the ring, which takes what is left. What never lives at once shares its place."""
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
        # Two, for this layer and the next: they are read until the layer's end, so the ring would not do.
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

    def constants(
        self, names: list[tuple[str, list[tuple[int, int]]]], stream: Stream
    ) -> LayerConstants:
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

    def layer_vectors(self, layer: Layer) -> list[tuple[str, list[tuple[int, int]]]]:
        """Norm weights and biases that a layer needs, with what of them each image holds."""
        raise NotImplementedError

    def norm_vectors(self, layer: Layer) -> list[tuple[str, list[tuple[int, int]]]]:
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
        segments: list[list[tuple[Linear, int, int]]],
        rows: Operand,
        consume: Callable[[int, int, Tile], None],
        *,
        width: int = 0,
    ) -> None:
        """A @ weights for feature ranges laid side by side; segments: one list an image, of equal widths.

        consume(first, columns, accumulators) is called for each tile in order of virtual columns. A tile keeps
        to one storage format and at most `width` (default: the chip's) columns.
        """
        for run_first, run in _runs(segments, self.weights):
            total = sum(end - start for _, start, end in run[0])
            for first, end in split(total, width or self.chip.columns):
                tile = None
                for image, parts in zip(self.images, run, strict=True):
                    picked = _pick(parts, first, end)
                    tile = image.tile(self.spec(parts[0][0], end - first), picked)
                assert tile is not None
                consume(run_first + first, end - first, stream.matmul(a, tile, rows, self.rows_max))

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
        k, cols = self.k, self.plan.hidden
        rms_scale(k, self.y, self.scale, rows=rows, cols=cols, eps=norm.eps)
        k.vew(
            self.y,
            self.y,
            rows=rows,
            cols=cols,
            op1=Op.MUL,
            b=self.scale,
            op2=Op.MUL,
            c=Tile(constants[norm.gamma], 0),
        )
        k.vew(self.x, self.x, rows=rows, cols=cols, op1=Op.ADD, b=self.y)

    def head_norm(self, norm: Norm, constants: LayerConstants, x: Tile, rows: Operand) -> None:
        """x = rms_norm of each row of head_dim, in place."""
        rms_scale(self.k, x, self.head_scale, rows=rows, cols=self.head_dim, eps=norm.eps)
        self.k.vew(
            x,
            x,
            rows=rows,
            cols=self.head_dim,
            op1=Op.MUL,
            b=self.head_scale,
            op2=Op.MUL,
            c=Tile(constants[norm.gamma], 0),
        )

    def rotate(self, x: Tile, cos: Ref, stride: int, rows: Operand) -> None:
        half = Tile(cos, stride), Tile(cos.plus(2 * self.head_dim), stride)
        rotate(self.k, x, *half, self.rotation_temp, rows=rows, head_dim=self.head_dim)

    def spec(self, linear: Linear, columns: int) -> TileSpec:
        return TileSpec(
            self.weights.fmt(linear.weight), columns, self.weights.shape(linear.weight)[1] // 32
        )

    # ------------------------------------------------------------------ KV cache

    def store_kv(
        self,
        memory: str,
        *,
        codes: Ref,
        scales: Ref,
        v: Ref,
        v_scales: Ref,
        plane: int,
        v_plane: int,
        rows: Operand,
        offset: Reg,
        index: Operand,
    ) -> None:
        """Append rows of K and V to one tile: from token `index` of the tile at `offset` (units of 32 bytes)."""
        k, kv, hd = self.k, self.kv, self.head_dim
        far = Region(memory, 0, 1)
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
                    n=(4, rows, 8, hd // 32),
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
                n=(1, rows, hd // 32),
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
                n=(hd, rows, kv.slices),
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
                n=(1, rows),
                d=(1,),
                p=(1,),
                far=far,
            )

    def _plane(self, ref: Ref, distance: int) -> Ref:
        if ref.reg is None or distance == 0:
            return ref.plus(distance)
        reg = self.k.scalar("add", self.plane_reg, ref.reg, distance)
        return Ref(ref.buffer, ref.offset, reg)

    def attend(self, layer: Layer) -> Attention:
        return Attention(self.k, self.attention, self.kv, layer)

    # ------------------------------------------------------------------ head

    def head_rows(
        self,
        rows: Operand,
        row: Operand,
        head: HeadTiles,
        constants: LayerConstants,
        stream: Stream,
    ) -> None:
        """Logits of x's rows by this core's share of the vocabulary, stored from row `row` of LOGITS on."""
        k = self.k
        self.norm_to(self.a_head, self.plan.norm, constants, rows)
        with k.temps(1) as (out,):
            k.scalar("mul", out, CORE_ID, head.core_bytes // 32)
            if row != 0:
                with k.temps(1) as (down,):
                    k.scalar("mul", down, row, head.pitch_bytes // 32)
                    k.scalar("add", out, out, down)
            if head.unrolled:
                for i, tile in enumerate(head.tiles):
                    acc = stream.matmul(self.a_head, tile, rows, self.rows_max)
                    self._head_out(rows, out, head, acc, i % 2)
            else:
                self._head_loop(rows, out, head, stream)

    def _head_out(self, rows: Operand, out: Reg, head: HeadTiles, acc: Tile, i: int) -> None:
        k, columns = self.k, head.spec.columns
        result = Tile(self.results[i].at(), 4 * columns)
        if self.plan.logit_softcap:
            softcap(k, result, acc, rows=rows, cols=columns, cap=self.plan.logit_softcap, scale=1.0)
        else:
            k.vew(result, acc, rows=rows, cols=columns)
        k.dma(
            "store",
            result.ref,
            window=Win.LOGITS,
            offset=out,
            n=(4 * columns, rows),
            d=(head.pitch_bytes,),
            p=(4 * columns,),
            far=Region("logits", 0, 1),
        )
        k.scalar("add", out, out, 4 * columns // 32)

    def _head_loop(self, rows: Operand, out: Reg, head: HeadTiles, stream: Stream) -> None:
        """Two tiles an iteration; their weights go through four parts of the ring in turn."""
        k, spec, ring = self.k, head.spec, stream.ring.buffer
        part = ring.size // 4 // 64 * 64
        buffers = [Buffer(ring.root, ring.address + i * part, part) for i in range(4)]
        per_chunk = max(min(part // spec.block_bytes, spec.blocks), 1)
        with k.temps(1) as (fine,):
            k.scalar("li", fine, head.tiles[0].offset)
            with k.loop(len(head.tiles) // 2):
                turn = 0
                for i in range(2):
                    acc = k.accumulators(self.rows_max)
                    for first in range(0, spec.blocks, per_chunk):
                        count = min(per_chunk, spec.blocks - first)
                        size, buffer = count * spec.block_bytes, buffers[turn % 4]
                        turn += 1
                        k.dma(
                            "load",
                            buffer.at(),
                            window=Win.DECODE,
                            offset=head.base,
                            fine=fine,
                            n=(size,),
                        )
                        k.scalar("add", fine, fine, size)
                        matmul(
                            k,
                            acc,
                            self.a_head,
                            buffer.at(),
                            spec,
                            rows=rows,
                            first=first,
                            count=count,
                        )
                    if spec.size % ALIGN_BYTES:
                        k.scalar("add", fine, fine, ALIGN_BYTES - spec.size % ALIGN_BYTES)
                    self._head_out(rows, out, head, Tile(acc.at(), 4 * self.chip.columns), i)


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
    base: Reg = Reg(0)


def _runs(
    segments: list[list[tuple[Linear, int, int]]], weights: Weights
) -> Iterator[tuple[int, list[list[tuple[Linear, int, int]]]]]:
    """Neighbouring segments of one storage format: (first virtual column, segments of every image)."""
    first, count = 0, len(segments[0])
    start = 0
    while start < count:
        fmt = weights.fmt(segments[0][start][0].weight)
        end = start
        while end < count and weights.fmt(segments[0][end][0].weight) == fmt:
            end += 1
        yield first, [parts[start:end] for parts in segments]
        first += sum(stop - begin for _, begin, stop in segments[0][start:end])
        start = end


def _pick(parts: list[tuple[Linear, int, int]], first: int, end: int) -> list[tuple[str, int, int]]:
    """Feature ranges behind virtual columns first..end."""
    picked: list[tuple[str, int, int]] = []
    at = 0
    for linear, start, stop in parts:
        low, high = max(first, at), min(end, at + stop - start)
        if low < high:
            picked.append((linear.weight, start + low - at, start + high - at))
        at += stop - start
    return picked
