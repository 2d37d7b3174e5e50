"""What a front needs around it in tests: memories of words and parameters, random programs."""

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa import BY_NAME, TABLE, Word
from mellivora.isa.encoding import PARAMETERS, REGISTER_FLAG, SLOTS, wide_slots
from mellivora.rtl.interfaces import OPERATION, PC_BITS

IMEM_WORDS = 1024
FIELDS = ("opcode", "wait0", "wait1", "post0", "post1", "pc", "sequence")


class Memories(wiring.Component):
    """A synchronous instruction memory and an asynchronous parameter memory, with write ports."""

    fill_word: In(128)
    fill_address: In(16)
    fill_words: In(1)
    fill_parameters: In(1)
    fetch_address: In(PC_BITS)
    fetch_word: Out(128)
    parameter_address: In((PARAMETERS - 1).bit_length())
    parameter_value: Out(32)
    has_reset = True
    module_name = "bench_memories"

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = memory.Memory(shape=128, depth=IMEM_WORDS, init=[])
        m.submodules.parameters = parameters = memory.Memory(shape=32, depth=PARAMETERS, init=[])
        fetch, read = words.read_port(), parameters.read_port(domain="comb")
        fill, write = words.write_port(), parameters.write_port()
        m.d.comb += [
            fetch.addr.eq(self.fetch_address),
            self.fetch_word.eq(fetch.data),
            read.addr.eq(self.parameter_address),
            self.parameter_value.eq(read.data),
            fill.addr.eq(self.fill_address),
            fill.data.eq(self.fill_word),
            fill.en.eq(self.fill_words),
            write.addr.eq(self.fill_address),
            write.data.eq(self.fill_word),
            write.en.eq(self.fill_parameters),
        ]
        return m


def filling(code: np.ndarray, parameters: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of the memories' inputs that write both, one word a cycle."""
    count = len(code) + len(parameters)
    word = np.zeros((count, 4), np.uint32)
    word[: len(code)] = np.ascontiguousarray(code).view(np.uint32).reshape(-1, 4)
    word[len(code) :, 0] = np.asarray(parameters, np.int64).astype(np.uint32)
    is_word = np.arange(count) < len(code)
    return {
        "fill_word": word,
        "fill_address": np.concatenate([np.arange(len(code)), np.arange(len(parameters))]),
        "fill_words": is_word,
        "fill_parameters": ~is_word,
    }


def layout_words(layout, rows: list[dict[str, int]]) -> np.ndarray:
    """One row of words of a port that is an array of a layout; fields left out are 0."""
    value = 0
    for i, row in enumerate(rows):
        for name, number in row.items():
            value |= int(number) << i * layout.size + layout[name].offset
    count = -(-layout.size * len(rows) // 32)
    return np.frombuffer(value.to_bytes(4 * count, "little"), np.uint32)


def operations(words: np.ndarray) -> list[dict[str, object]]:
    """Operations shown on a port of OPERATION: fields, slots and config as Python integers."""
    bits = [sum(int(w) << 32 * i for i, w in enumerate(row)) for row in words]
    return [operation(value) for value in bits]


def operation(value: int) -> dict[str, object]:
    out: dict[str, object] = {}
    for name in FIELDS:
        field = OPERATION[name]
        out[name] = value >> field.offset & (1 << field.width) - 1
    for name in ("slots", "config"):
        raw = value >> OPERATION[name].offset
        numbers = [raw >> 32 * i & 0xFFFF_FFFF for i in range(SLOTS)]
        out[name] = [n - (1 << 32) if n >> 31 else n for n in numbers]
    return out


ENGINE_OPCODES = [row.opcode for row in TABLE if row.engine]
ARITHMETIC = [
    BY_NAME[name].opcode for name in ("add", "sub", "mul", "min", "max", "shr", "and", "shl")
]


def random_word(rng: np.random.Generator) -> Word:
    """CONTROL instructions mostly; loops short and small; now and then something illegal."""
    slots = tuple(int(slot) for slot in rng.integers(0, 1 << 12, SLOTS))
    links = tuple(int(s) for s in rng.integers(0, 64, 4))
    kind = rng.random()

    def of(name: str, *first: int) -> Word:
        return Word(BY_NAME[name].opcode, *links, (*first, *slots[len(first) :]))

    if kind < 0.25:
        low = tuple(REGISTER_FLAG | int(r) for r in rng.integers(0, 8, 3))  # that are written
        some = low if rng.random() < 0.6 else slots
        return Word(int(rng.choice(ARITHMETIC)), *links, (*some[:3], *slots[3:]))
    if kind < 0.36:
        wide = rng.random() < 0.5
        value = int(rng.integers(-(1 << 31), 1 << 31) if wide else rng.integers(-2, 9))
        register = int(rng.integers(0, 8 if rng.random() < 0.6 else 64))
        return of("li", *wide_slots(register, value)[:4])
    if kind < 0.42:
        index = int(rng.integers(0, 12)) if rng.random() < 0.95 else slots[1]
        return of("ldp", slots[0], index)
    if kind < 0.55:
        length = int(rng.integers(1, 9)) if rng.random() < 0.97 else slots[1] * int(rng.integers(2))
        count = int(rng.integers(0, 4)) if rng.random() < 0.9 else slots[0]
        return of("loop", count, length)
    if kind < 0.68:
        return of(str(rng.choice(["lcfg", "scfg", "mcfg", "vcfg", "nop"])))
    if kind < 0.997:
        return Word(int(rng.choice(ENGINE_OPCODES)), *links, slots)
    return Word(int(rng.integers(256)), *links, slots)
