"""Encoder, decoder, assembler, disassembler: every word has one text, and every text its word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mellivora.errors import IsaError
from mellivora.isa import (
    BY_NAME,
    BY_OPCODE,
    TABLE,
    Word,
    assemble,
    assemble_line,
    disassemble,
    encode,
    pack,
    unpack,
    words_of,
)
from mellivora.isa.encoding import (
    CONTROL,
    ENGINES,
    IMMEDIATE_MAX,
    REGISTER_FLAG,
    SLOTS,
    wide_immediate,
    wide_slots,
)

patterns = st.integers(0, (1 << 128) - 1)
opcodes = st.sampled_from([row.opcode for row in TABLE])


def test_table_is_consistent() -> None:
    assert len(BY_NAME) == len(BY_OPCODE) == len(TABLE)
    for row in TABLE:
        assert 0 <= row.opcode < 256
        assert len(row.slots) <= SLOTS
        assert len(row.config) <= SLOTS
        assert (row.engine == CONTROL) == (row.opcode < 0x20)
        assert row.name == row.name.lower()
        assert row.meaning is not None or row.engine == CONTROL or row.name in ("exch", "barrier")
        assert row.configures < len(ENGINES)


def test_fields_lie_where_the_manual_says() -> None:
    """Each field alone, by its bit position: an encoder that swapped two would round-trip too."""
    assert pack(Word(0xFF, 0, 0, 0, 0, (0,) * 8)) == 0xFF
    for index, bit in enumerate((8, 14, 20, 26), 1):
        fields = [0] * 5
        fields[index] = 63
        assert pack(Word(*fields, (0,) * 8)) == 63 << bit  # type: ignore[misc]
    for index in range(SLOTS):
        slots = tuple(0xFFF * (i == index) for i in range(SLOTS))
        assert pack(Word(0, 0, 0, 0, 0, slots)) == 0xFFF << (32 + 12 * index)


def test_code_has_the_low_half_first() -> None:
    code = encode([unpack(1 | 2 << 64)])
    assert code.tolist() == [[1, 2]]
    assert code.dtype == np.uint64
    assert encode([]).shape == (0, 2)


@given(patterns)
def test_every_pattern_round_trips(pattern: int) -> None:
    word = unpack(pattern)
    assert pack(word) == pattern
    assert words_of(encode([word])) == [word]
    assert assemble_line(disassemble(word)) == word


@settings(max_examples=400)
@given(opcodes, patterns)
def test_every_pattern_of_a_known_opcode_round_trips(opcode: int, pattern: int) -> None:
    word = unpack(pattern & ~0xFF | opcode)
    assert assemble_line(disassemble(word)) == word


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_slot_value_round_trips(row: object) -> None:
    """All 64 registers and the immediates' corners in every slot, all semaphores in every place."""
    assert isinstance(row, type(TABLE[0]))
    values = [*range(64), 100, IMMEDIATE_MAX - 1, IMMEDIATE_MAX]
    raws = [*values, *(r | REGISTER_FLAG for r in range(64))]
    for index, name in enumerate(row.slots):
        if row.name == "li":
            continue
        for raw in raws:
            slots = [REGISTER_FLAG | 5 if s == "rd" else 0 for s in row.slots] + [0] * SLOTS
            slots[index] = raw
            word = Word(row.opcode, 0, 0, 0, 0, tuple(slots[:SLOTS]))
            text = disassemble(word)
            assert assemble_line(text) == word
            legal = name != "rd" or raw & REGISTER_FLAG
            assert text.startswith(row.name if legal else ".word"), text
    for place in range(4):
        for semaphore in range(64):
            links = [9 * (place % 2)] * 2 + [9 * (place % 2)] * 2
            links[place] = semaphore
            slots = tuple(REGISTER_FLAG | 5 if s == "rd" else 0 for s in row.slots)
            word = Word(row.opcode, *links, (slots + (0,) * SLOTS)[:SLOTS])  # type: ignore[misc]
            assert assemble_line(disassemble(word)) == word


@given(st.integers(0, 63), st.integers(-(1 << 31), (1 << 31) - 1))
def test_wide_immediates(rd: int, value: int) -> None:
    word = assemble_line(f"li r{rd} {value}")
    assert wide_immediate(word.slots) == value
    assert word.slots == wide_slots(rd, value)
    assert disassemble(word) == f"li r{rd} {value}"


def test_text_form() -> None:
    text = """
        ; a comment line

        li r9 0xffffffff      ; minus one
        loop r9 0x1
        load 1 r9 0 0x40 64 1 1 1 ?3 ?4 !5 !6 ; waits and posts
        .word 0xff
        halt
    """
    lines = ["li r9 -1", "loop r9 1", "load 1 r9 0 64 64 1 1 1 ?3 ?4 !5 !6"]
    lines += [".word 0x000000000000000000000000000000ff", "halt"]
    code = assemble(text)
    assert [disassemble(word) for word in words_of(code)] == lines
    assert np.array_equal(assemble("\n".join(lines)), code)


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("fly r1", "fly"),
        ("", ""),
        ("halt r1", "1 operands"),
        ("add r1 r2", "2 operands"),
        ("add r1 r2 r64", "r64"),
        ("add r1 r2 2048", "2048"),
        ("add r1 r2 -1", "-1"),
        ("add 1 r2 r3", "1"),
        ("li 5 3", "5"),
        ("li r5 x", "x"),
        ("li r5 0x100000000", "0x100000000"),
        ("li r5 -2147483649", "-2147483649"),
        ("lsync ?0", "?0"),
        ("lsync ?64", "?64"),
        ("lsync !x", "!x"),
        ("lsync ?1 ?2 ?3", "3 waits, 0 posts"),
        ("lsync !1 !2 !3", "0 waits, 3 posts"),
        ("nop ?1", "1 waits, 0 posts"),
        (".word", ""),
        (".word 1 2", "1 2"),
        (".word zz", "zz"),
        (".word 0x100000000000000000000000000000000", "0x100000000000000000000000000000000"),
    ],
)
def test_wrong_text(line: str, given: str) -> None:
    with pytest.raises(IsaError) as caught:
        assemble_line(line)
    error = caught.value
    assert (error.code, error.given, error.where) == ("MV0601", given, line)
    assert error.allowed


def test_a_wrong_line_of_a_text_is_named() -> None:
    with pytest.raises(IsaError) as caught:
        assemble("nop\nfly\nhalt")
    assert caught.value.where == "fly"
