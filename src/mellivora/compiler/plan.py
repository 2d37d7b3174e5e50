"""Pass `fuse`: recognise the decoder layers of a graph and name what each consists of.

The graph is matched by structure (who feeds whom), not by node names, so that any frontend's graph
with the same dataflow fuses. What does not match is an error that names the node: nothing falls
back silently.
"""

from __future__ import annotations

from dataclasses import dataclass

from mellivora.errors import CompileError
from mellivora.graph.ir import Graph, Node


@dataclass(frozen=True)
class Norm:
    """RMSNorm: parameter name and epsilon."""

    gamma: str
    eps: float


@dataclass(frozen=True)
class Linear:
    """y = x @ weight.T (+ bias): parameter names."""

    weight: str
    bias: str | None = None


@dataclass(frozen=True)
class Layer:
    """One decoder layer, all of it."""

    attn_norm: Norm
    q: Linear
    k: Linear
    v: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    rope: tuple[float, str | None]  # theta, name of the divisor parameter
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int
    softcap: float
    o: Linear
    post_attn_norm: Norm | None
    ffn_norm: Norm
    gate: Linear
    up: Linear
    activation: str
    down: Linear
    post_ffn_norm: Norm | None

    @property
    def group(self) -> int:
        """Query heads for each key head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True)
class DecoderPlan:
    """A decoder-only model: embedding, layers, final norm, head."""

    embed: str
    embedding_scale: float
    layers: tuple[Layer, ...]
    norm: Norm
    head: Linear
    logit_softcap: float
    hidden: int
    ffn: int
    vocab: int

    def __str__(self) -> str:
        lines = [f"embed {self.embed} x{self.embedding_scale} -> {self.hidden}"]
        lines += [f"layer {i}: {layer}" for i, layer in enumerate(self.layers)]
        return "\n".join([*lines, f"{self.norm} {self.head} softcap={self.logit_softcap}"])


def _number(node: Node, name: str) -> float:
    """A number among the attributes; the verifier has seen that it is one."""
    value = node.attrs[name]
    assert isinstance(value, int | float)
    return value


def _optional(node: Node, index: int) -> str | None:
    """The name of an operand that may be left out."""
    return (node.inputs[index] or None) if index < len(node.inputs) else None


class _Matcher:
    """Walks from results to operands."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made = {out: node for node in graph.nodes for out in node.outputs}

    def fail(self, node: Node | None, expected: str) -> CompileError:
        return CompileError(
            "MV0410",
            "this graph is not a decoder that the chip's language-model pipeline can run",
            where=node.where if node else self.graph.name,
            given=node.op if node else "end of graph",
            allowed=expected,
            hint="`mellivora ops` lists what runs on the chip",
        )

    def producer(self, name: str, *ops: str) -> Node:
        node = self.made.get(name)
        if node is None or node.op not in ops:
            raise self.fail(node, " or ".join(ops))
        return node

    def linear(self, name: str) -> tuple[Linear, str]:
        node = self.producer(name, "linear")
        return Linear(node.inputs[1], _optional(node, 2)), node.inputs[0]

    def norm(self, name: str) -> tuple[Norm, str]:
        node = self.producer(name, "rms_norm")
        return Norm(node.inputs[1], float(_number(node, "eps"))), node.inputs[0]

    def maybe_norm(self, name: str) -> tuple[Norm | None, str]:
        node = self.made.get(name)
        return self.norm(name) if node is not None and node.op == "rms_norm" else (None, name)

    def rotated(self, name: str) -> tuple[tuple[float, str | None], Norm | None, str]:
        node = self.producer(name, "rope")
        norm, source = self.maybe_norm(node.inputs[0])
        return (float(_number(node, "theta")), _optional(node, 2)), norm, source

    def layer(self, out: str) -> tuple[Layer, str]:
        """The layer whose result is `out`, and the name of its input. Walks backwards."""
        add = self.producer(out, "add")
        middle, y = add.inputs
        post_ffn, y = self.maybe_norm(y)
        down, gated = self.linear(y)
        mul = self.producer(gated, "mul")
        active = self.producer(mul.inputs[0], "silu", "gelu_tanh")
        gate, ffn_in = self.linear(active.inputs[0])
        up, _ = self.linear(mul.inputs[1])
        ffn_norm, source = self.norm(ffn_in)
        if source != middle:
            raise self.fail(add, "a residual around the feed-forward part")
        add = self.producer(middle, "add")
        x, y = add.inputs
        post_attn, y = self.maybe_norm(y)
        o, attended = self.linear(y)
        node = self.producer(attended, "attention")
        rope, q_norm, q_lin = self.rotated(node.inputs[0])
        k_rope, k_norm, k_lin = self.rotated(node.inputs[1])
        q, attn_in = self.linear(q_lin)
        k, _ = self.linear(k_lin)
        v, _ = self.linear(node.inputs[2])
        attn_norm, source = self.norm(attn_in)
        if source != x or rope != k_rope:
            raise self.fail(node, "a residual around attention, and one rotation for q and k")
        layer = Layer(
            attn_norm,
            q,
            k,
            v,
            q_norm,
            k_norm,
            rope,
            int(_number(node, "heads")),
            int(_number(node, "kv_heads")),
            int(_number(node, "head_dim")),
            float(_number(node, "scale")),
            int(_number(node, "window")),
            float(_number(node, "softcap")),
            o,
            post_attn,
            ffn_norm,
            gate,
            up,
            active.op,
            down,
            post_ffn,
        )
        return layer, x


def fuse(graph: Graph) -> DecoderPlan:
    """The plan of a decoder graph. Raises CompileError MV0410 naming the node that does not fit."""
    m = _Matcher(graph)
    out = graph.outputs[0]
    softcap = 0.0
    if m.producer(out, "linear", "softcap").op == "softcap":
        softcap = float(_number(m.made[out], "cap"))
        out = m.made[out].inputs[0]
    head, normed = m.linear(out)
    norm, x = m.norm(normed)
    layers: list[Layer] = []
    while m.producer(x, "add", "embedding", "scale").op == "add":
        layer, x = m.layer(x)
        layers.append(layer)
    scale = 1.0
    if m.made[x].op == "scale":
        scale = float(_number(m.made[x], "factor"))
        x = m.made[x].inputs[0]
    embed = m.producer(x, "embedding").inputs[1]
    layers.reverse()
    if not layers:
        raise m.fail(None, "at least one decoder layer")
    vocab, hidden = graph.params[head.weight].shape
    ffn = graph.params[layers[0].down.weight].shape[1]
    return DecoderPlan(
        embed, scale, tuple(layers), norm, head, softcap, int(hidden), int(ffn), int(vocab)
    )
