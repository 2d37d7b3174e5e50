"""The reference key-value cache: what attention remembers of earlier rows, layer by layer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mellivora.graph.ir import Array


class KVCache:
    """Rows of keys and values for each layer, in the order they were appended, with positions.

    k, v: float32 [rows, kv_heads, head_dim]; positions: int64 [rows]. Grows as needed.
    """

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Array, Array, NDArray[np.int64], int]] = {}

    def append(self, layer: int, k: Array, v: Array, positions: Array) -> None:
        """Add rows after those already there."""
        old_k, old_v, old_p, used = self._layers.get(
            layer, (k[:0], v[:0], np.zeros(0, np.int64), 0)
        )
        need = used + len(k)
        if need > len(old_k):
            room = max(need, 2 * len(old_k))
            old_k, old_v, old_p = (
                np.concatenate([old[:used], np.zeros((room - used, *old.shape[1:]), old.dtype)])
                for old in (old_k, old_v, old_p)
            )
        old_k[used:need], old_v[used:need], old_p[used:need] = k, v, positions
        self._layers[layer] = (old_k, old_v, old_p, need)

    def read(self, layer: int) -> tuple[Array, Array, NDArray[np.int64]]:
        """All rows of a layer: k, v [rows, kv_heads, head_dim] and positions [rows]."""
        k, v, positions, used = self._layers[layer]
        return k[:used], v[:used], positions[:used]

    def __len__(self) -> int:
        return max((used for *_, used in self._layers.values()), default=0)

    def truncate(self, rows: int) -> None:
        """Forget all rows of every layer after the first `rows`."""
        self._layers = {
            layer: (k, v, p, min(used, rows)) for layer, (k, v, p, used) in self._layers.items()
        }
