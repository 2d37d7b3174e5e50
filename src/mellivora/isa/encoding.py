"""The 128-bit instruction word, and the resolved operation that engines see.

Word, from bit 0 upwards:

    opcode 8 | wait0 6 | wait1 6 | post0 6 | post1 6 | slot0 12 | slot1 12 | ... | slot7 12

A slot is either an immediate 0..2047 (bit 11 clear) or a scalar register (bit 11 set, number in the
low six bits). Semaphore 0 means "none". LI keeps a 32-bit immediate in slots 1 to 3. CONTROL reads
the registers at dispatch, so an engine sees only numbers: the *resolved operation*, one row of
`RESOLVED_FIELDS` int64. Both simulators and the checker work on rows; nothing else is decoded
twice.
"""

from __future__ import annotations

from typing import NamedTuple

SLOTS = 8
SLOT_BITS = 12
REGISTER_FLAG = 1 << 11
IMMEDIATE_MAX = REGISTER_FLAG - 1
REGISTERS = 64
SEMAPHORES = 64
SEMAPHORE_MAX = 255
PARAMETERS = 2048
WORD_BYTES = 16
LOOP_LEVELS = 4
WINDOWS = 16
ACCUMULATOR_BASE = 0x4000_0000
"""VECTOR addresses from here on are accumulator bytes: row r, column c at 4*(r*columns + c)."""
DRAM_UNIT_BYTES = 32
"""LOAD and STORE offsets count units of 32 bytes, so that 32-bit registers reach 64 GiB."""
GATHER_PAGES = 64
"""The most pages of a LOADX: LOAD holds their places from its check of the table to their data."""

CONTROL, LOAD, STORE, MATRIX, VECTOR = range(5)
ENGINES = ("CONTROL", "LOAD", "STORE", "MATRIX", "VECTOR")

R_OPCODE, R_WAIT0, R_WAIT1, R_POST0, R_POST1, R_PC, R_GAP = range(7)
"""Columns of a resolved row; R_GAP counts CONTROL cycles since the previous engine operation."""
R_SLOT = 7
R_CONFIG = R_SLOT + SLOTS
RESOLVED_FIELDS = 24
"""Columns 7..14 are the slots, 15..22 the engine's configuration at dispatch, 23 is spare."""


class Word(NamedTuple):
    """One decoded instruction word; slots are raw 12-bit values."""

    opcode: int
    wait0: int
    wait1: int
    post0: int
    post1: int
    slots: tuple[int, ...]


def pack(word: Word) -> int:
    """The 128-bit integer of a word."""
    value = word.opcode | word.wait0 << 8 | word.wait1 << 14 | word.post0 << 20 | word.post1 << 26
    for index, slot in enumerate(word.slots):
        value |= slot << (32 + SLOT_BITS * index)
    return value


def unpack(value: int) -> Word:
    """The word of a 128-bit integer; every pattern decodes, the checker says what is legal."""
    slots = tuple(value >> (32 + SLOT_BITS * i) & 0xFFF for i in range(SLOTS))
    return Word(
        value & 0xFF,
        value >> 8 & 63,
        value >> 14 & 63,
        value >> 20 & 63,
        value >> 26 & 63,
        slots,
    )


def wide_immediate(slots: tuple[int, ...]) -> int:
    """The signed 32-bit immediate of LI, from slots 1 to 3."""
    raw = (slots[1] | slots[2] << 12 | slots[3] << 24) & 0xFFFF_FFFF
    return raw - (1 << 32) if raw >> 31 else raw


def wide_slots(rd: int, immediate: int) -> tuple[int, ...]:
    """Slots of LI; immediate is any integer whose low 32 bits count."""
    raw = immediate & 0xFFFF_FFFF
    return (rd | REGISTER_FLAG, raw & 0xFFF, raw >> 12 & 0xFFF, raw >> 24, 0, 0, 0, 0)
