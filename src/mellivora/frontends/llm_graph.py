"""The graph of a decoder-only language model, from its config and its tensors.

One builder for all families; what differs between them is a field of `LlmConfig`. Parameter names:

    embed   norm   head (absent when tied)   rope_factors (when frequencies are scaled)
    layers.{i}.attn_norm | q | k | v | o | q_norm | k_norm | post_attn_norm
    layers.{i}.ffn_norm | gate | up | down | post_ffn_norm          biases: {name}_bias
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np

from mellivora.errors import ModelError
from mellivora.frontends.llm_config import LlmConfig, RopeScaling
from mellivora.graph.ir import Builder, Graph, ParamSpec, Tensor

ShapeOnly = ParamSpec  # a parameter without data: ShapeOnly(fmt, shape)
BLOCK = 32


def parameter_shapes(config: LlmConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter's name and shape, in the order the model reads them.

    Matrices are [out_features, in_features]; norms and biases are vectors.
    """
    c = config
    q_width, kv_width = c.heads * c.head_dim, c.kv_heads * c.head_dim
    matrices = (
        ("q", q_width, c.hidden, c.qkv_bias),
        ("k", kv_width, c.hidden, c.qkv_bias),
        ("v", kv_width, c.hidden, c.qkv_bias),
        ("o", c.hidden, q_width, c.o_bias),
        ("gate", c.ffn, c.hidden, c.mlp_bias),
        ("up", c.ffn, c.hidden, c.mlp_bias),
        ("down", c.hidden, c.ffn, c.mlp_bias),
    )
    norms = ["attn_norm", "ffn_norm"]
    norms += ["post_attn_norm", "post_ffn_norm"] if c.post_norms else []
    yield "embed", (c.vocab, c.hidden)
    if c.rope_scaling.kind != "none":
        yield "rope_factors", (c.head_dim // 2,)
    for i in range(c.layers):
        for name in norms:
            yield f"layers.{i}.{name}", (c.hidden,)
        for name in ("q_norm", "k_norm") if c.qk_norm else ():
            yield f"layers.{i}.{name}", (c.head_dim,)
        for name, out_features, in_features, bias in matrices:
            yield f"layers.{i}.{name}", (out_features, in_features)
            if bias:
                yield f"layers.{i}.{name}_bias", (out_features,)
    yield "norm", (c.hidden,)
    if not c.tie_embeddings:
        yield "head", (c.vocab, c.hidden)


def build_graph(config: LlmConfig, params: Mapping[str, Tensor], *, name: str = "llm") -> Graph:
    """Inputs: ids, positions int32 [rows]; output: logits f32 [rows, vocab].

    params: arrays, block tensors or ParamSpecs by canonical name; "rope_factors" is worked out
    where the config says how. Raises ModelError MV0254 (one missing), MV0255 (of another shape).
    """
    tensors = dict(params)
    divisors = config.rope_scaling.divisors(config.head_dim, config.rope_theta)
    if divisors is not None:
        tensors.setdefault("rope_factors", np.array(divisors, np.float32))
    _check_params(config, tensors, name)
    meta = {"kind": "llm", "config": json.dumps(config.as_dict())}
    return _GraphMaker(config, tensors, Builder(name, meta=meta)).build()


def shape_model(config: LlmConfig, *, weight_format: str = "q4_0", name: str = "llm") -> Graph:
    """The same graph with parameters of known shape and format, and no data.

    weight_format: of the matrices whose width is a multiple of 32; vectors are f32. Raises
    ModelError MV0256 for a format that is not one of `numerics.FORMATS`.
    """
    from mellivora.numerics import FORMATS

    if weight_format not in FORMATS:
        raise ModelError(
            "MV0256",
            "unknown weight format",
            where=name,
            given=repr(weight_format),
            allowed=", ".join(FORMATS),
            hint="choose a format of the list",
        )
    params: dict[str, Tensor] = {}
    for parameter, shape in parameter_shapes(config):
        block = len(shape) == 2 and shape[1] % BLOCK == 0
        params[parameter] = ParamSpec(weight_format if block else "f32", shape)
    return build_graph(config, params, name=name)


def _check_params(config: LlmConfig, tensors: Mapping[str, Tensor], where: str) -> None:
    for name, shape in parameter_shapes(config):
        given = tensors.get(name)
        if given is None:
            raise ModelError(
                "MV0254",
                f"the model lacks the parameter {name!r}",
                where=where,
                given=f"{len(tensors)} parameters",
                allowed=f"{name} of shape {list(shape)}",
                hint="check that the model file is complete and of the family it claims",
            )
        check_shape(name, tuple(given.shape), shape, where)


def check_shape(name: str, given: tuple[int, ...], wanted: tuple[int, ...], where: str) -> None:
    """ModelError MV0255 where a parameter's shape is not what the configuration says."""
    if given != wanted:
        raise ModelError(
            "MV0255",
            f"the parameter {name!r} has a shape its configuration contradicts",
            where=where,
            given=str(list(given)),
            allowed=str(list(wanted)),
            hint="check that configuration and weights belong together",
        )


class _GraphMaker:
    """Walks the layers once; each method adds one part and returns the name of its result."""

    def __init__(self, config: LlmConfig, tensors: Mapping[str, Tensor], builder: Builder) -> None:
        self.config, self.tensors, self.b = config, tensors, builder
        self.positions = ""

    def build(self) -> Graph:
        c, b = self.config, self.b
        ids = b.input("ids", "int32", ("rows",))
        self.positions = b.input("positions", "int32", ("rows",))
        for name, _ in parameter_shapes(c):
            b.param(name, self.tensors[name])
        x = b.op("embedding", [ids, "embed"], name="embedded")
        if c.embedding_scale != 1.0:
            x = b.op("scale", [x], name="embedded_scaled", factor=c.embedding_scale)
        for i in range(c.layers):
            x = self.attention(i, x)
            x = self.feed_forward(i, x)
        x = self.norm(x, "norm", "final")
        capped = c.logit_softcap > 0.0
        head = "embed" if c.tie_embeddings else "head"
        logits = b.op("linear", [x, head], name="raw_logits" if capped else "logits")
        if capped:
            logits = b.op("softcap", [logits], name="logits", cap=c.logit_softcap)
        b.output(logits)
        return b.build()

    def attention(self, i: int, x: str) -> str:
        c, b = self.config, self.b
        h = self.norm(x, f"layers.{i}.attn_norm", f"l{i}.attn_in")
        q, k, v = (self.linear(h, f"layers.{i}.{part}", f"l{i}.{part}") for part in "qkv")
        q, k = self.rotated(i, q, "q"), self.rotated(i, k, "k")
        y = b.op(
            "attention",
            [q, k, v, self.positions],
            name=f"l{i}.attended",
            heads=c.heads,
            kv_heads=c.kv_heads,
            head_dim=c.head_dim,
            scale=c.attention_scale,
            layer=i,
            window=c.window if c.is_windowed(i) else 0,
            softcap=c.attention_softcap,
        )
        y = self.linear(y, f"layers.{i}.o", f"l{i}.o")
        if c.post_norms:
            y = self.norm(y, f"layers.{i}.post_attn_norm", f"l{i}.attn_out")
        return b.op("add", [x, y], name=f"l{i}.attn_residual")

    def rotated(self, i: int, x: str, part: str) -> str:
        """Query or key: normalised a head at a time where the model does so, then rotated."""
        c, b = self.config, self.b
        if c.qk_norm:
            size = c.head_dim
            x = self.norm(x, f"layers.{i}.{part}_norm", f"l{i}.{part}_normed", group_size=size)
        theta, scaling = c.layer_rope(i)
        factors = ["rope_factors"] if scaling != RopeScaling() else []
        attrs = {"head_dim": c.head_dim, "theta": theta, "style": c.rope_style}
        return b.op("rope", [x, self.positions, *factors], name=f"l{i}.{part}_rotated", **attrs)

    def feed_forward(self, i: int, x: str) -> str:
        c, b = self.config, self.b
        h = self.norm(x, f"layers.{i}.ffn_norm", f"l{i}.ffn_in")
        gate = self.linear(h, f"layers.{i}.gate", f"l{i}.gate")
        up = self.linear(h, f"layers.{i}.up", f"l{i}.up")
        gate = b.op(c.activation, [gate], name=f"l{i}.gate_active")
        y = b.op("mul", [gate, up], name=f"l{i}.gated")
        y = self.linear(y, f"layers.{i}.down", f"l{i}.down")
        if c.post_norms:
            y = self.norm(y, f"layers.{i}.post_ffn_norm", f"l{i}.ffn_out")
        return b.op("add", [x, y], name=f"l{i}.ffn_residual")

    def norm(self, x: str, gamma: str, name: str, *, group_size: int = 0) -> str:
        eps = self.config.norm_eps
        return self.b.op("rms_norm", [x, gamma], name=name, eps=eps, group_size=group_size)

    def linear(self, x: str, weight: str, name: str) -> str:
        bias = [f"{weight}_bias"] if f"{weight}_bias" in self.b else []
        return self.b.op("linear", [x, weight, *bias], name=name)
