"""Timing: when every operation of every core starts and ends, to the cycle.

`simulate` turns resolved rows (`isa.control`) into operations that have only a cost, a number of
DRAM bursts, an engine, a role and semaphores, and gives them to `native/timing.cpp`. The machine
is defined by docs/design/0002-timing.md and, one cycle at a time, by `sim.stepped`. All latencies
come from `isa.latency` through the instruction table. Times are clock edges, counted from 0 when
CONTROL takes its first instruction.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mellivora.errors import UsageError
from mellivora.isa.encoding import (
    CONTROL,
    ENGINES,
    LOAD,
    R_GAP,
    R_OPCODE,
    R_PC,
    R_POST0,
    R_POST1,
    R_SLOT,
    R_WAIT0,
    R_WAIT1,
    RESOLVED_FIELDS,
    SEMAPHORE_MAX,
    SEMAPHORES,
    STORE,
)
from mellivora.isa.latency import PORT_READ_CYCLES, PORT_WRITE_CYCLES, port_rows_in_flight
from mellivora.isa.state import Fault
from mellivora.isa.table import BY_NAME, BY_OPCODE, COLLECTIVES, TABLE
from mellivora.native.build import load
from mellivora.sim.walks import gathered, walks

if TYPE_CHECKING:
    from mellivora.sim.result import TimingResult
    from mellivora.spec import ChipSpec
    from mellivora.spec.dram_timing import DramTiming

Rows = npt.NDArray[np.int64]
Operations = npt.NDArray[np.void]

OUTSTANDING_MAX = 64
TRANSFER_MAX_BYTES = 1 << 40
"""Past every DRAM that a chip may have; keeps the arbiter's products within int64."""
CHUNK_ROWS = 8192
"""Rows lowered at a time: what stays in the cache of the host."""


class Role(IntEnum):
    """What an operation does with its engine."""

    COMPUTE = 0  # holds it until the end
    ORDER = 1  # LSYNC, SSYNC and transfers of no bytes: keep their place in the order of transfers
    TRANSFER = 2
    MULTICAST = 3
    COLLECTIVE = 4


OPERATION = np.dtype(
    [(name, "<i8") for name in ("gap", "cost", "bursts")]
    + [(name, "u1") for name in ("engine", "role", "wait0", "wait1", "post0", "post1")]
    + [("after", "u1"), ("spare", "u1")]
)
"""One operation; engine counts from LOAD = 0. after: starts when all before it in its queue have
ended; a COLLECTIVE does so without. Same as `Operation` in native/timing.cpp."""


class ChipNumbers(NamedTuple):
    """All that the machine knows of a chip. Rates: bursts a cycle, num/den for all, port for a
    requester."""

    queue_depth: int
    outstanding: int
    latency: int
    num: int
    den: int
    port: int

    @staticmethod
    def of(chip: ChipSpec) -> ChipNumbers:
        return ChipNumbers(
            chip.queue_depth,
            chip.outstanding_transfers,
            chip.dram_latency_cycles,
            chip.dram_bursts_num,
            chip.dram_bursts_den,
            chip.core_port_bursts,
        )


class PortNumbers(NamedTuple):
    """Of the memory port, for a device beneath it. Same as `Port` in native/timing_banked.hpp.

    rows_in_flight: cycles with reads, and as many with writes, between grant and answer.
    read_cycles, write_cycles: of the latency, what passes on the chip.
    """

    burst_bytes: int
    rows_in_flight: int
    read_cycles: int = PORT_READ_CYCLES
    write_cycles: int = PORT_WRITE_CYCLES


class MemoryDevice(NamedTuple):
    """A DRAM with banks beneath the arbiter, and what it takes to know where bursts go.

    windows: (base, limit) bytes of the launch. pages: by core, int64 entries of the tables of its
    LOADXs in their order (`sim.functional.Machine.run` gives them); not given, a table counts up.
    """

    timing: DramTiming
    windows: Sequence[tuple[int, int]]
    pages: Sequence[Rows] = ()


def _roles() -> npt.NDArray[np.uint8]:
    roles = np.full(256, Role.COMPUTE, np.uint8)
    for row in TABLE:
        if row.engine in (LOAD, STORE):
            roles[row.opcode] = Role.TRANSFER if row.bursts else Role.ORDER
    roles[BY_NAME["loadm"].opcode] = Role.MULTICAST
    roles[list(COLLECTIVES)] = Role.COLLECTIVE
    return roles


ROLE_OF = _roles()
_LOADX = BY_NAME["loadx"].opcode
ENGINE_OF = np.full(256, CONTROL, np.uint8)
ENGINE_OF[[row.opcode for row in TABLE]] = [row.engine for row in TABLE]


def lower(rows: Rows, chip: ChipSpec) -> Operations:
    """Operations [n] of resolved rows [n, RESOLVED_FIELDS]. Raises Fault 1 for a row no engine
    executes."""
    out = np.zeros(len(rows), OPERATION)
    for at in range(0, len(rows), CHUNK_ROWS):
        _lower(rows[at : at + CHUNK_ROWS], chip, out[at : at + CHUNK_ROWS])
    return out


def _lower(rows: Rows, chip: ChipSpec, out: Operations) -> None:
    opcode = rows[:, R_OPCODE]
    engine = ENGINE_OF[opcode & 255]
    if (wrong := (engine == CONTROL) | (opcode > 255)).any():
        row = rows[int(np.argmax(wrong))]
        raise Fault(1, f"{int(row[R_OPCODE]):#x} at pc {int(row[R_PC])} is not an engine's")
    out["engine"] = engine - LOAD
    out["role"] = ROLE_OF[opcode]
    out["after"] = opcode == _LOADX
    out["gap"] = rows[:, R_GAP]
    for name, column in (
        ("wait0", R_WAIT0),
        ("wait1", R_WAIT1),
        ("post0", R_POST0),
        ("post1", R_POST1),
    ):
        out[name] = rows[:, column]
    for code in np.unique(opcode):
        pick = np.flatnonzero(opcode == code)
        some = rows[pick]
        instruction = BY_OPCODE[int(code)]
        try:
            cost = instruction.cost(some, chip)
        except ValueError as error:  # a format that no enumeration has
            raise Fault(
                5, f"{instruction.name} at pc {int(some[0, R_PC])} or later: {error}"
            ) from error
        out["cost"][pick] = np.maximum(cost, 1)
        if instruction.bursts:
            size = np.prod(
                np.maximum(some[:, R_SLOT + 4 : R_SLOT + 8], 0), axis=1, dtype=np.float64
            )
            if (size > TRANSFER_MAX_BYTES).any():
                pc = int(some[int(np.argmax(size)), R_PC])
                raise Fault(2, f"{instruction.name} at pc {pc} moves {size.max():.3g} bytes")
            out["bursts"][pick] = np.maximum(instruction.bursts(some, chip), 0)


@functools.cache
def _library() -> Any:
    function = load("timing").timing_run
    function.restype = ctypes.c_int64
    return function


def run_operations(
    operations: Sequence[Operations],
    numbers: ChipNumbers,
    device: tuple[DramTiming, PortNumbers, Sequence[Operations]] | None = None,
) -> tuple[list[Rows], list[Rows], list[Rows], Rows]:
    """dispatch, start and end of each core's operations (-1: not reached), and the machine's
    report.

    report: cause (0 or 6), core, row, semaphore, cycle of the last event, then SEMAPHORES counts
    a core. device: what is beneath the arbiter, the memory port, and the walks of each core's
    operations; without, memory answers after a fixed time.
    """
    cores = len(operations)
    tables = [np.ascontiguousarray(table) for table in operations]
    times = [[np.full(len(table), -1, np.int64) for table in tables] for _ in range(3)]
    report = np.zeros(5 + SEMAPHORES * cores, np.int64)

    def pointers(arrays: Sequence[npt.NDArray[Any]]) -> Any:
        return (ctypes.c_void_p * cores)(*(array.ctypes.data for array in arrays))

    lengths = np.array([len(table) for table in tables], np.int64)
    chip = np.array(numbers, np.int64)
    below: list[Any] = [None, None, None]
    if device:
        timing, port = (np.array(part, np.int64) for part in device[:2])
        below = [pointers(device[2]), *(ctypes.c_void_p(p.ctypes.data) for p in (timing, port))]
    _library()(
        ctypes.c_int64(cores),
        pointers(tables),
        ctypes.c_void_p(lengths.ctypes.data),
        ctypes.c_void_p(chip.ctypes.data),
        *(pointers(arrays) for arrays in times),
        ctypes.c_void_p(report.ctypes.data),
        *below,
    )
    dispatch, start, end = times
    return dispatch, start, end, report


def simulate(
    rows_per_core: Sequence[Rows], chip: ChipSpec, device: MemoryDevice | None = None
) -> TimingResult:
    """Run resolved rows [n, RESOLVED_FIELDS] int64, one array for each running core of `chip`.

    device: a DRAM with banks, slower to simulate; without, memory is ideal: a fixed latency and an
    exact rate. Cores not given stay idle and take no part in LOADM, EXCH and BARRIER. Raises
    MachineFault: cause 6 when a semaphore passes its maximum, 7 when nothing can go on (the
    message names what each engine waits for), 5 when the cores' collectives do not match or a
    format does not exist, 1 for an unknown opcode; UsageError for arrays that are not resolved
    rows or more of them than cores.
    """
    from mellivora.sim.result import TimingResult

    _check(rows_per_core, chip)
    operations = [lower(rows, chip) for rows in rows_per_core]
    _check_collectives(rows_per_core, operations)
    dispatch, start, end, report = _run(rows_per_core, operations, chip, device)
    if report[0]:
        core, row, semaphore = (int(value) for value in report[1:4])
        pc = int(rows_per_core[core][row, R_PC])
        engine = ENGINES[LOAD + int(operations[core]["engine"][row])]
        detail = f"core {core}, {engine}, pc {pc}: semaphore {semaphore} past {SEMAPHORE_MAX}"
        raise Fault(int(report[0]), detail)
    if any((ends < 0).any() for ends in end):
        counts = report[5:].reshape(len(operations), SEMAPHORES)
        raise Fault(7, _deadlock(rows_per_core, operations, start, end, counts, int(report[4])))
    return TimingResult(chip, list(rows_per_core), operations, dispatch, start, end)


def _run(
    rows_per_core: Sequence[Rows],
    operations: list[Operations],
    chip: ChipSpec,
    device: MemoryDevice | None,
) -> tuple[list[Rows], list[Rows], list[Rows], Rows]:
    numbers = ChipNumbers.of(chip)
    if not device:
        return run_operations(operations, numbers)
    pages = device.pages or [np.arange(gathered(rows)) for rows in rows_per_core]
    ways = [
        walks(rows, device.windows, table) for rows, table in zip(rows_per_core, pages, strict=True)
    ]
    port = PortNumbers(chip.dram_burst_bytes, port_rows_in_flight(chip))
    return run_operations(operations, numbers, (device.timing, port, [way for way, _ in ways]))


def check_windows(windows: Sequence[tuple[int, int]], chip: ChipSpec) -> None:
    """Windows (base, limit) as the cycles take them: each begins at a burst of DRAM.

    The functional machine needs no such thing. Raises UsageError MV0883.
    """
    for index, (base, _) in enumerate(windows):
        if base % chip.dram_burst_bytes:
            raise UsageError(
                "MV0883",
                "a window does not begin at a burst of DRAM",
                where=f"window {index}",
                given=f"base {base}",
                allowed=f"multiples of {chip.dram_burst_bytes}",
                hint="place windows as Program.placement does",
            )


def _check(rows_per_core: Sequence[Rows], chip: ChipSpec) -> None:
    if not 1 <= len(rows_per_core) <= chip.cores:
        raise UsageError(
            "MV0880",
            "the number of programs does not fit the chip",
            where=f"chip {chip.name}",
            given=f"{len(rows_per_core)} cores with rows",
            allowed=f"1 to {chip.cores}",
            hint="give each core's resolved rows once",
        )
    for core, rows in enumerate(rows_per_core):
        if rows.ndim != 2 or rows.shape[1] != RESOLVED_FIELDS or rows.dtype != np.int64:
            raise UsageError(
                "MV0881",
                "these are not resolved rows",
                where=f"core {core}",
                given=f"{rows.dtype} {list(rows.shape)}",
                allowed=f"int64 [n, {RESOLVED_FIELDS}]",
                hint="use mellivora.isa.resolve",
            )
        if len(rows) and int(rows[:, R_GAP].min()) < 1:
            raise UsageError(
                "MV0882",
                "a row takes no CONTROL cycle",
                where=f"core {core}, row {int(rows[:, R_GAP].argmin())}",
                given=f"gap {int(rows[:, R_GAP].min())}",
                allowed="1 or more",
                hint="dispatch itself is one cycle; use mellivora.isa.resolve",
            )


def _check_collectives(rows_per_core: Sequence[Rows], operations: Sequence[Operations]) -> None:
    """The k-th EXCH or BARRIER, and the k-th LOADM, must be the same on all cores."""
    for roles, names in (((Role.COLLECTIVE,), ("cost",)), ((Role.MULTICAST,), ("bursts",))):
        lists: list[Rows] = []
        for rows, table in zip(rows_per_core, operations, strict=True):
            pick = np.isin(table["role"], roles) & (
                (table["bursts"] > 0) | (roles[0] == Role.COLLECTIVE)
            )
            keys = [rows[pick, R_OPCODE], *(table[name][pick] for name in names), rows[pick, R_PC]]
            lists.append(np.stack(keys, axis=1))
        for core, other in enumerate(lists[1:], 1):
            n = min(len(lists[0]), len(other))
            differ = (lists[0][:n, :2] != other[:n, :2]).any(axis=1)
            if differ.any():
                k = int(np.argmax(differ))
                first, second = (
                    f"core {c}: {BY_OPCODE[int(row[0])].name} at pc {int(row[2])}, "
                    f"{names[0]} {int(row[1])}"
                    for c, row in ((0, lists[0][k]), (core, other[k]))
                )
                raise Fault(5, f"collective {k} differs: {first}; {second}")


def _deadlock(
    rows_per_core: Sequence[Rows],
    operations: Sequence[Operations],
    start: Sequence[Rows],
    end: Sequence[Rows],
    counts: Rows,
    cycle: int,
) -> str:
    """What every engine that has work left waits for."""
    parts: list[str] = []
    for core, (rows, table) in enumerate(zip(rows_per_core, operations, strict=True)):
        for engine in range(len(ENGINES) - LOAD):
            mine = table["engine"] == engine
            flying = np.flatnonzero(mine & (start[core] >= 0) & (end[core] < 0))
            waiting = np.flatnonzero(mine & (start[core] < 0))
            where = f"core {core} {ENGINES[LOAD + engine]}"
            for at, what in ((flying[:1], "has not ended"), (waiting[:1], "")):
                for row in at:
                    one = table[row]
                    lacks = sorted({int(one[w]) for w in ("wait0", "wait1") if one[w]})
                    lacks = [s for s in lacks if counts[core, s] == 0]
                    reason = what or (
                        "waits for semaphore " + ", ".join(map(str, lacks))
                        if lacks
                        else "waits its turn"
                    )
                    if what and one["role"] in (Role.COLLECTIVE, Role.MULTICAST):
                        reason = "waits for other cores"
                    name = BY_OPCODE[int(rows[row, R_OPCODE])].name
                    parts.append(f"{where} pc {int(rows[row, R_PC])} ({name}): {reason}")
    return f"after cycle {cycle}: " + "; ".join(parts)
