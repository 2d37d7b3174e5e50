"""CONTROL at full speed: a program and its parameters to resolved operations.

`isa.control` is the definition; this is the same in C++, for programs of millions of operations.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mellivora.isa import control
from mellivora.isa.encoding import REGISTERS, RESOLVED_FIELDS
from mellivora.isa.state import Fault
from mellivora.native import build

STATE_FIELDS = 4 + REGISTERS
"""What native CONTROL leaves behind: fault kind, pc, loop depth, steps, registers."""
WATCHDOG_FAULT = 2


def expand(
    code: npt.NDArray[np.uint64],
    parameters: Sequence[int] | npt.NDArray[np.int32],
    *,
    core_id: int = 0,
    cores: int = 1,
) -> npt.NDArray[np.int64]:
    """All resolved rows int64 [n, RESOLVED_FIELDS] of one core; equal to `isa.control.resolve`.

    code: uint64 [words, 2]. parameters: int32 values. Raises the same Fault as `resolve`.
    """
    code = as_code(code)
    values = np.ascontiguousarray(parameters, np.int32)
    state = np.zeros(STATE_FIELDS, np.int64)
    watchdog = control.WATCHDOG_STEPS

    def fill(rows: npt.NDArray[np.int64]) -> int:
        return _library().mellivora_expand(
            code.ctypes.data, len(code), values.ctypes.data, values.size, core_id, cores, watchdog,
            rows.ctypes.data, len(rows), state.ctypes.data)  # fmt: skip

    rows = np.empty((fill(np.empty((0, RESOLVED_FIELDS), np.int64)), RESOLVED_FIELDS), np.int64)
    if state[0]:
        raise control_fault(code, values, state)
    fill(rows)
    return rows


def as_code(code: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """code as a contiguous uint64 [words, 2]."""
    return np.ascontiguousarray(code, np.uint64).reshape(-1, 2)


def control_fault(
    code: npt.NDArray[np.uint64], parameters: npt.NDArray[np.int32], state: npt.NDArray[np.int64]
) -> Fault:
    """The Fault of CONTROL in this state; its definition does the step again and words it."""
    if state[0] == WATCHDOG_FAULT:
        return Fault(7, "CONTROL ran too long")
    # The definition decodes all words at once; only the one at pc matters here.
    pc = int(state[1])
    words = control.words_of(code[pc : pc + 1]) if 0 <= pc < len(code) else []
    sequencer = control.Sequencer(
        _At(pc, words, len(code)), parameters.tolist(), core_id=0, cores=1
    )
    sequencer.pc, sequencer.registers = pc, state[4:].tolist()
    sequencer.loops = [[0, -1, 1] for _ in range(int(state[2]))]
    try:
        next(sequencer.stream())
    except Fault as fault:
        return fault
    raise AssertionError(f"native CONTROL stopped at {pc}, its definition does not")


class _At(Sequence[control.Word]):
    """A program of which only the word at `pc` is decoded."""

    def __init__(self, pc: int, words: list[control.Word], length: int) -> None:
        self.pc, self.words, self.length = pc, words, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> control.Word:  # type: ignore[override]
        return self.words[index - self.pc]


@functools.cache
def _library() -> ctypes.CDLL:
    library = build.load("control")
    i64, pointer = ctypes.c_int64, ctypes.c_void_p
    library.mellivora_expand.restype = i64
    library.mellivora_expand.argtypes = [
        *(pointer, i64, pointer, i64, i64, i64, i64),
        *(pointer, i64, pointer),
    ]
    return library
