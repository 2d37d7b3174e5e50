"""The DRAM device alone: when bursts that come one by one are served. For studies and tests.

served(dram_timing(chip), cycles, addresses, writes)
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mellivora.native.build import load

if TYPE_CHECKING:
    from mellivora.spec.dram_timing import DramTiming


def served(
    timing: DramTiming,
    cycles: npt.ArrayLike,
    addresses: npt.ArrayLike,
    writes: npt.ArrayLike,
) -> npt.NDArray[np.int64]:
    """Cycles int64 [n] in which bursts are served: a read is moved, a write is kept.

    cycles: int [n] in which they come, none before the one in front of it. addresses: bytes.
    writes: bool [n]. docs/design/0008-dram.md defines the device.
    """
    when, where, kinds = (
        np.ascontiguousarray(one, np.int64) for one in (cycles, addresses, writes)
    )
    out = np.full(len(when), -1, np.int64)
    numbers = np.array(timing, np.int64)
    arrays = (numbers, when, where, kinds, out)
    _library()(*(ctypes.c_void_p(one.ctypes.data) for one in arrays), ctypes.c_int64(len(when)))
    return out


@functools.cache
def _library() -> Any:
    function = load("timing").dram_served
    function.restype = None
    return function
