"""Small graphs that several tests share."""

from __future__ import annotations

import numpy as np

from mellivora.graph import Builder, Graph


def floats(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Standard normal float32."""
    return rng.standard_normal(shape).astype(np.float32)


def language_model(
    *, layers: int = 2, window: int = 0, softcap: float = 0.0, seed: int = 1
) -> Graph:
    """A decoder of width 32, 4 heads of 8 over 2 key-value heads, vocabulary 50."""
    rng = np.random.default_rng(seed)
    b = Builder("language", meta={"family": "test", "note": 'quotes " and \\ and \n'})
    ids = b.input("ids", "int32", ("rows",))
    positions = b.input("positions", "int32", ("rows",))
    x = b.op("embedding", [ids, b.param("embed", floats(rng, 50, 32))])
    for i in range(layers):
        gamma = b.param(f"{i}.norm", 1 + floats(rng, 32))
        h = b.op("rms_norm", [x, gamma], eps=1e-5)
        q, k, v = (
            b.op("linear", [h, b.param(f"{i}.{name}", floats(rng, width, 32) / 6)])
            for name, width in (("q", 32), ("k", 16), ("v", 16))
        )
        q = b.op("rope", [q, positions], head_dim=8, theta=10000.0)
        k = b.op("rope", [k, positions], head_dim=8, theta=10000.0)
        y = b.op(
            "attention",
            [q, k, v, positions],
            heads=4,
            kv_heads=2,
            head_dim=8,
            scale=8**-0.5,
            layer=i,
            window=window,
            softcap=softcap,
        )
        x = b.op("add", [x, y])
    b.op("linear", [x, "embed"], name="logits")
    b.output("logits")
    return b.build()
