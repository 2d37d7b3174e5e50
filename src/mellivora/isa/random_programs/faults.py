"""Exactly one wrong instruction, of a given cause, to be put into a program that is else legal."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mellivora.isa.encoding import (
    ACCUMULATOR_BASE,
    LOOP_LEVELS,
    PARAMETERS,
    REGISTER_FLAG,
    SEMAPHORE_MAX,
    SLOTS,
)
from mellivora.isa.footprint import footprint
from mellivora.isa.random_programs.moves import Moves
from mellivora.isa.random_programs.operation import Item, Loop, Memory, Operation, Raw, sync
from mellivora.isa.random_programs.order import SPARE
from mellivora.isa.random_programs.vectors import Impossible
from mellivora.isa.state import Fault
from mellivora.isa.table import BY_OPCODE

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

FOOTPRINT_CAUSES = (2, 3, 4, 5)
_SOURCES: dict[int, tuple[str, ...]] = {
    2: ("load", "loadx", "store"),
    3: ("load", "loadx", "store", "exch", "matmul", "vew", "vred", "vquant", "vdeq"),
    4: ("loadx", "vew", "vred", "vquant", "vdeq"),
    5: (*["loadx"] * 3, "matmul", "vew", "vred", "vquant", "vdeq"),  # one field in 15 can do it
}
_TRIES = 400


def cause_of(op: Operation, chip: ChipSpec, limits: Sequence[int], core: int = 0) -> int:
    """Cause of the fault that an operation has on a core, 0 if none."""
    try:
        footprint(op.row(core, 0), chip, limits=limits)
    except Fault as fault:
        return fault.cause
    return 0


def wrong_operation(
    cause: int,
    pick: random.Random,
    draw: Callable[[str], Operation | None],
    chip: ChipSpec,
    limits: Sequence[int],
) -> Operation:
    """An operation of cause 2 to 5: a legal one with one field changed."""
    for _ in range(_TRIES):
        op = draw(pick.choice(_SOURCES[cause]))
        if op is None:
            continue
        op.per_core.clear()
        if cause_of(op, chip, limits):
            continue
        known = BY_OPCODE[op.opcode]
        count = len(known.slots) + len(known.config)
        for _ in range(12):
            at = pick.randrange(count)
            at = at if at < len(known.slots) else at - len(known.slots) + SLOTS
            before = op.fields[at]
            op.fields[at] = _other(pick, chip, limits, before)
            if cause_of(op, chip, limits) == cause:
                return op
            op.fields[at] = before
    raise AssertionError(f"no operation of cause {cause} was found")


def wrong_page(pick: random.Random, moves: Moves, memory: Memory) -> list[Item]:
    """Cause 2 on every core: a table of which every fourth page is wrong, and a LOADX by it."""
    moves.tables.clear()
    table = moves.table(wrong=True)
    assert memory.take(table, 1, pages=True)
    for _ in range(_TRIES):
        try:
            op = moves.gather()
        except Impossible:
            continue
        op.fields[7] = pick.randint(4, 9)
        pitch = op.fields[SLOTS + BY_OPCODE[op.opcode].config.index("d3")]
        if min(op.fields[4:8]) > 0 and pitch > 0 and memory.take(op, 1):
            return [table, op]
    raise AssertionError("no LOADX by a wrong table was found")


def _other(pick: random.Random, chip: ChipSpec, limits: Sequence[int], value: int) -> int:
    """A value near to or far from a legal one."""
    near = value + pick.choice((-1, 1, 2, -4, 4, 64, -64, 1024))
    ends = (chip.sram_bytes, ACCUMULATOR_BASE, ACCUMULATOR_BASE + chip.accumulator_bytes)
    edge = pick.choice((*ends, chip.columns + 1, chip.accumulator_rows, len(limits), *limits))
    far = pick.choice((-1, -4, (1 << 31) - 1, -(1 << 31), 1 << 20, pick.randrange(1 << 30)))
    out = pick.choice((near, edge, edge - pick.randrange(9), far, value | 1024, value ^ 15))
    return min(max(out, -(1 << 31)), (1 << 31) - 1)


def wrong_control(cause: int, pick: random.Random) -> Raw:
    """Words of CONTROL of cause 1, 8 or 9."""
    any_opcode = next(
        code for code in iter(lambda: pick.randrange(256), None) if code not in BY_OPCODE
    )
    register = 47 | REGISTER_FLAG
    if cause == 1:
        if pick.random() < 0.3:  # past the end of the program
            return Raw([("li", (47, pick.choice((1 << 20, 60000)))), ("loop", (0, register))])
        return Raw([("", (any_opcode | pick.getrandbits(96) << 32,))])
    if cause == 8:
        if pick.random() < 0.5:
            length = pick.choice((0, -1, -(1 << 31)))
            return Raw([("li", (47, length)), ("loop", (pick.randrange(3), register))])
        return Raw([("loop", (1, 9)) for _ in range(LOOP_LEVELS + 1)])
    index = pick.choice((PARAMETERS, PARAMETERS + 1, -1, (1 << 31) - 1, -(1 << 31)))
    return Raw([("li", (47, index)), ("ldp", (pick.choice((0, 46)) | REGISTER_FLAG, register))])


def overflow(pick: random.Random) -> Loop:
    """Cause 6: posts that nobody waits for, one or two an operation."""
    op, semaphore = sync(pick.randrange(4)), pick.choice(SPARE)
    op.posts = [semaphore] * pick.randint(1, 2)
    return Loop(SEMAPHORE_MAX + 1 + pick.randrange(9), [op])


def wait_in_vain(pick: random.Random, items: Sequence[Item]) -> None:
    """Cause 7: one operation outside of loops waits for what nothing posts."""
    able = [item for item in items if isinstance(item, Operation) and len(item.waits) < 2]
    pick.choice(able).waits.insert(0, pick.choice(SPARE))
