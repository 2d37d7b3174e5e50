"""One program on three machines: functional simulator, timing simulator, RTL. They must agree.

    result = cosim(code, parameters, chip=chip, dram=image, windows=windows)
    print(result.report())        # "equal", or the first instruction that is not

Compared: every byte of scratchpads, accumulators and DRAM; start and end of every operation on
every core; the fault record. A program that faults leaves memories whose later part depends on how
far other engines had run, so of those the record alone is compared, and that nothing left a window.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mellivora.isa.assembler import disassemble
from mellivora.isa.control import words_of
from mellivora.isa.encoding import (
    ACCUMULATOR_BASE,
    ENGINES,
    R_CONFIG,
    R_OPCODE,
    R_PC,
    R_SLOT,
)
from mellivora.isa.footprint import dram_intervals, footprint, intervals
from mellivora.isa.state import FAULTS, Fault
from mellivora.isa.table import BY_OPCODE
from mellivora.rtl.bit_flips import random_flips
from mellivora.rtl.chip_simulation import (
    LIMIT_CYCLES,
    ChipSimulation,
    RtlFault,
    RtlRun,
    chip_simulation,
)
from mellivora.rtl.fault_record import WATCHDOG_FAULT
from mellivora.sim.expand import expand
from mellivora.sim.functional import Machine
from mellivora.sim.timing import MemoryDevice, simulate
from mellivora.sim.walks import gathered
from mellivora.spec import ChipSpec, load_chip
from mellivora.spec.dram_timing import IDEAL, DramTiming

Bytes = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]
WAVE_AROUND_CYCLES = 200
"""A wave of a difference begins so long before the instruction's start and ends after its end."""


@dataclass(frozen=True)
class Difference:
    """The first operation, in program order, whose result or time is not the same."""

    kind: str  # "bits", "start", "end", "fault", "hang"
    core: int
    pc: int
    text: str
    operands: str
    expected: str
    got: str
    cycle: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kind} differ: core {self.core}, pc {self.pc}, cycle {self.cycle}\n"
            f"  {self.text}\n  operands {self.operands}\n"
            f"  simulator {self.expected}\n  RTL       {self.got}"
        )


@dataclass
class CosimResult:
    """differing_bits: of all memories; differing_cycles: operations whose start or end differs.
    flips, flips_read: bits that flipped, and how many of them reads took, corrected, as often."""

    chip: str
    cycles: int
    rtl_cycles: int
    operations: int
    differing_bits: int = 0
    differing_cycles: int = 0
    flips: int = 0
    flips_read: int = 0
    corrected: int = 0
    fault: RtlFault | None = None
    difference: Difference | None = None
    wave: Path | None = None
    rtl: RtlRun | None = field(default=None, repr=False)
    dram: Bytes | None = field(default=None, repr=False)  # as the RTL left it

    @property
    def equal(self) -> bool:
        """The three machines agree in everything."""
        return self.difference is None

    def report(self) -> str:
        """One line if all agree, else what the first difference is."""
        if self.difference is None:
            end = f"fault {self.fault.cause} at pc {self.fault.pc}" if self.fault else "done"
            flips = (
                f"; {self.flips} flips, {self.flips_read} of them read, {self.corrected} times"
                if self.flips
                else ""
            )
            return f"equal: {self.operations} operations, {self.rtl_cycles} cycles, {end}{flips}"
        wave = f"\n  wave in {self.wave}" if self.wave else ""
        return f"{self.difference}{wave}"


def cosim(
    code: npt.NDArray[np.uint64],
    parameters: npt.ArrayLike = (),
    *,
    chip: ChipSpec | str,
    dram: Bytes,
    windows: Sequence[tuple[int, int]],
    limit_cycles: int = LIMIT_CYCLES,
    wave: Path | None = None,
    ecc: bool = False,
    rtl: ChipSimulation | None = None,
    flips: int = 0,
    flip_seed: int = 0,
    timing: DramTiming | None = None,
) -> CosimResult:
    """Run a program on all three machines and compare.

    dram: uint8, the image before; it is not changed. wave: where a VCD of the window around a
    difference goes. rtl: the simulation to take, `chip_simulation` if None. flips: with ecc, so
    many bits of scratchpads flip (`bit_flips`), unless the program has a fault; the counters must
    show what was corrected. timing: of DRAM's banks; None is an ideal memory. Raises what the
    machines raise for a wrong launch.
    """
    spec = load_chip(chip) if isinstance(chip, str) else chip
    rtl = rtl or chip_simulation(spec, ecc=ecc)
    values = np.asarray(parameters, np.int32)
    values = np.ascontiguousarray(np.broadcast_to(values, (spec.cores, values.shape[-1])))
    machine = Machine(spec, dram=dram.copy(), windows=windows)
    machine.load(code)
    fault: Fault | None = None
    rows: list[Rows] = []
    with contextlib.suppress(Fault):  # of CONTROL: the machine words it below
        rows = _rows(code, values, spec)
    pages = np.zeros((spec.cores, max(map(gathered, rows), default=0)), np.int64)
    try:
        machine.run(values, pages=pages)
    except Fault as error:
        fault, rows = error, []
    device = MemoryDevice(timing, windows, list(pages)) if timing else None
    upsets = np.zeros((0, 4), np.int64)
    if flips and rows:
        cycles = max(1, simulate(rows, spec, device).cycles)
        upsets = random_flips(rows, spec, count=flips, cycles=cycles, seed=flip_seed)
    rtl_dram = dram.copy()
    run = rtl.run(
        code,
        values,
        dram=rtl_dram,
        windows=windows,
        limit_cycles=limit_cycles,
        trace_rows=max([len(r) for r in rows], default=4096) + 1,
        flips=upsets,
        timing=timing or IDEAL,
    )
    result = CosimResult(spec.name, 0, run.cycles, sum(map(len, rows)), rtl=run, dram=rtl_dram)
    if fault:
        _compare_fault(result, run, fault, code)
    elif run.faults or not run.stopped:
        _unexpected(result, run, code, rows)
    else:
        _compare(result, run, machine, rows, rtl_dram, code, device)
        _compare_flips(result, run)
    if result.difference and wave:
        at = result.difference.cycle
        chip_simulation(spec, wave=True, ecc=ecc).run(
            code,
            values,
            dram=dram.copy(),
            windows=windows,
            limit_cycles=run.cycles,
            wave=(wave, at - WAVE_AROUND_CYCLES, at + WAVE_AROUND_CYCLES),
            flips=upsets,
            timing=timing or IDEAL,
        )
        result.wave = wave
    return result


def _compare_flips(result: CosimResult, run: RtlRun) -> None:
    """The counters of ECC against what the driver saw at the scratchpads' read ports."""
    names = ("ecc_corrected", "ecc_uncorrectable")
    counted = np.stack([run.registers[name] for name in names], axis=1)
    result.flips, result.flips_read = len(run.flip_reads), int(np.count_nonzero(run.flip_reads))
    result.corrected = int(counted[:, 0].sum())
    wrong = np.flatnonzero((counted != run.flip_seen).any(axis=1))
    if len(wrong) and result.difference is None:
        core = int(wrong[0])
        expected, got = (
            ", ".join(f"{name} {count}" for name, count in zip(names, side[core]))
            for side in (run.flip_seen, counted)
        )
        result.difference = Difference("counters", core, 0, "", "", expected, got, run.cycles)


def _rows(
    code: npt.NDArray[np.uint64], values: npt.NDArray[np.int32], chip: ChipSpec
) -> list[Rows]:
    return [
        expand(code, values[core], core_id=core, cores=chip.cores) for core in range(chip.cores)
    ]


def _compare_fault(
    result: CosimResult, run: RtlRun, fault: Fault, code: npt.NDArray[np.uint64]
) -> None:
    record = fault.record  # type: ignore[attr-defined]
    expected = RtlFault(record.core, record.engine, record.pc, record.cause)
    # A core that waits for one that has stopped is ended by the watchdog: an effect, no cause.
    first = sorted(run.faults, key=lambda one: (one.cause == WATCHDOG_FAULT, one.core))
    result.fault = first[0] if first else None
    if result.fault == expected and not run.bus_error:
        return
    text = _text(code, expected.pc)
    got = "the bus was asked for bytes outside DRAM" if run.bus_error else str(result.fault)
    result.difference = Difference(
        "fault", expected.core, expected.pc, text, fault.given, str(expected), got, run.cycles
    )


def _unexpected(
    result: CosimResult, run: RtlRun, code: npt.NDArray[np.uint64], rows: list[Rows]
) -> None:
    """The RTL stopped where the simulators do not, or did not stop."""
    if run.faults:
        one = run.faults[0]
        given = f"{one.engine}: {FAULTS.get(one.cause, '?')}"
        result.difference = Difference(
            "fault", one.core, one.pc, _text(code, one.pc), "", "no fault", given, run.cycles
        )
        return
    for core, table in enumerate(rows):
        left = np.flatnonzero(run.end[core][: len(table)] < 0)
        if len(left):
            row = table[left[0]]
            started = int(run.start[core][left[0]])
            result.difference = Difference(
                "hang",
                core,
                int(row[R_PC]),
                _text(code, int(row[R_PC])),
                _operands(row),
                "an end",
                f"none after {run.cycles} cycles; started {started}",
                run.cycles,
            )
            return
    result.difference = Difference("hang", 0, 0, "", "", "HALT", "not done", run.cycles)


def _compare(
    result: CosimResult,
    run: RtlRun,
    machine: Machine,
    rows: list[Rows],
    dram: Bytes,
    code: npt.NDArray[np.uint64],
    device: MemoryDevice | None,
) -> None:
    chip = machine.chip
    timing = simulate(rows, chip, device)
    result.cycles = timing.cycles
    result.rtl_cycles = max(
        (int(end[: len(r)].max(initial=0)) for end, r in zip(run.end, rows)), default=0
    )
    for name in ("start", "end"):
        for core, table in enumerate(rows):
            expected = getattr(timing, name)[core]
            got = getattr(run, name)[core][: len(table)]
            wrong = np.flatnonzero(got != expected)
            result.differing_cycles += len(wrong)
            if len(wrong) and result.difference is None:
                at = int(wrong[0])
                row = table[at]
                result.difference = Difference(
                    name,
                    core,
                    int(row[R_PC]),
                    _text(code, int(row[R_PC])),
                    _operands(row),
                    f"start {timing.start[core][at]}, end {timing.end[core][at]}",
                    f"start {run.start[core][at]}, end {run.end[core][at]}",
                    int(timing.start[core][at]),
                )
    for core in range(chip.cores):
        pads = (
            (0, machine.cores[core].scratchpad, run.scratchpads[core]),
            (ACCUMULATOR_BASE, machine.cores[core].accumulators, run.accumulators[core]),
        )
        for base, expected, got in pads:
            _compare_bytes(
                result, expected, got, core, base, rows[core], machine, timing.end[core], code
            )
    _compare_bytes(result, machine.dram, dram, -1, 0, rows[0], machine, timing.end[0], code)


def _compare_bytes(
    result: CosimResult,
    expected: Bytes,
    got: Bytes,
    core: int,
    base: int,
    rows: Rows,
    machine: Machine,
    end: Rows,
    code: npt.NDArray[np.uint64],
) -> None:
    wrong = np.flatnonzero(expected != got)
    if not len(wrong):
        return
    result.differing_bits += int(np.bitwise_count(expected[wrong] ^ got[wrong]).sum())
    if result.difference is not None and result.difference.kind == "bits":
        return
    at, row = _first_writer(wrong, core < 0, base, rows, machine)
    where = "DRAM" if core < 0 else "accumulators" if base else "scratchpad"
    span = slice(at, at + 16)
    given = (-1, -1, "") if row < 0 else (int(rows[row][R_PC]), int(end[row]), _operands(rows[row]))
    result.difference = Difference(
        "bits",
        max(core, 0),
        given[0],
        _text(code, given[0]),
        given[2],
        f"{where} {at:#x}: {expected[span].tobytes().hex(' ')}",
        f"{where} {at:#x}: {got[span].tobytes().hex(' ')} ({len(wrong)} bytes differ)",
        given[1],
    )


def _first_writer(
    wrong: npt.NDArray[np.int64], far: bool, base: int, rows: Rows, machine: Machine
) -> tuple[int, int]:
    """(byte, row): the earliest operation that is the last writer of a wrong byte."""
    limits = [limit for _, limit in machine.windows]
    writer = np.full(int(wrong.max()) + 1, -1, np.int64)
    for index, row in enumerate(rows.tolist()):
        touched = footprint(row, machine.chip, limits=limits)
        if far:
            spans = [
                (machine.windows[region[0]][0] + lo, machine.windows[region[0]][0] + hi)
                for region in touched.dram_writes
                for lo, hi in dram_intervals(region)
            ]
        else:
            spans = [(lo - base, hi - base) for r in touched.writes for lo, hi in intervals(r)]
        for lo, hi in spans:
            if hi > 0 and lo < len(writer):
                writer[max(lo, 0) : hi] = index
    by = writer[wrong]
    known = by >= 0
    if not known.any():
        return int(wrong[0]), -1
    first = int(by[known].min())
    return int(wrong[by == first][0]), first


def _text(code: npt.NDArray[np.uint64], pc: int) -> str:
    return (
        disassemble(words_of(code[pc : pc + 1])[0]) if 0 <= pc < len(code) else "(no instruction)"
    )


def _operands(row: Rows) -> str:
    instruction = BY_OPCODE[int(row[R_OPCODE])]
    slots = [f"{n}={int(v)}" for n, v in zip(instruction.slots, row[R_SLOT:], strict=False)]
    config = [
        f"{n}={int(v)}" for n, v in zip(instruction.config, row[R_CONFIG:], strict=False) if n
    ]
    return f"{ENGINES[instruction.engine]} " + " ".join([*slots, *config])
