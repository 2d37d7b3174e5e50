"""What an instruction can see: one core's memories, with every access checked.

The meanings in `meaning.py` run on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mellivora import numerics
from mellivora.errors import MachineFault
from mellivora.isa.encoding import ACCUMULATOR_BASE, DRAM_UNIT_BYTES, GATHER_PAGES
from mellivora.isa.modes import Kind

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

Bytes = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

FAULTS = {
    1: "opcode: no such instruction",
    2: "window: a DRAM access leaves its window",
    3: "scratchpad: an access leaves the scratchpad or the accumulators",
    4: "alignment: a 32-bit address or stride is not a multiple of 4, or pages not bursts apart",
    5: "shape: a size, format or mode that the engine does not have",
    6: "semaphore: a count passed its maximum",
    7: "watchdog: no engine can go on",
    8: "loop: nesting or length is wrong",
    9: "parameter: an index past the parameter memory",
}


class Fault(MachineFault):
    """A fault inside one instruction; the simulator adds core, engine and program counter."""

    def __init__(self, cause: int, detail: str = "") -> None:
        self.cause = cause
        super().__init__(f"MV07{cause:02d}", FAULTS[cause], given=detail)


@dataclass
class Core:
    """Memories of one core. dram is shared; windows are (base, limit) in bytes."""

    chip: ChipSpec
    dram: Bytes
    windows: Sequence[tuple[int, int]]
    core_id: int = 0
    scratchpad: Bytes = field(init=False)
    accumulators: Bytes = field(init=False)

    def __post_init__(self) -> None:
        self.scratchpad = np.zeros(self.chip.sram_bytes, np.uint8)
        self.accumulators = np.zeros(self.chip.accumulator_bytes, np.uint8)

    def tile(
        self, address: int, rows: int, cols: int, stride: int, dtype: type[np.generic] = np.float32
    ) -> Array:
        """A writable view [rows, cols] of scratchpad or accumulators; row stride in bytes."""
        size = np.dtype(dtype).itemsize
        memory = self.scratchpad
        if address >= ACCUMULATOR_BASE:
            address, memory = address - ACCUMULATOR_BASE, self.accumulators
        if rows <= 0 or cols <= 0:
            return np.zeros((max(rows, 0), max(cols, 0)), dtype)
        if size == 4 and (address | stride) & 3:
            raise Fault(4, f"address {address:#x}, stride {stride}")
        last = address + (rows - 1) * stride + cols * size
        if address < 0 or stride < 0 or last > memory.nbytes:
            raise Fault(3, f"bytes {address:#x}..{last:#x} of {memory.nbytes:#x}")
        flat = memory[address:last]
        return np.ndarray((rows, cols), dtype, flat, strides=(stride, size))

    def near(
        self, address: int, rows: int, cols: int, stride: int, dtype: type[np.generic] = np.uint8
    ) -> Array:
        """A tile of the scratchpad: MATRIX operands and EXCH do not reach the accumulators."""
        if rows > 0 and cols > 0 and address >= ACCUMULATOR_BASE:
            raise Fault(3, f"address {address:#x} is not in the scratchpad")
        return self.tile(address, rows, cols, stride, dtype)

    def operand(self, kind: int, value: int, rows: int, cols: int, stride: int) -> F32:
        """Operand b or c of VECTOR, broadcastable to [rows, cols]."""
        if kind == Kind.CONST:
            return np.array([[value & 0xFFFF_FFFF]], np.uint32).view(np.float32)
        if kind == Kind.ROW:
            return self.tile(value, rows, 1, stride)
        if kind == Kind.E8M0:
            return numerics.from_e8m0(self.tile(value, rows, cols, stride, np.uint8))
        return self.tile(value, rows, cols, stride)

    def dram_runs(self, slots: Sequence[int], config: Sequence[int]) -> tuple[Bytes, Bytes]:
        """Views [n3, n2, n1, n0] of DRAM and scratchpad for a LOAD or STORE, both checked whole."""
        window, offset, fine, pad, *counts = slots
        if min(counts) <= 0:
            return np.zeros(0, np.uint8), np.zeros(0, np.uint8)
        if not 0 <= window < len(self.windows) or min(config[:6]) < 0:
            raise Fault(2, f"window {window}, strides {list(config[:6])}")
        base, limit = self.windows[window]
        start = offset * DRAM_UNIT_BYTES + fine
        reach = counts[0] + sum((n - 1) * s for n, s in zip(counts[1:], config[:3], strict=True))
        if start < 0 or start + reach > limit:
            raise Fault(2, f"window {window}: bytes {start}..{start + reach} of {limit}")
        extent = counts[0] + sum((n - 1) * s for n, s in zip(counts[1:], config[3:6], strict=True))
        if pad < 0 or pad + extent > self.scratchpad.nbytes:
            raise Fault(3, f"bytes {pad:#x}..{pad + extent:#x} of {self.scratchpad.nbytes:#x}")
        shape = tuple(counts[::-1])
        far = np.ndarray(shape, np.uint8, self.dram[base + start :], strides=(*config[2::-1], 1))
        near = np.ndarray(shape, np.uint8, self.scratchpad[pad:], strides=(*config[5:2:-1], 1))
        return far, near

    def dram_pages(self, slots: Sequence[int], config: Sequence[int]) -> tuple[list[Bytes], Bytes]:
        """Views [n2, n1, n0] of the pages of a LOADX, [n3, n2, n1, n0] of the scratchpad."""
        window, offset, fine, pad, n0, n1, n2, n3 = slots
        d1, d2, d3, p1, p2, p3, table = config[:7]
        if min(n0, n1, n2, n3) <= 0:
            return [], np.zeros(0, np.uint8)
        if n3 > GATHER_PAGES:
            raise Fault(5, f"{n3} pages")
        if d3 % self.chip.dram_burst_bytes:
            raise Fault(4, f"pages {d3} bytes apart")
        if d3 < 0:
            raise Fault(2, f"pages {d3} bytes apart")
        inner = (d1, d2, 0, p1, p2, p3)
        _, near = self.dram_runs(slots, inner)
        found: list[Bytes] = []
        for page in self.near(table, n3, 1, 4, np.int32)[:, 0].tolist():
            if page < 0:
                raise Fault(2, f"page {page}")
            one = (window, offset, fine + page * d3, pad, n0, n1, n2, 1)
            found.append(self.dram_runs(one, inner)[0][0])
        return found, near


def canonical(x: Array) -> F32:
    """A copy in FP32 with every NaN replaced by the one canonical NaN."""
    x = np.asarray(x, np.float32)
    return np.where(np.isnan(x), numerics.CANONICAL_NAN, x).astype(np.float32)
