"""The functional simulator: what a program computes, bit for bit, without time.

Every core runs its stream in program order to the next collective (EXCH, BARRIER) or HALT; when
all have come, the collective is done and they go on. The checker proves that program order is one
of the orders the machine may take; LOADM is a plain load here. Semaphores are counted: a wait that
finds nothing and a post past the maximum fault as they would on the machine (posts count when the
operation starts).

Two backends give the same bits and the same faults: "native" (C++), and "reference", which runs the
meanings of `isa.meaning` in Python. The native one knows only *that* an instruction faults; cause
and words always come from the definition, which is run once more on the faulting instruction.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mellivora.errors import UsageError
from mellivora.isa import control, meaning
from mellivora.isa.encoding import ENGINES, REGISTERS, SLOTS
from mellivora.isa.state import Bytes, Core, Fault
from mellivora.isa.table import BY_NAME, BY_OPCODE
from mellivora.native import build
from mellivora.sim.expand import as_code, control_fault
from mellivora.sim.reference import (
    At,
    FaultRecord,
    Lane,
    collective_fault,
    perform,
    recorded,
    semaphore_fault,
)
from mellivora.spec import ChipSpec

__all__ = ["Backend", "FaultRecord", "Machine", "RunStats"]

Backend = Literal["native", "reference"]

_EXCHANGE = BY_NAME["exch"].opcode
_PAGE = 4096


@dataclass(frozen=True)
class RunStats:
    """Totals over all cores of one run.

    engine_ops: operations of engines; instructions: those and CONTROL's; macs: multiply-accumulates
    of MATRIX, every pass counted; seconds: of this host.
    """

    engine_ops: int
    instructions: int
    seconds: float
    macs: int


def check_in_dram(windows: Sequence[tuple[int, int]], dram_bytes: int) -> None:
    """Windows (base, limit) lie in DRAM. Raises UsageError MV0852."""
    for base, limit in windows:
        if base < 0 or limit < 0 or base + limit > dram_bytes:
            raise UsageError(
                "MV0852",
                "a window leaves DRAM",
                given=f"base {base}, limit {limit}",
                allowed=f"within {dram_bytes} bytes",
                hint="Give the machine more DRAM, or move the window.",
            )


class Machine:
    """A chip with its memories and a program.

    dram: uint8 array that the machine uses in place, or its size in bytes (zeros).
    windows: (base, limit) in bytes, each inside dram.
    threads: host threads of the native backend; results do not depend on it.
    `cores[i].scratchpad` and `.accumulators` are the live memories of core i.
    Raises UsageError MV0851 (dram), MV0852 (windows).
    """

    def __init__(
        self,
        chip: ChipSpec,
        *,
        dram: Bytes | int,
        windows: Sequence[tuple[int, int]],
        threads: int = 2,
        backend: Backend = "native",
    ) -> None:
        self.chip, self.backend = chip, backend
        self.threads = max(1, min(threads, chip.cores))
        self.dram: Bytes = np.zeros(dram, np.uint8) if isinstance(dram, int) else dram
        if self.dram.dtype != np.uint8 or self.dram.ndim != 1 or not self.dram.flags.c_contiguous:
            raise UsageError(
                "MV0851",
                "DRAM must be one contiguous array of bytes",
                given=f"{self.dram.dtype} {self.dram.shape}",
                allowed="uint8, one axis",
                hint="Give np.zeros(size, np.uint8), or the size alone.",
            )
        self.windows = [(int(base), int(limit)) for base, limit in windows]
        check_in_dram(self.windows, self.dram.nbytes)
        self._pads = _aligned(chip.cores, chip.sram_bytes)
        self._accumulators = _aligned(chip.cores, chip.accumulator_bytes)
        self.cores = [self._core(index) for index in range(chip.cores)]
        self.code = np.zeros((0, 2), np.uint64)

    def _core(self, index: int) -> Core:
        core = Core(self.chip, self.dram, self.windows, index)
        core.scratchpad = self._pads[index, : self.chip.sram_bytes]
        core.accumulators = self._accumulators[index, : self.chip.accumulator_bytes]
        return core

    def load(self, code: npt.ArrayLike) -> None:
        """Take a program: code uint64 [words, 2], low half first. All cores run the same."""
        self.code = as_code(code)

    def run(
        self,
        parameters: npt.ArrayLike = (),
        *,
        poison: bool = False,
        pages: npt.NDArray[np.int64] | None = None,
    ) -> RunStats:
        """Run the program to its end on all cores.

        parameters: int32 [P] for all cores alike, or [cores, P].
        poison: fill scratchpads and accumulators with 0xFF (NaN) first, so that use of stale data
        shows; else they are as the last run left them.
        pages: int64 [cores, P], filled with the entries of the tables of all LOADXs, in their order
        (native backend).
        Raises Fault (MV07xx), with a FaultRecord as `.record`, if the program faults: the faulting
        instruction has written nothing, and every core has run to its next collective or fault.
        """
        values = np.asarray(parameters, np.int32)
        values = np.ascontiguousarray(np.broadcast_to(values, (self.chip.cores, values.shape[-1])))
        if poison:
            self._pads[...] = 0xFF
            self._accumulators[...] = 0xFF
        started = time.perf_counter()
        if self.backend == "native":
            room = np.zeros((self.chip.cores, 0), np.int64) if pages is None else pages
            engine_ops, instructions, macs = self._run_native(values, room)
        else:
            engine_ops, instructions, macs = self._run_reference(values)
        return RunStats(engine_ops, instructions, time.perf_counter() - started, macs)

    # ------------------------------------------------------------------------------- native

    def _run_native(
        self, values: npt.NDArray[np.int32], pages: npt.NDArray[np.int64]
    ) -> tuple[int, int, int]:
        windows = np.array(self.windows or [(0, 0)], np.int64)
        setup = _Setup(
            *(self.chip.cores, self.chip.sram_bytes, self.chip.accumulator_bytes),
            *(self.chip.columns, self.chip.accumulator_rows, self.threads, control.WATCHDOG_STEPS),
            *(len(self.code), values.shape[1], len(self.windows), self.chip.dram_burst_bytes),
            *(self.code.ctypes.data, values.ctypes.data, self._pads.ctypes.data),
            *(self._accumulators.ctypes.data, self.dram.ctypes.data),
            *(self._pads.strides[0], self._accumulators.strides[0], windows.ctypes.data),
            *(pages.ctypes.data, pages.shape[1]),
        )
        reports = np.zeros(self.chip.cores, _REPORT)
        stop = _library().mellivora_run(ctypes.byref(setup), reports.ctypes.data)
        if stop:
            raise self._native_fault(stop, reports, values)
        totals = (int(reports[name].sum()) for name in ("engine_ops", "steps", "macs"))
        return next(totals), next(totals), next(totals)

    def _native_fault(
        self, stop: int, reports: npt.NDArray[Any], values: npt.NDArray[np.int32]
    ) -> Fault:
        """The Fault of a run that stopped, in the words of the definition."""
        if stop == _CORE_FAULT:
            index = next(i for i, report in enumerate(reports) if report["status"] == _FAULTED)
            report = reports[index]
            pc, kind = int(report["pc"]), int(report["fault"])
            if kind <= _WATCHDOG_FAULT:
                state = np.array([kind, pc, report["depth"], 0, *report["registers"]], np.int64)
                return recorded(
                    control_fault(self.code, values[index], state), index, "CONTROL", pc
                )
            row = BY_OPCODE[int(report["opcode"])]
            if kind != _MEANING_FAULT:
                fault = semaphore_fault(int(report["semaphore"]), waits=kind == _WAIT_FAULT)
                return recorded(fault, index, ENGINES[row.engine], pc)
            try:
                perform(self.cores[index], row, report["slot"].tolist(), report["config"].tolist())
            except Fault as fault:
                return recorded(fault, index, ENGINES[row.engine], pc)
            raise AssertionError(f"native {row.name} faults at {pc}, its meaning does not")
        at = [
            None
            if r["status"] == _HALTED
            else At(int(r["opcode"]), int(r["pc"]), r["slot"].tolist())
            for r in reports
        ]
        return collective_fault(self.cores, at)

    # ---------------------------------------------------------------------------- reference

    def _run_reference(self, values: npt.NDArray[np.int32]) -> tuple[int, int, int]:
        words = control.words_of(self.code)
        count = len(self.cores)
        lanes = [
            Lane(core, control.Sequencer(words, values[i].tolist(), core_id=i, cores=count))
            for i, core in enumerate(self.cores)
        ]
        while True:
            faults = [fault for lane in lanes if (fault := lane.run())]
            if faults:
                raise faults[0]
            at = [lane.at for lane in lanes]
            if not any(at):
                return (sum(lane.ops for lane in lanes), sum(lane.steps for lane in lanes),
                        sum(lane.macs for lane in lanes))  # fmt: skip
            if len({one.opcode if one else -1 for one in at}) > 1:
                raise collective_fault(self.cores, at)
            if at[0] and at[0].opcode == _EXCHANGE:
                try:
                    meaning.exchange(self.cores, [one.slots for one in at if one])
                except Fault:
                    raise collective_fault(self.cores, at) from None


def _aligned(count: int, size: int) -> Bytes:
    """Zeros uint8 [count, size rounded up], every row at the start of a page."""
    stride = -(-size // _PAGE) * _PAGE
    raw = np.zeros(count * stride + _PAGE, np.uint8)
    start = -raw.ctypes.data % _PAGE
    return raw[start : start + count * stride].reshape(count, stride)


# The layouts of native/functional.cpp: `Setup`, `Report`, and the numbers in them.
_CORE_FAULT, _HALTED, _FAULTED = 1, 1, 3
_WATCHDOG_FAULT, _WAIT_FAULT, _MEANING_FAULT = 2, 3, 5


class _Setup(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in (
            "cores", "pad_bytes", "accumulator_bytes", "columns", "accumulator_rows", "threads",
            "watchdog", "words", "parameter_count", "window_count", "dram_burst")),
        *((name, ctypes.c_void_p) for name in (
            "code", "parameters", "pads", "accumulators", "dram")),
        ("pad_stride", ctypes.c_int64),
        ("accumulator_stride", ctypes.c_int64),
        ("windows", ctypes.c_void_p),
        ("gathered", ctypes.c_void_p),
        ("gathered_limit", ctypes.c_int64),
    ]  # fmt: skip


_REPORT = np.dtype([
    *((name, np.int64) for name in (
        "status", "fault", "pc", "depth", "steps", "engine_ops", "macs", "semaphore", "opcode")),
    ("slot", np.int64, SLOTS),
    ("config", np.int64, SLOTS),
    ("registers", np.int64, REGISTERS),
])  # fmt: skip


@functools.cache
def _library() -> ctypes.CDLL:
    library = build.load("functional")
    library.mellivora_run.restype = ctypes.c_int64
    library.mellivora_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    return library
