"""LlmConfig: what a decoder-only language model is, whichever file it came from."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mellivora.errors import ModelError

MAX_COUNT = 1 << 31
_SIZES = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "context")


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are divided: by nothing, by `factor`, band by band (Llama 3.1), or by
    a tensor that the checkpoint brings (parameter "rope_factors").
    """

    kind: Literal["none", "linear", "llama3", "tensor"] = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    def divisors(self, head_dim: int, theta: float) -> list[float] | None:
        """What each of the head_dim/2 frequencies is divided by; None for kinds none and tensor."""
        half = head_dim // 2
        if self.kind in ("none", "tensor"):
            return None
        if self.kind == "linear":
            return [self.factor] * half
        return [self._llama3_divisor(theta ** (-2.0 * i / head_dim)) for i in range(half)]

    def _llama3_divisor(self, frequency: float) -> float:
        # Wavelengths the model saw whole in training stay, those longer than its context are
        # stretched, and between the two the frequency is interpolated linearly.
        turns = self.original_context * frequency / (2.0 * math.pi)
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        smooth = min(max(smooth, 0.0), 1.0)
        return 1.0 / ((1.0 - smooth) / self.factor + smooth)


@dataclass(frozen=True, kw_only=True)
class LlmConfig:
    """Shape and constants of a decoder-only model. Lengths are counts of values or tokens.

    `window` is the number of positions, itself included, that a sliding-window layer attends to;
    `window_layers[i]` says whether layer i is one. Those layers use `rope_local_theta` when it is
    not 0, and then no scaling. Query and key rows are always in the "half" rotary order. Norm
    weights are stored as they multiply: `norm_offset` says what the loader has added to them.
    Raises ModelError MV0250 when the numbers contradict each other.
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    context: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling = RopeScaling()
    rope_local_theta: float = 0.0
    rope_style: Literal["half"] = "half"
    tie_embeddings: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    activation: Literal["silu", "gelu_tanh"] = "silu"
    embedding_scale: float = 1.0
    attention_scale: float = 0.0  # 0: head_dim ** -0.5
    logit_softcap: float = 0.0
    attention_softcap: float = 0.0
    window: int = 0
    window_layers: tuple[bool, ...] = ()
    post_norms: bool = False
    norm_offset: float = 0.0

    def __post_init__(self) -> None:
        faults = [
            f"{name} = {getattr(self, name)}"
            for name in _SIZES
            if not 0 < getattr(self, name) < MAX_COUNT
        ]
        if not faults:
            if self.heads % self.kv_heads:
                faults.append(f"heads {self.heads} is no multiple of kv_heads {self.kv_heads}")
            if self.head_dim % 2:
                faults.append(f"head_dim {self.head_dim} is odd")
            if self.window_layers and len(self.window_layers) != self.layers:
                faults.append(f"window_layers names {len(self.window_layers)} of {self.layers}")
        if self.attention_scale == 0.0 and not faults:
            object.__setattr__(self, "attention_scale", self.head_dim**-0.5)
        scaling = self.rope_scaling
        local_theta = self.rope_local_theta or self.rope_theta
        finite = (self.norm_eps, self.rope_theta, local_theta, self.attention_scale, scaling.factor)
        if not all(math.isfinite(x) and x > 0 for x in finite) and not faults:
            faults.append(f"norm_eps, rope thetas, attention_scale, rope factor = {finite}")
        caps = (self.logit_softcap, self.attention_softcap, float(self.window))
        if not all(0 <= x < MAX_COUNT for x in caps):
            faults.append(f"softcaps and window = {caps}")
        if scaling.kind == "llama3" and not 0 < scaling.low_freq_factor < scaling.high_freq_factor:
            faults.append("rope low_freq_factor must lie below high_freq_factor")
        if faults:
            raise ModelError(
                "MV0250",
                "the model's configuration contradicts itself",
                where=self.architecture,
                given="; ".join(faults),
                allowed="positive sizes below 2^31, heads a multiple of kv_heads, even head_dim",
                hint="check the model's config.json or GGUF keys",
            )

    def is_windowed(self, layer: int) -> bool:
        return self.window > 0 and bool(self.window_layers) and self.window_layers[layer]

    def layer_rope(self, layer: int) -> tuple[float, RopeScaling]:
        """Base frequency and scaling of a layer's rotary embedding."""
        if self.rope_local_theta and self.is_windowed(layer):
            return self.rope_local_theta, RopeScaling()
        return self.rope_theta, self.rope_scaling

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
