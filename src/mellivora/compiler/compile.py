"""The pipeline: a flat list of named passes from a graph to a program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mellivora.compiler.decode import Decode
from mellivora.compiler.decoder import Decoder
from mellivora.compiler.emit import emit
from mellivora.compiler.head import HeadTiles
from mellivora.compiler.hoist import hoist
from mellivora.compiler.ir import text as low_text
from mellivora.compiler.kernel import NoRoom
from mellivora.compiler.layout import (
    MAX_BATCH,
    TILE_TOKENS,
    KvLayout,
    decode_parameters,
    prefill_parameters,
)
from mellivora.compiler.pack import Bytes, Image, Weights, pack_image
from mellivora.compiler.plan import DecoderPlan, fuse
from mellivora.compiler.prefill import Prefill
from mellivora.compiler.request import Request, Slices
from mellivora.compiler.sync import sync
from mellivora.compiler.tables import plan_tables, tables_image
from mellivora.errors import CompileError
from mellivora.graph.ir import Graph
from mellivora.graph.verify import verify
from mellivora.isa.assembler import disassemble
from mellivora.isa.control import words_of
from mellivora.isa.program import Entry, Program, Window
from mellivora.spec import ChipSpec

PASSES = ("verify", "quantise", "fuse", "tile", "hoist", "sync", "emit")
"""In this order; `dump_after` takes one of these names."""

ACTIVATIONS = {
    "mxint8": Slices(qkv=2, weights=2, out=2, ffn=1, head=2, kv=1),
    "mxint8-only": Slices(qkv=1, weights=1, out=1, ffn=1, head=1, kv=1),
    "x2": Slices(qkv=2, weights=2, out=2, ffn=2, head=2, kv=2),
    "x3": Slices(qkv=3, weights=3, out=3, ffn=3, head=3, kv=3),
}
"""Precision of activations by name. "mxint8" keeps the KV cache and the feed-forward part (most of
the work) in MXINT8 and gives the few sensitive inputs a second slice: docs/design/0004.
"""
ROWS_PER_CORE = (32, 16, 8, 4, 2, 1)

Dump = Callable[[str], None]


@dataclass
class Compiled:
    """A program and what the runtime needs beside it."""

    program: Program
    images: dict[str, Bytes]
    kv: KvLayout
    slots: int
    chunk: int
    rows_per_core: int
    logits_pitch: int
    vocab: int
    context: int
    notes: list[str] = field(default_factory=list)
    buffers: dict[str, list[tuple[str, int, int]]] = field(default_factory=dict)
    """Scratchpad of each entry: (buffer, address, bytes)."""


def compile_model(
    graph: Graph,
    chip: ChipSpec,
    *,
    activations: str = "mxint8",
    max_batch: int = 8,
    context: int = 2048,
    dump_after: str | None = None,
    dump: Dump = print,
) -> Compiled:
    """Compile a decoder-only language model for `chip`.

    activations: format of activations and of the KV cache (mxint8, x2, x3). context: positions a
    sequence may have. Raises CompileError MV04xx.
    """
    if activations not in ACTIVATIONS:
        raise CompileError(
            "MV0420",
            "no such activation format",
            given=activations,
            allowed=", ".join(ACTIVATIONS),
            hint="choose one of these",
        )
    if not 1 <= max_batch <= MAX_BATCH:
        raise CompileError(
            "MV0421",
            "the batch is out of range",
            given=str(max_batch),
            allowed=f"1..{MAX_BATCH}",
            hint="choose a smaller batch",
        )
    if dump_after is not None and dump_after not in PASSES:
        raise CompileError(
            "MV0422",
            "no such pass",
            given=dump_after,
            allowed=", ".join(PASSES),
            hint="name one of these passes",
        )
    slices = ACTIVATIONS[activations]

    def after(name: str, show: Callable[[], str]) -> None:
        if dump_after == name:
            dump(show())

    verify(graph)
    after("verify", lambda: str(graph))
    weights = Weights(graph, "x3" if slices.ffn == 3 else "x2")
    after("quantise", lambda: "\n".join(f"{n}: {weights.fmt(n)}" for n in _matrices(graph)))
    plan = fuse(graph)
    after("fuse", lambda: str(plan))
    request = _request(plan, weights, chip, slices, max_batch, context)
    decode = Decode(request)
    head = decode.build()
    prefill, image = _prefill(request, head)
    after("tile", lambda: _low(decode) + "\n" + _low(prefill))
    emitters: dict[str, Decoder] = {"prefill": prefill, "decode": decode}
    for emitter in emitters.values():
        emitter.k.items = hoist(emitter.k.items)
    after("hoist", lambda: _low(decode) + "\n" + _low(prefill))
    for emitter in emitters.values():
        emitter.k.items = sync(emitter.k.items)
    after("sync", lambda: _low(decode) + "\n" + _low(prefill))
    chunk = request.rows * chip.cores
    entries: dict[str, Entry] = {}
    for name, emitter in emitters.items():
        code, symbols = emit(emitter.k.items, emitter.k.labels)
        parameters = (
            prefill_parameters(chunk) if name == "prefill" else decode_parameters(max_batch)
        )
        entries[name] = Entry(
            code, symbols, parameters, check_points=_check_points(name, request, chunk)
        )
    after("emit", lambda: "\n".join(_assembly(name, entry) for name, entry in entries.items()))

    compiled = Compiled(
        _program(graph, request, entries, decode, image, head.pitch_bytes, chunk),
        {},
        request.kv,
        max_batch,
        chunk,
        request.rows,
        head.pitch_bytes // 4,
        plan.vocab,
        context,
    )
    for name, emitter in emitters.items():
        compiled.buffers[name] = [(n, b.address, b.size) for n, b in emitter.k.buffers.items()]
    if not weights.shapes_only:
        images = np.concatenate([pack_image(one, weights) for one in decode.images])
        compiled.images = {
            "decode": images,
            "prefill": pack_image(image, weights),
            "tables": tables_image(request.tables, plan, weights, request.kv.head_dim, context),
        }
        compiled.notes = weights.notes
    return compiled


def _matrices(graph: Graph) -> list[str]:
    return [name for name, tensor in graph.params.items() if len(tensor.shape) == 2]


def _low(emitter: Decoder) -> str:
    return low_text(emitter.k.items, [label for label, _ in emitter.k.labels])


def _assembly(name: str, entry: Entry) -> str:
    return f"; {name}\n" + "\n".join(disassemble(word) for word in words_of(entry.code))


def _request(
    plan: DecoderPlan,
    weights: Weights,
    chip: ChipSpec,
    slices: Slices,
    max_batch: int,
    context: int,
) -> Request:
    """Limits that hold for the whole model, checked here so that kernels need not."""
    layer = plan.layers[0]
    faults: list[str] = []
    if layer.head_dim % 32:
        faults.append(f"head_dim {layer.head_dim} is no multiple of 32")
    for name, value in (("hidden", plan.hidden), ("ffn", plan.ffn)):
        if value % 32:
            faults.append(f"{name} {value} is no multiple of 32")
    if any(
        (one.heads, one.kv_heads, one.head_dim) != (layer.heads, layer.kv_heads, layer.head_dim)
        for one in plan.layers
    ):
        faults.append("layers differ in heads or head_dim")
    if faults:
        raise CompileError(
            "MV0423",
            "the model's shape does not fit the chip's blocks of 32",
            given="; ".join(faults),
            hint="pad the model",
        )
    wanted = {weights.fmt(name) for name in _matrices(weights.graph)} - {"f32"}
    lacking = sorted(fmt for fmt in wanted if fmt not in chip.formats)
    if not chip.has_fp_vector or lacking or chip.dram_kind == "none":
        what = f"formats {', '.join(lacking)}" if lacking else "an FP32 VECTOR engine and DRAM"
        raise CompileError(
            "MV0424",
            "this chip cannot run a language model of these formats",
            where=chip.name,
            given=f"lacks {what}",
            hint="choose another chip: nano, micro or m1",
        )
    kv = KvLayout(len(plan.layers), layer.kv_heads, layer.head_dim, slices.kv, context)
    return Request(
        plan,
        weights,
        chip,
        kv,
        slices,
        plan_tables(plan, weights, layer.head_dim, context),
        max_batch,
        0,
    )


def _prefill(request: Request, head: HeadTiles) -> tuple[Prefill, Image]:
    """Prefill with as many rows a core as the scratchpad and the accumulators hold."""
    last: NoRoom | None = None
    for rows in ROWS_PER_CORE:
        request.rows = rows
        image = Image()
        try:
            prefill = Prefill(request, [image], 1, rows)
            prefill.build(head)
        except NoRoom as error:
            last = error
            continue
        return prefill, image
    assert last is not None
    raise last


def _check_points(name: str, request: Request, chunk: int) -> list[dict[str, int]]:
    """Settings on which the checker proves the entry: smallest, boundary, largest."""
    context = request.kv.context
    if name == "prefill":
        rows = sorted({1, min(request.rows + 1, chunk), min(chunk, context)})
        points = [{"rows": r, "position": 0, "head_first": r - 1, "head_rows": 1} for r in rows]
        tail = min(chunk, TILE_TOKENS // 2 + 3, max(context - TILE_TOKENS + 5, 1))
        start = min(TILE_TOKENS - 5, context - tail)
        return [*points, {"rows": tail, "position": start, "head_first": 0, "head_rows": tail}]
    points = [{"batch": 1}, {"batch": 1, "position.0": min(2 * TILE_TOKENS, context - 1)}]
    full: dict[str, int] = {"batch": request.max_batch}
    for i in range(request.max_batch):
        full[f"position.{i}"] = min(i * (TILE_TOKENS - 1), context - 1)
        full[f"kv_base.{i}"] = i * request.kv.slot_units
    return [*points, full]


def _program(
    graph: Graph,
    request: Request,
    entries: dict[str, Entry],
    decode: Decode,
    image: Image,
    logits_pitch_bytes: int,
    chunk: int,
) -> Program:
    kv, chip = request.kv, request.chip
    rows = max(chunk, request.max_batch)
    windows = [
        Window("decode", decode.images[0].size * chip.cores, False, "weights", (("decode", 0),)),
        Window("prefill", image.size, False, "weights", (("prefill", 0),)),
        Window("tables", request.tables.size, False, "constants", (("tables", 0),)),
        Window("kv", kv.slot_units * 32 * request.max_batch, True, "kv"),
        Window("hidden", chunk * request.plan.hidden * 4, True, "scratch"),
        Window("logits", rows * logits_pitch_bytes, True, "io"),
    ]
    total = sum(window.bytes for window in windows)
    if total > chip.dram_bytes:
        raise CompileError(
            "MV0426",
            "the model does not fit the chip's memory",
            where=chip.name,
            given=f"{total / 2**30:.2f} GiB",
            allowed=f"{chip.dram_bytes / 2**30:.2f} GiB",
            hint="use a smaller context or batch, a narrower weight format, or more chips",
        )
    meta = {
        "kind": "llm",
        "slices": kv.slices,
        "context": kv.context,
        "max_batch": request.max_batch,
        "chunk": chunk,
        "rows_per_core": request.rows,
        "logits_pitch": logits_pitch_bytes // 4,
        "vocab": request.plan.vocab,
        "kv": [kv.layers, kv.kv_heads, kv.head_dim],
    }
    return Program(graph.name, chip, entries, windows, meta)
