"""CONTROL: registers, parameter memory, loops; turns instruction words into resolved operations.

This is the definition. `sim.native` has the same in C++ for long programs; a test holds them equal.
CONTROL never sees data, so the stream of a core is a function of the words and the parameters
alone.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mellivora.isa.encoding import (
    CONTROL,
    LOOP_LEVELS,
    PARAMETERS,
    R_CONFIG,
    R_GAP,
    R_PC,
    R_SLOT,
    REGISTER_FLAG,
    REGISTERS,
    RESOLVED_FIELDS,
    Word,
    unpack,
    wide_immediate,
)
from mellivora.isa.state import Fault
from mellivora.isa.table import BY_OPCODE

WATCHDOG_STEPS = 200_000_000


def wrap(value: int) -> int:
    """value as a signed 32-bit integer."""
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value


def _shift_right(a: int, b: int) -> int:
    return a >> (b & 31)


def _shift_left(a: int, b: int) -> int:
    return a << (b & 31)


def _and(a: int, b: int) -> int:
    return a & b


def _smaller(a: int, b: int) -> int:
    return min(a, b)


def _larger(a: int, b: int) -> int:
    return max(a, b)


_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "min": _smaller,
    "max": _larger,
    "shr": _shift_right,
    "and": _and,
    "shl": _shift_left,
}


class Sequencer:
    """One core's CONTROL.

    words: the program; parameters: int32 values for LDP. Register 0 reads zero; registers 1 and 2
    start as the core's number and the number of cores.
    """

    def __init__(
        self, words: Sequence[Word], parameters: Sequence[int], *, core_id: int, cores: int
    ) -> None:
        self.words, self.parameters = words, parameters
        self.registers = [0] * REGISTERS
        self.registers[1:3] = [core_id, cores]
        self.config = [[0] * 8 for _ in range(5)]
        self.pc, self.gap = 0, 0
        self.loops: list[list[int]] = []

    def value(self, raw: int) -> int:
        """A slot's immediate or register."""
        return self.registers[raw & 63] if raw & REGISTER_FLAG else raw

    def stream(self) -> Iterator[list[int]]:
        """Resolved rows until HALT. Raises Fault with the offending pc in `self.pc`."""
        for _ in range(WATCHDOG_STEPS):
            if not 0 <= self.pc < len(self.words):
                raise Fault(1, f"pc {self.pc} outside the program")
            word = self.words[self.pc]
            row = BY_OPCODE.get(word.opcode)
            if row is None:
                raise Fault(1, f"{word.opcode:#x}")
            self.gap += 1
            if row.engine != CONTROL:
                yield self._resolve(word, row.engine)
            elif row.name == "halt":
                return
            else:
                self._control(word, row.name, row.configures)
            self._advance()
        raise Fault(7, "CONTROL ran too long")

    def _resolve(self, word: Word, engine: int) -> list[int]:
        out = [0] * RESOLVED_FIELDS
        out[:5] = word[:5]
        out[R_PC], out[R_GAP], self.gap = self.pc, self.gap, 0
        out[R_SLOT:R_CONFIG] = [self.value(raw) for raw in word.slots]
        out[R_CONFIG : R_CONFIG + 8] = self.config[engine]
        return out

    def _control(self, word: Word, name: str, configures: int) -> None:
        slots = word.slots
        if configures >= 0:
            self.config[configures] = [self.value(raw) for raw in slots]
        elif name == "loop":
            count, length = self.value(slots[0]), self.value(slots[1])
            if len(self.loops) == LOOP_LEVELS or length < 1:
                raise Fault(8, f"level {len(self.loops)}, length {length}")
            if count <= 0:
                self.pc += length
            else:
                self.loops.append([self.pc + 1, self.pc + length, count])
        elif name != "nop":
            if name == "li":
                result = wide_immediate(slots)
            elif name == "ldp":
                index = self.value(slots[1])
                if not 0 <= index < min(len(self.parameters), PARAMETERS):
                    raise Fault(9, str(index))
                result = int(self.parameters[index])
            else:
                result = _ARITHMETIC[name](self.value(slots[1]), self.value(slots[2]))
            if slots[0] & 63:
                self.registers[slots[0] & 63] = wrap(result)

    def _advance(self) -> None:
        """Next pc; ends of loop bodies are tested innermost first and may coincide."""
        at = self.pc
        self.pc += 1
        while self.loops and self.loops[-1][1] == at:
            self.loops[-1][2] -= 1
            if self.loops[-1][2] > 0:
                self.pc = self.loops[-1][0]
                return
            self.loops.pop()


def words_of(code: npt.NDArray[np.uint64]) -> list[Word]:
    """Words of code [n, 2] uint64, low half first."""
    return [unpack(int(low) | int(high) << 64) for low, high in code]


def resolve(
    code: npt.NDArray[np.uint64], parameters: Sequence[int], *, core_id: int = 0, cores: int = 1
) -> npt.NDArray[np.int64]:
    """All resolved rows [n, RESOLVED_FIELDS] of one core."""
    sequencer = Sequencer(words_of(code), parameters, core_id=core_id, cores=cores)
    rows = list(sequencer.stream())
    return np.array(rows, np.int64).reshape(len(rows), RESOLVED_FIELDS)
