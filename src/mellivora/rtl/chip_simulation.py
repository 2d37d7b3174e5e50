"""The chip's RTL as a machine that runs programs: CXXRTL, built once for a chip, driven from C++.

    machine = chip_simulation("nano")            # a minute the first time, then from the cache
    run = machine.run(code, parameters, dram=dram, windows=windows)

The cache key is a hash of every source that makes the design, so elaboration, too, happens only
once. Memory is ideal: fixed latency, always ready; or it has banks, or random back-pressure.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mellivora.errors import UsageError
from mellivora.isa.latency import PORT_READ_CYCLES, PORT_WRITE_CYCLES
from mellivora.native.build import SOURCES
from mellivora.rtl import objects
from mellivora.rtl.chip_text import chip_rtlil, digest, sources_hash
from mellivora.rtl.host import cache_dir, compiler, locked
from mellivora.rtl.secded import CODE_BITS, decode
from mellivora.sim.functional import check_in_dram
from mellivora.sim.timing import check_windows
from mellivora.spec import ChipSpec, load_chip
from mellivora.spec.dram_timing import IDEAL, DramTiming

LIMIT_CYCLES = 50_000_000


@dataclass(frozen=True)
class RtlFault:
    """A core's fault record, as read through the control port."""

    core: int
    engine: str
    pc: int
    cause: int


@dataclass
class RtlRun:
    """What a run left. start, end: for each core, by operation in program order, clock edges as in
    `sim.timing` (-1: not reached). scratchpads, accumulators: uint8 [cores, bytes]; with ecc as
    they decode. flip_reads: how often enabled reads took the byte of each flip while it was not
    right. flip_seen: [cores, 2] bytes that reads took with one bit wrong and with two, found by
    watching the ports: what the counters of ECC must show."""

    cycles: int
    stopped: bool
    faults: list[RtlFault]
    start: list[npt.NDArray[np.int64]]
    end: list[npt.NDArray[np.int64]]
    scratchpads: npt.NDArray[np.uint8]
    accumulators: npt.NDArray[np.uint8]
    registers: dict[str, npt.NDArray[np.uint32]]
    bus_error: bool
    read_beats: int
    write_beats: int
    flip_reads: npt.NDArray[np.int64]
    flip_seen: npt.NDArray[np.int64]


class ChipSimulation:
    """A built chip. One object may run any number of programs; each starts from power-on."""

    def __init__(self, library: ctypes.CDLL, chip: ChipSpec, *, ecc: bool = False) -> None:
        self.chip, self.ecc = chip, ecc
        self._run = library.chip_run
        self._run.restype, self._run.argtypes = None, [ctypes.c_void_p]

    def run(
        self,
        code: npt.NDArray[np.uint64],
        parameters: npt.ArrayLike,
        *,
        dram: npt.NDArray[np.uint8],
        windows: Sequence[tuple[int, int]],
        limit_cycles: int = LIMIT_CYCLES,
        trace_rows: int = 4096,
        stall_seed: int = 0,
        timing: DramTiming = IDEAL,
        wave: tuple[Path, int, int] | None = None,
        flips: npt.ArrayLike = (),
    ) -> RtlRun:
        """Run a program on all cores to its end, a fault or the limit.

        code: uint64 [words, 2]. parameters: int32 [P] or [cores, P]. dram: uint8, in place; a
        multiple of a burst. windows: (base, limit), bases multiples of a burst. stall_seed: not 0
        gives a memory with random back-pressure. timing: of its banks. wave: (file, first cycle,
        past the last). flips: int [n, 4]: cycle, core, byte of the scratchpad and which of its
        stored bits flips (8 bits, with ecc 13), before what that cycle reads. Raises UsageError
        MV0852 (a window leaves DRAM), MV0883 (it begins at no burst), MV0896 (a flip is nowhere).
        """
        from mellivora.rtl.control_port import (
            CORE_STRIDE_BYTES,
            DOORBELL,
            setup_writes,
            status_registers,
        )

        chip = self.chip
        check_windows(windows, chip)
        check_in_dram(windows, dram.nbytes)
        code = np.ascontiguousarray(code, np.uint64)
        values = np.asarray(parameters, np.int32)
        values = np.ascontiguousarray(np.broadcast_to(values, (chip.cores, values.shape[-1])))
        writes = np.array(
            [
                (core * CORE_STRIDE_BYTES + address, value & 0xFFFF_FFFF)
                for core in range(chip.cores)
                for address, value in setup_writes(len(code), values[core].tolist(), windows)
            ],
            np.uint32,
        ).reshape(-1, 2)
        names = status_registers()
        addresses = np.array(list(names.values()), np.int64)
        registers = np.zeros((chip.cores, len(addresses)), np.uint32)
        upsets, order = self._flips(flips)
        flip_reads = np.zeros(len(upsets), np.int64)
        flip_seen = np.zeros((chip.cores, 2), np.int64)
        meaning = _meaning() if self.ecc else None
        start = np.full((chip.cores, trace_rows), -1, np.int64)
        end = np.full((chip.cores, trace_rows), -1, np.int64)
        pads = np.zeros((chip.cores, chip.sram_bytes), np.uint16)
        accumulators = np.zeros((chip.cores, chip.accumulator_bytes), np.uint16)
        report = np.zeros(len(_REPORT), np.int64)
        device = np.array(timing, np.int64)
        setup = _Setup(
            words=len(code),
            limit_cycles=limit_cycles,
            dram_bytes=dram.nbytes,
            read_delay=chip.dram_latency_cycles - PORT_READ_CYCLES,
            write_delay=chip.dram_latency_cycles - PORT_WRITE_CYCLES,
            trace_rows=trace_rows,
            stall_seed=stall_seed,
            wave_first=wave[1] if wave else 0,
            wave_past=wave[2] if wave else 0,
            code=code.ctypes.data,
            dram=dram.ctypes.data,
            pads=pads.ctypes.data,
            accumulators=accumulators.ctypes.data,
            start=start.ctypes.data,
            end=end.ctypes.data,
            report=report.ctypes.data,
            registers=registers.ctypes.data,
            register_addresses=addresses.ctypes.data,
            register_count=len(addresses),
            setup_writes=writes.ctypes.data,
            setup_count=len(writes),
            doorbell_address=DOORBELL,
            doorbell_value=1,
            core_stride=CORE_STRIDE_BYTES,
            wave_path=os.fsencode(wave[0]) if wave else None,
            flips=upsets.ctypes.data,
            flip_count=len(upsets),
            meaning=meaning.ctypes.data if meaning is not None else None,
            flip_reads=flip_reads.ctypes.data,
            flip_seen=flip_seen.ctypes.data,
            timing=device.ctypes.data,
        )
        self._run(ctypes.byref(setup))
        facts = dict(zip(_REPORT, report.tolist()))
        by_name = {name: registers[:, i] for i, name in enumerate(names)}
        return RtlRun(
            cycles=facts["cycles"],
            stopped=bool(facts["stopped"]),
            faults=_faults(by_name, chip.cores),
            start=list(start),
            end=list(end),
            scratchpads=decode(pads)[0] if self.ecc else pads.astype(np.uint8),
            accumulators=accumulators.astype(np.uint8),
            registers=by_name,
            bus_error=bool(facts["bus_error"]),
            read_beats=facts["read_beats"],
            write_beats=facts["write_beats"],
            flip_reads=flip_reads[np.argsort(order)],
            flip_seen=flip_seen,
        )

    def _flips(self, flips: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The flips by cycle, and the order that makes them so."""
        given = np.asarray(flips, np.int64).reshape(-1, 4)
        ends = (LIMIT_CYCLES, self.chip.cores, self.chip.sram_bytes, CODE_BITS if self.ecc else 8)
        if ((given < 0) | (given >= ends)).any():
            raise UsageError(
                "MV0896",
                "a flip is not in a scratchpad",
                given=str(given[((given < 0) | (given >= ends)).any(axis=1)][0].tolist()),
                allowed=f"cycle, core, byte, bit below {', '.join(map(str, ends))}",
            )
        order = np.argsort(given[:, 0], kind="stable")
        return np.ascontiguousarray(given[order]), order


_REPORT = ("cycles", "stopped", "bus_error", "read_beats", "write_beats", "wall_cycles")


def _faults(registers: dict[str, npt.NDArray[np.uint32]], cores: int) -> list[RtlFault]:
    from mellivora.isa.encoding import ENGINES

    return [
        RtlFault(
            core,
            ENGINES[int(registers["fault_engine"][core])],
            int(registers["fault_pc"][core]),
            int(registers["fault_cause"][core]),
        )
        for core in range(cores)
        if registers["fault_cause"][core]
    ]


class _Setup(ctypes.Structure):
    """The layout of `Setup` in chip_driver.cpp."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "words",
                "limit_cycles",
                "dram_bytes",
                "read_delay",
                "write_delay",
                "trace_rows",
                "stall_seed",
                "wave_first",
                "wave_past",
            )
        ),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "code",
                "dram",
                "pads",
                "accumulators",
                "start",
                "end",
                "report",
                "registers",
                "register_addresses",
            )
        ),
        ("register_count", ctypes.c_int64),
        ("setup_writes", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in ("setup_count", "doorbell_address", "doorbell_value", "core_stride")
        ),
        ("wave_path", ctypes.c_char_p),
        ("flips", ctypes.c_void_p),
        ("flip_count", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("meaning", "flip_reads", "flip_seen", "timing")),
    ]


def _meaning() -> npt.NDArray[np.uint8]:
    """Of each pattern of a stored byte: 0 right, 1 put right when read, 2 reported."""
    _, corrected, uncorrectable = decode(np.arange(1 << CODE_BITS))
    return (corrected + 2 * uncorrectable).astype(np.uint8)


@functools.cache
def chip_simulation(
    chip: ChipSpec | str, *, wave: bool = False, ecc: bool = False
) -> ChipSimulation:
    """The simulation of a chip's RTL. wave: with what VCD files need, slower.

    Raises HostError MV0921 (no compiler), MV0922 (compilation failed), SpecError MV0120 for
    a chip whose memory the RTL cannot serve.
    """
    spec = load_chip(chip) if isinstance(chip, str) else chip
    tools = (compiler()[1], *objects.FLAGS)
    name = f"chip{'-wave' if wave else ''}{'-ecc' if ecc else ''}"
    folder = cache_dir() / "rtl"
    folder.mkdir(parents=True, exist_ok=True)
    facts = (sources_hash(), bench_source(), spec.fingerprint(), *tools)
    note = folder / f"{name}-{digest(*facts)}.note"  # which library these sources make
    if not (note.exists() and (folder / note.read_text("utf-8")).exists()):
        with locked(note):
            if not (note.exists() and (folder / note.read_text("utf-8")).exists()):
                target = _build(spec, folder, name, tools, wave=wave, ecc=ecc)
                part = note.with_suffix(f".{os.getpid()}")
                part.write_text(target.name, "utf-8")
                os.replace(part, note)
    return ChipSimulation(ctypes.CDLL(str(folder / note.read_text("utf-8"))), spec, ecc=ecc)


def bench_source() -> str:
    """C++ that drives a design, behind its names (`chip_names`). DRAM is the timing machine's."""
    parts = SOURCES / "dram_device.hpp", Path(__file__).with_name("chip_driver.cpp")
    return "".join(part.read_text("utf-8") for part in parts)


def _build(
    chip: ChipSpec,
    folder: Path,
    name: str,
    tools: tuple[str, ...],
    *,
    wave: bool,
    ecc: bool,
) -> Path:
    """The library, compiled unless the same design with the same driver already is."""
    from mellivora.rtl import chip_names
    from mellivora.rtl.chip import Chip
    from mellivora.rtl.emit import yosys

    text = chip_rtlil(chip, ecc=ecc)
    design = Chip(chip, ecc=ecc)
    design._MustUse__used = True  # asked for its names
    driver = chip_names.cxxrtl(design, chip, wave=wave) + bench_source()
    target = folder / f"{name}-{digest(text, driver, *tools)}.so"
    if target.exists():
        return target
    code = yosys(
        f"read_rtlil <<rtlil\n{text}\nrtlil\nhierarchy -check -top {design.module_name}\n"
        f"write_cxxrtl -g{3 if wave else 0} -noflatten"
    )
    objects.library(code, driver, target, where=chip.name)
    return target
