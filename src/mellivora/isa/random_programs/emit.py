"""Words of a random program: every field as an immediate or through a register, made in many ways.

A register's value comes from LI, from LDP, or from an arithmetic instruction on two others. What
varies by core is r1 times a step plus a base; what varies by turn is a register that is set before
the loop and grows at the end of its body.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mellivora.isa.control import wrap
from mellivora.isa.encoding import (
    IMMEDIATE_MAX,
    LOAD,
    PARAMETERS,
    REGISTER_FLAG,
    REGISTERS,
    SLOTS,
    Word,
    unpack,
    wide_slots,
)
from mellivora.isa.random_programs.operation import Item, Loop, Operation, Raw
from mellivora.isa.table import BY_NAME, BY_OPCODE, TABLE

_CONFIGURE = {row.configures - LOAD: row for row in TABLE if row.configures >= 0}
"""By engine counted from LOAD."""
_FIRST_FREE, _FIRST_KEPT = 3, 48
"""r3..r47 are taken in turn; the registers after them hold what a loop needs in every turn."""
_CODE = {name: row.opcode for name, row in BY_NAME.items()}


class Emitter:
    """Writes words. parameters: grows by what LDP reads; a list for each core."""

    def __init__(self, pick: random.Random, cores: int) -> None:
        self.pick = pick
        self.words: list[Word] = []
        self.parameters: list[list[int]] = [[] for _ in range(cores)]
        self.holds: dict[int, int] = {}  # value -> register
        self.pinned: set[int] = set()  # registers that the next instruction needs
        self.free, self.kept = _FIRST_FREE, _FIRST_KEPT
        self.config: list[list[int] | None] = [None] * len(_CONFIGURE)

    # ---------------------------------------------------------------------------- words

    def control(self, name: str, *slots: int) -> None:
        """A CONTROL instruction of raw slots."""
        self.words.append(Word(_CODE[name], 0, 0, 0, 0, slots + (0,) * (SLOTS - len(slots))))

    def forget(self) -> None:
        """Where a loop begins or ends, nothing is known of registers and configuration."""
        self.holds.clear()
        self.config = [None] * len(self.config)

    def _register(self) -> int:
        while True:
            at = self.free
            self.free = at + 1 if at + 1 < _FIRST_KEPT else _FIRST_FREE
            if at not in self.pinned:
                break
        self.pinned.add(at)
        self.holds = {value: held for value, held in self.holds.items() if held != at}
        return at

    def value(self, value: int) -> int:
        """A raw slot of this value."""
        if 0 <= value <= IMMEDIATE_MAX and self.pick.random() < 0.85:
            return value
        held = self.holds.get(value)
        if held is None or self.pick.random() < 0.1:
            held = self._register()
            self._fill(held, value)
            self.holds[value] = held
        self.pinned.add(held)
        return held | REGISTER_FLAG

    def _fill(self, register: int, value: int) -> None:
        how = self.pick.randrange(12)
        if how < 5:
            self._li(register, value)
        elif how < 7 and len(self.parameters[0]) < PARAMETERS:
            self._ldp(register, [value] * len(self.parameters))
        else:
            self._compute(register, value)

    def _li(self, register: int, value: int) -> None:
        self.words.append(Word(_CODE["li"], 0, 0, 0, 0, wide_slots(register, value)))

    def _ldp(self, register: int, values: Sequence[int]) -> None:
        at = len(self.parameters[0])
        for memory, value in zip(self.parameters, values, strict=True):
            memory.append(value)
        if self.pick.random() < 0.2:
            self._li(register, at)
            at = register | REGISTER_FLAG
        self.control("ldp", register | REGISTER_FLAG, at)

    def _compute(self, register: int, value: int) -> None:
        """The value as the result of one of CONTROL's eight operations."""
        pick, name = (
            self.pick,
            self.pick.choice(("add", "sub", "mul", "min", "max", "shr", "and", "shl")),
        )
        b = pick.randrange(1, 1 << pick.randrange(1, 12))
        raw_b = b
        if name == "add":
            a = value - b
        elif name == "sub":
            a = value + b
        elif name == "mul":
            b = raw_b = next(x for x in (7, 5, 3, 2, 1) if value % x == 0)
            a = value // b
        elif name == "shl":
            low = (value & -value).bit_length() - 1 if value else 31
            b = pick.randint(0, min(low, 31))
            a, raw_b = value >> b, b + 32 * pick.randrange(2)
        elif name == "shr":
            b = pick.randint(0, max(31 - (value if value >= 0 else ~value).bit_length(), 0))
            a, raw_b = value << b | pick.randrange(1 << b), b + 32 * pick.randrange(2)
        elif name == "and":
            if value < 0 or value > IMMEDIATE_MAX:
                return self._li(register, value)
            raw_b = value | pick.randrange(IMMEDIATE_MAX + 1)
            a = value | (pick.randrange(-(1 << 31), 1 << 31) & ~raw_b)
        else:  # min, max with a constant on the other side
            if not 0 <= value <= IMMEDIATE_MAX:
                return self._li(register, value)
            raw_b = value
            a = pick.randint(value, 1 << 30) if name == "min" else pick.randint(-(1 << 30), value)
        self._li(register, wrap(a))
        slots = [register | REGISTER_FLAG, raw_b]
        if name in ("add", "mul", "and", "min", "max") and pick.random() < 0.5:
            slots.reverse()
        self.control(name, register | REGISTER_FLAG, *slots)
        return None

    def _by_core(self, base: int, step: int) -> int:
        register = self._register()
        out = register | REGISTER_FLAG
        if self.pick.random() < 0.3 and len(self.parameters[0]) < PARAMETERS:
            self._ldp(register, [base + core * step for core in range(len(self.parameters))])
            return out
        self._li(register, step)
        self.control("mul", out, *self.pick.sample((1 | REGISTER_FLAG, out), 2))
        other = self.value(base)
        self.control("add", out, other, out)
        return out

    # ----------------------------------------------------------------------- operations

    def items(self, items: Sequence[Item]) -> None:
        for item in items:
            if isinstance(item, Loop):
                self.loop(item)
            elif isinstance(item, Raw):
                self.raw(item)
            else:
                self.operation(item, {})

    def raw(self, raw: Raw) -> None:
        """Words as they are; nothing is known of the registers after them."""
        for name, slots in raw.words:
            if not name:
                self.words.append(unpack(slots[0]))
            elif name == "li":
                self._li(*slots)
            else:
                self.control(name, *slots)
        self.holds.clear()

    def operation(self, op: Operation, turning: dict[tuple[int, int], int]) -> None:
        """One operation; turning: register of each (base, step) that grows by turns."""
        self.pinned.clear()
        slots = self._raw(op, 0, turning)
        configure = _CONFIGURE[op.engine]
        count = len(configure.slots)
        varies = any(at >= SLOTS for at in (*op.per_core, *op.per_turn))
        wanted = op.fields[SLOTS : SLOTS + count]
        uses = any(wanted) or bool(BY_OPCODE[op.opcode].config)
        if uses and (varies or self.config[op.engine] != wanted):
            config = self._raw(op, SLOTS, turning)[:count]
            self.control(configure.name, *config)
            self.config[op.engine] = None if varies else wanted
        (wait0, wait1), (post0, post1) = [*op.waits, 0, 0][:2], [*op.posts, 0, 0][:2]
        self.words.append(Word(op.opcode, wait0, wait1, post0, post1, tuple(slots)))

    def _raw(self, op: Operation, first: int, turning: dict[tuple[int, int], int]) -> list[int]:
        out: list[int] = []
        known = BY_OPCODE[op.opcode]
        names = known.slots if first == 0 else _CONFIGURE[op.engine].slots
        for at in range(first, first + SLOTS):
            base = op.fields[at]
            if at - first >= len(names):
                out.append(0)
            elif at in op.per_turn:
                out.append(turning[base, op.per_turn[at]] | REGISTER_FLAG)
            elif at in op.per_core:
                out.append(self._by_core(base, op.per_core[at]))
            else:
                out.append(self.value(base))
        return out

    # ---------------------------------------------------------------------------- loops

    def loop(self, loop: Loop) -> None:
        """LOOP, its body, and the steps of what varies by turns at its end."""
        turning: dict[tuple[int, int], int] = {}
        for item in loop.body:
            if isinstance(item, Operation):
                for at, step in item.per_turn.items():
                    turning.setdefault((item.fields[at], step), 0)
        before = self.kept
        for base, step in turning:
            turning[base, step] = self.kept
            self._li(self.kept, base)
            self.kept += 1
        self.pinned.clear()
        count = 1 | REGISTER_FLAG if loop.count is None else self.value(loop.count)
        through_register = self.pick.random() < 0.3
        length_register = self.kept if through_register else 0
        if through_register:
            self.words.append(Word(_CODE["li"], 0, 0, 0, 0, wide_slots(self.kept, 0)))
        set_at = len(self.words) - 1
        at = len(self.words)
        self.control("loop", count, 0)
        self.forget()
        for item in loop.body:
            if isinstance(item, Loop):
                self.loop(item)
            elif isinstance(item, Raw):
                self.raw(item)
            else:
                self.operation(item, turning)
        for (_, step), register in turning.items():
            self.pinned.clear()
            raw = register | REGISTER_FLAG
            if 0 <= -step <= IMMEDIATE_MAX and step < 0:
                self.control("sub", raw, raw, -step)
            else:
                self.control("add", raw, raw, self.value(step))
        if len(self.words) == at + 1:
            self.control("nop")
        length = len(self.words) - at - 1
        if through_register:
            self.words[set_at] = Word(_CODE["li"], 0, 0, 0, 0, wide_slots(length_register, length))
        raw_length = length_register | REGISTER_FLAG if through_register else length
        self.words[at] = Word(_CODE["loop"], 0, 0, 0, 0, (count, raw_length, *(0,) * (SLOTS - 2)))
        self.forget()
        self.kept = before
        assert self.kept < REGISTERS
