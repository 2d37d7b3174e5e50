"""The reference backend of the functional simulator, and every fault's words for both backends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mellivora.isa import control, modes
from mellivora.isa.encoding import (
    ENGINES,
    R_CONFIG,
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
)
from mellivora.isa.footprint import footprint
from mellivora.isa.state import Core, Fault
from mellivora.isa.table import BY_NAME, BY_OPCODE, COLLECTIVES, Instruction

Row = Sequence[int]

_MATMUL = BY_NAME["matmul"].opcode


@dataclass(frozen=True)
class FaultRecord:
    """Where and why the machine stopped; engine by name, cause 1..9 as in `isa.state.FAULTS`."""

    core: int
    engine: str
    pc: int
    cause: int
    detail: str


@dataclass(frozen=True)
class At:
    """A collective that a core has come to."""

    opcode: int
    pc: int
    slots: list[int]


class Lane:
    """One core of the reference backend."""

    def __init__(self, core: Core, sequencer: control.Sequencer) -> None:
        self.core, self.sequencer = core, sequencer
        self.rows: Iterator[Row] = sequencer.stream()
        self.semaphores = [0] * SEMAPHORES
        self.at: At | None = None
        self.ops = self.steps = self.macs = 0

    def run(self) -> Fault | None:
        """Run to the next collective (then `at` says which), HALT or fault."""
        self.at = None
        try:
            for row in self.rows:
                self.ops += 1
                self.steps += row[R_GAP]
                engine = BY_OPCODE[row[R_OPCODE]].engine
                try:
                    if self._step(row):
                        return None
                except Fault as fault:
                    return recorded(fault, self.core.core_id, ENGINES[engine], row[R_PC])
        except Fault as fault:
            return recorded(fault, self.core.core_id, "CONTROL", self.sequencer.pc)
        self.steps += self.sequencer.gap
        self.sequencer.gap = 0
        return None

    def _step(self, row: Row) -> bool:
        """One operation; true at a collective."""
        for semaphore in row[R_WAIT0 : R_WAIT1 + 1]:
            if semaphore:
                self.semaphores[semaphore] -= 1
                if self.semaphores[semaphore] < 0:
                    raise semaphore_fault(semaphore, waits=True)
        for semaphore in row[R_POST0 : R_POST1 + 1]:
            if semaphore:
                self.semaphores[semaphore] += 1
                if self.semaphores[semaphore] > SEMAPHORE_MAX:
                    raise semaphore_fault(semaphore, waits=False)
        slots, config = row[R_SLOT:R_CONFIG], row[R_CONFIG : R_CONFIG + 8]
        if row[R_OPCODE] in COLLECTIVES:
            self.at = At(row[R_OPCODE], row[R_PC], list(slots))
            return True
        perform(self.core, BY_OPCODE[row[R_OPCODE]], slots, config)
        if row[R_OPCODE] == _MATMUL:
            self.macs += matmul_macs(slots)
        return False


def perform(core: Core, instruction: Instruction, slots: Row, config: Row) -> None:
    """Do one instruction by its meaning. If it raises Fault, nothing is written.

    The fault is the first that `isa.footprint` finds, whatever the meaning would meet first.
    """
    assert instruction.meaning
    check(core, instruction.opcode, slots, config)
    with np.errstate(all="ignore"):
        instruction.meaning(core, slots, config)


def check(core: Core, opcode: int, slots: Row, config: Row) -> None:
    """Raise the Fault of an operation that would have one."""
    row = [0] * RESOLVED_FIELDS
    row[R_OPCODE] = opcode
    row[R_SLOT:R_CONFIG] = slots
    row[R_CONFIG : R_CONFIG + len(config)] = config
    footprint(row, core.chip, limits=[limit for _, limit in core.windows])


def matmul_macs(slots: Row) -> int:
    """Multiply-accumulates of a legal MATMUL, every pass counted."""
    m, blocks, n, mode = slots[4:8]
    return (
        max(m, 0)
        * max(n, 0)
        * 32
        * max(blocks, 0)
        * len(modes.passes(mode >> 4 & 3, mode >> 6 & 3))
    )


def semaphore_fault(semaphore: int, *, waits: bool) -> Fault:
    """A wait that nothing before it in program order satisfies, or a post too many."""
    return (
        Fault(7, f"waits on semaphore {semaphore}, which is 0")
        if waits
        else Fault(6, str(semaphore))
    )


def collective_fault(cores: Sequence[Core], at: Sequence[At | None]) -> Fault:
    """Why the cores, standing at these collectives (None: halted), cannot go on.

    Charged to the first core that is at fault by itself; else to the first whose part differs in
    size from core 0's; cores at different collectives: to the first that waits.
    """
    waiting = [index for index, one in enumerate(at) if one]
    first = at[waiting[0]]
    assert first
    for index, one in enumerate(at):
        if one and one.opcode == first.opcode:
            continue
        other = (
            f"core {index} is at {BY_OPCODE[one.opcode].name}"
            if one
            else f"core {index} has halted"
        )
        return _charged(Fault(7, f"{other}"), waiting[0], first)
    for index, one in enumerate(at):
        assert one
        try:
            check(cores[index], one.opcode, one.slots, ())
        except Fault as fault:
            return _charged(fault, index, one)
    for index, one in enumerate(at):
        if one and (one.slots[2], one.slots[4]) != (first.slots[2], first.slots[4]):
            return _charged(Fault(5, "cores exchange different sizes"), index, one)
    raise AssertionError("no fault in this exchange")


def _charged(fault: Fault, core: int, at: At) -> Fault:
    return recorded(fault, core, ENGINES[BY_OPCODE[at.opcode].engine], at.pc)


def recorded(fault: Fault, core: int, engine: str, pc: int) -> Fault:
    """The fault with its record, saying where."""
    fault.record = FaultRecord(core, engine, pc, fault.cause, fault.given)  # type: ignore[attr-defined]
    fault.where = f"core {core}, {engine}, pc {pc}"
    return fault
