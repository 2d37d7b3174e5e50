"""A VectorEngine with memories around it, in C++; and the same operations by `isa.meaning`."""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mellivora.isa.encoding import R_CONFIG, R_OPCODE, R_SLOT, RESOLVED_FIELDS, SLOTS
from mellivora.isa.footprint import footprint
from mellivora.isa.state import Core, Fault
from mellivora.isa.table import BY_NAME, BY_OPCODE
from mellivora.rtl import host, simulate
from mellivora.rtl.emit import rtlil
from mellivora.rtl.interfaces import FAULT, OPERATION
from mellivora.rtl.operand_select import d_bytes
from mellivora.rtl.vector_engine import VectorEngine
from mellivora.rtl.vector_writer import write_widths
from mellivora.spec import ChipSpec

BENCH = Path(__file__).with_name("vector_bench.cpp")


@dataclass
class Outcome:
    """start and end cycle [n, 2] of each operation; the fault as (cycle, cause, pc, sequence)."""

    times: np.ndarray
    fault: tuple[int, int, int, int] | None
    cycles: int
    writes: int


def row_of(name: str, slots: Sequence[int], config: Sequence[int] = ()) -> list[int]:
    """A resolved row."""
    row = [0] * RESOLVED_FIELDS
    row[R_OPCODE] = BY_NAME[name].opcode
    row[R_SLOT : R_SLOT + len(slots)] = slots
    row[R_CONFIG : R_CONFIG + len(config)] = config
    return row


def packed(row: Sequence[int], index: int) -> int:
    """The operation as OPERATION has it; pc and sequence tell which it is."""
    value = 0
    for name, number in (
        ("opcode", row[R_OPCODE]),
        ("pc", 3 * index + 1),
        ("sequence", index),
        ("post0", index % 64),
    ):
        value |= number << OPERATION[name].offset
    for name, first in (("slots", R_SLOT), ("config", R_CONFIG)):
        for i, number in enumerate(row[first : first + SLOTS]):
            value |= (number & 0xFFFF_FFFF) << OPERATION[name].offset + 32 * i
    return value


def words_of(value: int, bits: int) -> list[int]:
    """An integer as the words of a port."""
    return [value >> 32 * k & 0xFFFF_FFFF for k in range(-(-bits // 32))]


@functools.cache
def library(chip: ChipSpec) -> ctypes.CDLL:
    engine = VectorEngine(chip)
    lanes = chip.lanes
    reads, writes = "abcd", [f"w{i}" for i in range(4)]

    def each(names: Sequence[str], text: str) -> str:
        return ", ".join(text.format(name) for name in names)

    fills = {
        "READ_BYTES": f"{4 * lanes}, {4 * lanes}, {4 * lanes}, {d_bytes(lanes)}",
        "WRITE_BYTES": ", ".join(map(str, write_widths(lanes))),
        "READ_DATA": each(reads, "words(top.p_{}____data)"),
        "READ_ENABLE": each(reads, "top.p_{}____enable.get<bool>()"),
        "READ_ADDRESS": each(reads, "*words(top.p_{}____address)"),
        "WRITE_ENABLE": each(writes, "top.p_{}____enable.get<bool>()"),
        "WRITE_ADDRESS": each(writes, "*words(top.p_{}____address)"),
        "WRITE_DATA": each(writes, "words(top.p_{}____data)"),
        "WRITE_MASK": each(writes, "words(top.p_{}____mask)"),
        "FAULT_BITS": str(FAULT.size),
        "TOP": simulate._mangle(engine.module_name),
    }
    driver = BENCH.read_text("utf-8")
    for name, text in fills.items():
        driver = driver.replace("{" + name + "}", "{" + text + "}")
        driver = driver.replace(f"::{name} ", f"::{text} ").replace(f"({name} ", f"({text} ")
    text = rtlil(engine)
    digest = hashlib.sha256("\0".join((text, driver, host.compiler()[1])).encode()).hexdigest()[:24]
    target = host.cache_dir() / "rtl" / f"{engine.module_name}-{digest}.so"
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        simulate.make_library(text, driver, target)
    loaded = ctypes.CDLL(str(target))
    loaded.run_vector.restype = ctypes.c_long
    return loaded


def run(
    chip: ChipSpec,
    rows: Sequence[Sequence[int]],
    core: Core,
    *,
    gaps: Sequence[int] | None = None,
    limit: int = 1_000_000,
) -> Outcome:
    """The hardware on the memories of `core`, which it changes."""
    words = -(-OPERATION.size // 32)
    ops = np.zeros((max(len(rows), 1), words), np.uint32)
    for i, row in enumerate(rows):
        ops[i] = words_of(packed(row, i), OPERATION.size)
    times = np.full((len(rows), 2), -1, np.int64)
    fault, writes = np.zeros(8, np.int64), np.zeros(1, np.int64)
    waits = np.asarray(gaps if gaps is not None else [0] * len(rows), np.int32)
    size = ctypes.c_uint32
    cycles = library(chip).run_vector(
        ctypes.c_long(len(rows)),
        ops.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_long(words),
        core.scratchpad.ctypes.data_as(ctypes.c_void_p),
        size(core.scratchpad.nbytes),
        core.accumulators.ctypes.data_as(ctypes.c_void_p),
        size(core.accumulators.nbytes),
        ctypes.c_long(limit),
        waits.ctypes.data_as(ctypes.c_void_p),
        times.ctypes.data_as(ctypes.c_void_p),
        fault.ctypes.data_as(ctypes.c_void_p),
        writes.ctypes.data_as(ctypes.c_void_p),
    )
    found = None
    if fault[0]:
        raw = FAULT.from_bits(int.from_bytes(fault[1:].tobytes(), "little") & (1 << FAULT.size) - 1)
        found = (int(fault[0]), int(raw.cause), int(raw.pc), int(raw.sequence))
    return Outcome(times, found, cycles, int(writes[0]))


def golden(chip: ChipSpec, rows: Sequence[Sequence[int]], core: Core) -> int:
    """The meanings, one after the other; gives the cause of the first fault, or 0."""
    for row in rows:
        try:
            footprint(list(row), chip)
        except Fault as fault:
            return fault.cause
        meaning = BY_OPCODE[row[R_OPCODE]].meaning
        assert meaning is not None
        with np.errstate(all="ignore"):
            meaning(core, row[R_SLOT:R_CONFIG], row[R_CONFIG : R_CONFIG + 8])
    return 0


def costs(chip: ChipSpec, rows: Sequence[Sequence[int]]) -> list[int]:
    return [int(BY_OPCODE[row[R_OPCODE]].cost(np.array([row], np.int64), chip)[0]) for row in rows]


def filled(chip: ChipSpec, rng: np.random.Generator) -> Core:
    """A core with everyday FP32 words, some wild ones, in both memories."""
    core = Core(chip, np.zeros(64, np.uint8), [(0, 64)])
    for memory in (core.scratchpad, core.accumulators):
        words = memory.view(np.uint32)
        words[:] = numbers(rng, words.size)
    return core


def numbers(rng: np.random.Generator, count: int) -> np.ndarray:
    everyday = rng.normal(0, 1, count).astype(np.float32) * np.exp2(rng.integers(-6, 6, count))
    everyday = everyday.astype(np.float32).view(np.uint32)
    wild = rng.integers(0, 2**32, count, dtype=np.uint32)
    specials = np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 1], np.uint32)
    return np.where(
        rng.random(count) < 0.9,
        everyday,
        np.where(rng.random(count) < 0.8, wild, rng.choice(specials, count)),
    )


def copy_of(core: Core) -> Core:
    other = Core(core.chip, core.dram, core.windows)
    other.scratchpad[:] = core.scratchpad
    other.accumulators[:] = core.accumulators
    return other
