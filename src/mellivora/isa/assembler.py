"""Text form of programs: one instruction a line, parses back to the same words.

matmul r5 r6 r7 r8 1 18 256 0x1c0 ?3 ?4 !5 !6   ; waits on semaphores 3 and 4, posts 5 and 6
li r9 -4
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mellivora.errors import IsaError
from mellivora.isa.encoding import (
    CONTROL,
    IMMEDIATE_MAX,
    REGISTER_FLAG,
    REGISTERS,
    SEMAPHORES,
    SLOTS,
    Word,
    pack,
    unpack,
    wide_immediate,
    wide_slots,
)
from mellivora.isa.table import BY_NAME, BY_OPCODE


def encode(words: Iterable[Word]) -> npt.NDArray[np.uint64]:
    """Code [n, 2] uint64, low half first."""
    mask = (1 << 64) - 1
    halves = [(value & mask, value >> 64) for value in map(pack, words)]
    return np.array(halves, np.uint64).reshape(len(halves), 2)


def disassemble(word: Word) -> str:
    """One line of text; an unknown opcode gives a `.word` line that parses back too."""
    row = BY_OPCODE.get(word.opcode)
    if row is None or any(word.slots[max(len(row.slots), 4 if row.name == "li" else 0) :]):
        return f".word {pack(word):#034x}"
    if row.name == "li":
        parts = [f"r{word.slots[0] & 63}", str(wide_immediate(word.slots))]
    else:
        parts = [_slot_text(raw) for raw in word.slots[: len(row.slots)]]
    parts += [f"?{s}" for s in word[1:3] if s] + [f"!{s}" for s in word[3:5] if s]
    line = " ".join([row.name, *parts])
    try:
        exact = assemble_line(line) == word
    except IsaError:
        exact = False
    return line if exact else f".word {pack(word):#034x}"


def _slot_text(raw: int) -> str:
    return f"r{raw & 63}" if raw & REGISTER_FLAG else str(raw)


def _bad(line: str, given: str, allowed: str) -> IsaError:
    return IsaError(
        "MV0601",
        "assembly text is wrong",
        where=line.strip(),
        given=given,
        allowed=allowed,
        hint="see docs/isa for the slots of each instruction",
    )


def _parse_slot(text: str, line: str) -> int:
    if text.startswith("r") and text[1:].isdecimal() and int(text[1:]) < REGISTERS:
        return int(text[1:]) | REGISTER_FLAG
    value = _integer(text, line, "a register r0..r63 or an integer")
    if not 0 <= value <= IMMEDIATE_MAX:
        raise _bad(line, text, f"0..{IMMEDIATE_MAX}; larger values go through LI and a register")
    return value


def _integer(text: str, line: str, allowed: str, low: int = -(1 << 31), high: int = 1 << 32) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        raise _bad(line, text, allowed) from None
    if not low <= value < high:
        raise _bad(line, text, allowed)
    return value


def _destination(text: str, line: str) -> int:
    raw = _parse_slot(text, line)
    if not raw & REGISTER_FLAG:
        raise _bad(line, text, "a register r0..r63, where the result goes")
    return raw


def assemble_line(line: str) -> Word:
    """The word of one line; a `;` and what follows is a comment. Raises IsaError MV0601."""
    name, *parts = line.split(";")[0].split() or [""]
    if name == ".word":
        given = parts[0] if len(parts) == 1 else " ".join(parts)
        return unpack(_integer(given, line, "one number of 128 bits", 0, 1 << 128))
    row = BY_NAME.get(name)
    if row is None:
        raise _bad(line, name, ", ".join(BY_NAME))
    waits = [_semaphore(p, line) for p in parts if p[0] == "?"]
    posts = [_semaphore(p, line) for p in parts if p[0] == "!"]
    operands = [p for p in parts if p[0] not in "?!"]
    if len(operands) != len(row.slots):
        raise _bad(line, f"{len(operands)} operands", f"{len(row.slots)}: {' '.join(row.slots)}")
    most = 2 if row.engine != CONTROL else 0
    if len(waits) > most or len(posts) > most:
        given = f"{len(waits)} waits, {len(posts)} posts"
        raise _bad(line, given, f"at most {most} of each: CONTROL has no semaphores, engines two")
    if name == "li":
        rd = _destination(operands[0], line) & 63
        slots = wide_slots(rd, _integer(operands[1], line, "an integer of 32 bits"))
    elif row.slots[:1] == ("rd",):
        slots = (_destination(operands[0], line), *(_parse_slot(p, line) for p in operands[1:]))
    else:
        slots = tuple(_parse_slot(p, line) for p in operands)
    wait0, wait1 = ([*waits, 0, 0])[:2]
    post0, post1 = ([*posts, 0, 0])[:2]
    return Word(row.opcode, wait0, wait1, post0, post1, slots + (0,) * (SLOTS - len(slots)))


def _semaphore(text: str, line: str) -> int:
    if not text[1:].isdecimal() or not 0 < int(text[1:]) < SEMAPHORES:
        raise _bad(line, text, f"1..{SEMAPHORES - 1}")
    return int(text[1:])


def assemble(text: str) -> npt.NDArray[np.uint64]:
    """Code of a whole text; empty lines and `;` comments are skipped."""
    lines = (line.split(";")[0] for line in text.splitlines())
    return encode(assemble_line(line) for line in lines if line.strip())
