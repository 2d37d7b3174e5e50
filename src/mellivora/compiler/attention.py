"""Fused attention: keys and values stream in fixed tiles of 128 tokens, softmax runs online.

Two tiles an iteration, so that MATRIX works on one while VECTOR works on the other. The order of
arithmetic in a row is fixed by the tiles' positions alone. A tile that lies wholly past a row's
limit changes nothing: its weights are exactly zero and the running maximum stays. V's scales (one a
token) are multiplied into the softmax weights before those are quantised; what is left of V are
integers.
"""

from __future__ import annotations

from dataclasses import dataclass

from mellivora.compiler.blocks import LOG2E, Quantised, softcap
from mellivora.compiler.ir import Operand, Reg, Region
from mellivora.compiler.kernel import Buffer, Exponents, Kernel, Mask, Ref, RowVec, Tile
from mellivora.compiler.layout import TILE_TOKENS, KvLayout, Win
from mellivora.compiler.plan import Layer
from mellivora.isa.modes import BFormat, Func, Op, Reduce, matmul_mode

LOWEST = -1e30
"""Start of the running maximum: finite, so a row masked in its first tiles stays free of NaN."""


@dataclass
class AttentionBuffers:
    """Scratchpad of one attention, for at most `rows` query rows (heads of a group x tokens)."""

    rows: int
    kv: tuple[Buffer, Buffer]
    weights: tuple[Quantised, Quantised]
    p: Buffer
    s: tuple[Buffer, Buffer] | None
    state: dict[str, Buffer]
    out: Buffer
    zeros: Buffer

    @staticmethod
    def alloc(
        kernel: Kernel, rows: int, kv: KvLayout, zeros: Buffer, *, weight_slices: int, scores: bool
    ) -> AttentionBuffers:
        tile = TILE_TOKENS
        need_s = scores or tile > kernel.chip.columns
        names = ("m0", "m1", "sum", "tile_max", "tile_sum", "alpha0", "alpha1")
        return AttentionBuffers(
            rows,
            (kernel.alloc("kv0", kv.tile_bytes), kernel.alloc("kv1", kv.tile_bytes)),
            (
                Quantised.alloc(kernel, "p0", rows, tile, weight_slices),
                Quantised.alloc(kernel, "p1", rows, tile, weight_slices),
            ),
            kernel.alloc("p", 4 * rows * tile),
            (kernel.alloc("s0", 4 * rows * tile), kernel.alloc("s1", 4 * rows * tile))
            if need_s
            else None,
            {name: kernel.alloc(f"attn.{name}", 4 * rows) for name in names},
            kernel.alloc("attn.out", 4 * rows * kv.head_dim),
            zeros,
        )


class Attention:
    """Emits one attention over `tile_pairs` pairs of KV tiles."""

    def __init__(
        self, kernel: Kernel, buffers: AttentionBuffers, kv: KvLayout, layer: Layer
    ) -> None:
        self.kernel, self.buffers, self.kv, self.layer = kernel, buffers, kv, layer

    def run(
        self,
        *,
        rows: Operand,
        tokens: Operand,
        q: Ref,
        q_scales: Ref,
        q_plane: int,
        limit: Reg,
        offset: Reg,
        tile_pairs: Operand,
        memory: str,
    ) -> tuple[Tile, RowVec]:
        """(unnormalised output [rows, head_dim], factor a row that normalises it).

        rows: query rows, row h*tokens + t belongs to token t; q: A operand rows of head_dim; limit:
        columns of tile 0 that row 0 sees (its position + 1), changed; offset: of tile 0 in units of
        32 bytes, changed.
        """
        k, b, kv = self.kernel, self.buffers, self.kv
        self.rows, self.tokens, self.limit = rows, tokens, limit
        zero = Tile(b.zeros.at(), 0)
        line = {name: Tile(buffer.at(), 0) for name, buffer in b.state.items()}
        out = Tile(b.out.at(), 4 * kv.head_dim)
        k.vew(line["m0"], zero, rows=1, cols=rows, op1=Op.ADD, b=LOWEST)
        k.vew(line["sum"], zero, rows=1, cols=rows)
        k.vew(out, zero, rows=rows, cols=kv.head_dim)
        with k.loop(tile_pairs):
            for buffer in b.kv:
                k.dma(
                    "load",
                    buffer.at(),
                    window=Win.KV,
                    offset=offset,
                    n=(kv.tile_bytes,),
                    far=Region(memory, 0, 1),
                )
                k.scalar("add", offset, offset, kv.tile_bytes // 32)
            if k.chip.columns >= TILE_TOKENS:  # both tiles' scores stay in accumulators for a while
                panels = -(-kv.head_dim // k.chip.columns)
                k.reserve_accumulators((2 if panels == 1 else 2 + panels) * b.rows)
            scores = [self._scores(i, q, q_scales, q_plane) for i in range(2)]
            for i, (tile, acc) in enumerate(scores):
                self._softmax(i, tile)
                self._weighted(i, acc)
            for i, (_, acc) in enumerate(scores):
                if acc is not None and kv.head_dim <= k.chip.columns:
                    self._accumulate(i, 0, kv.head_dim, Tile(acc.at(), 4 * k.chip.columns))
        # The sum is of true weights, the products lack V's 2^-6: both go into one factor, exactly.
        k.vew(line["tile_sum"], line["sum"], rows=1, cols=rows, op1=Op.MUL, b=64.0, func=Func.RECIP)
        return out, self._rowvec("tile_sum")

    def _rowvec(self, name: str) -> RowVec:
        return RowVec(self.buffers.state[name].at(), 4)

    def _scores(self, i: int, q: Ref, q_scales: Ref, q_plane: int) -> tuple[Tile, Buffer | None]:
        """Q @ K of tile i, and the accumulators it stays in (None: copied to the scratchpad)."""
        k, kv, b, rows = self.kernel, self.kv, self.buffers, self.rows
        mode = matmul_mode(BFormat.MX8, a_slices=kv.slices, b_slices=kv.slices)
        width = min(k.chip.columns, TILE_TOKENS)
        fits = width == TILE_TOKENS
        scores = None
        for first in range(0, TILE_TOKENS, width):
            acc = k.accumulators(b.rows)
            k.put(
                "matmul",
                [
                    k.acc_row(acc),
                    q.operand,
                    q_scales.operand,
                    b.kv[i].address,
                    rows,
                    kv.head_dim // 32,
                    width,
                    mode,
                ],
                (kv.head_dim, q_plane, kv.head_dim // 32, TILE_TOKENS, first, kv.k_block_bytes),
                reads=(q.region(None), q_scales.region(None), b.kv[i].at().region(kv.k_bytes)),
                writes=(acc.at().region(None),),
            )
            scores = Tile(acc.at(), 4 * k.chip.columns)
            if b.s is None:
                return scores, acc
            target = Tile(b.s[i].at(4 * first), 4 * TILE_TOKENS)
            if self.layer.softcap:
                softcap(
                    k,
                    target,
                    scores,
                    rows=rows,
                    cols=width,
                    cap=self.layer.softcap,
                    scale=self.layer.scale,
                )
            else:
                k.vew(target, scores, rows=rows, cols=width)
            if fits:
                return Tile(b.s[i].at(), 4 * TILE_TOKENS), acc
        assert b.s is not None
        return Tile(b.s[i].at(), 4 * TILE_TOKENS), None

    def _softmax(self, i: int, scores: Tile) -> None:
        """Weights of tile i: masked, relative to the new maximum, times V's scales, quantised."""
        k, b, kv, rows = self.kernel, self.buffers, self.kv, self.rows
        factor = LOG2E * (1.0 if self.layer.softcap else self.layer.scale)
        mask = Mask(self.limit, self.tokens, self.layer.window)
        line = {name: Tile(buffer.at(), 0) for name, buffer in b.state.items()}
        old, new, alpha = line[f"m{i}"], line[f"m{1 - i}"], line[f"alpha{i}"]
        p = Tile(b.p.at(), 4 * TILE_TOKENS)
        k.vred(
            self._rowvec("tile_max"), scores, rows=rows, cols=TILE_TOKENS, op=Reduce.MAX, mask=mask
        )
        k.vew(new, line["tile_max"], rows=1, cols=rows, op1=Op.MUL, b=factor, op2=Op.MAX, c=old)
        k.vew(
            p,
            scores,
            rows=rows,
            cols=TILE_TOKENS,
            op1=Op.MUL,
            b=factor,
            op2=Op.SUB,
            c=RowVec(new.ref, 4),
            func=Func.EXP2,
            mask=mask,
        )
        exponents = Exponents(b.kv[i].at(kv.v_scale_at), 0)
        b.weights[i].write(k, p, rows=rows, cols=TILE_TOKENS, b=exponents)
        # The product can start now; what follows is bookkeeping in its shadow.
        k.vew(alpha, old, rows=1, cols=rows, op1=Op.SUB, b=new, func=Func.EXP2)
        k.vred(self._rowvec("tile_sum"), p, rows=rows, cols=TILE_TOKENS, op=Reduce.SUM)
        k.vew(
            line["sum"],
            line["sum"],
            rows=1,
            cols=rows,
            op1=Op.MUL,
            b=alpha,
            op2=Op.ADD,
            c=line["tile_sum"],
        )
        k.scalar("sub", self.limit, self.limit, TILE_TOKENS)

    def _weighted(self, i: int, acc: Buffer | None) -> None:
        """P @ V of tile i. Where it fits the scores' accumulators, the output takes it up later."""
        k, b, kv = self.kernel, self.buffers, self.kv
        weights, width = b.weights[i], min(k.chip.columns, kv.head_dim)
        mode = matmul_mode(BFormat.ROWS, a_slices=weights.slices, b_slices=kv.slices)
        whole = acc is not None and width == kv.head_dim
        for first in range(0, kv.head_dim, width):
            cols = min(width, kv.head_dim - first)
            target = acc if whole and acc is not None else k.accumulators(b.rows)
            values = b.kv[i].at(kv.k_bytes + first)
            k.put(
                "matmul",
                [
                    k.acc_row(target),
                    weights.codes.address,
                    weights.scales.address,
                    values.operand,
                    self.rows,
                    TILE_TOKENS // 32,
                    cols,
                    mode,
                ],
                (
                    TILE_TOKENS,
                    weights.plane,
                    TILE_TOKENS // 32,
                    kv.head_dim,
                    TILE_TOKENS * kv.head_dim,
                    0,
                ),
                reads=(
                    weights.codes.at().region(None),
                    weights.scales.at().region(None),
                    b.kv[i].at(kv.k_bytes).region(kv.v_scale_at - kv.k_bytes),
                ),
                writes=(target.at().region(None),),
            )
            if not whole:
                self._accumulate(i, first, cols, Tile(target.at(), 4 * k.chip.columns))

    def _accumulate(self, i: int, first: int, cols: int, product: Tile) -> None:
        """out = out * alpha + product, for columns first..first+cols."""
        at = Tile(self.buffers.out.at(4 * first), 4 * self.kv.head_dim)
        self.kernel.vew(
            at,
            at,
            rows=self.rows,
            cols=cols,
            op1=Op.MUL,
            b=self._rowvec(f"alpha{i}"),
            op2=Op.ADD,
            c=product,
        )
