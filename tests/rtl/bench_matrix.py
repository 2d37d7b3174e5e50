"""MATRIX with its two memories, and random MATMULs that lie in them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from mellivora.isa import BY_NAME, Core
from mellivora.isa.encoding import R_CONFIG, R_SLOT, RESOLVED_FIELDS
from mellivora.isa.modes import B_DWORDS, B_SCALE_BYTES, BFormat, matmul_mode, passes
from mellivora.rtl.banked_memory import BankedMemory
from mellivora.rtl.interfaces import OPERATION, engine_signature, write_port
from mellivora.rtl.matrix_engine import MatrixEngine
from mellivora.rtl.sharing import share
from mellivora.spec import ChipSpec

FILL = 64
INTEGERS = (BFormat.INT8, BFormat.UINT8, BFormat.INT4)


class MatrixBench(wiring.Component):
    """The engine, its memories, a port to fill each, and a view of what it writes."""

    has_reset = True

    def __init__(self, chip: ChipSpec):
        self.chip = chip
        self.module_name = f"matrix_bench_{chip.columns}x{chip.accumulator_rows}_{chip.sram_bytes}"
        super().__init__(
            {
                **engine_signature(1).members,
                "fill": In(write_port(FILL)),
                "fill_acc": In(write_port(FILL)),
                "wrote": Out(write_port(4 * chip.columns)),
                "a_enable": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        chip, engine = self.chip, MatrixEngine(self.chip)
        m.submodules.engine = share(engine)
        reads = {"a": 32, "a_scale": 1, "b0": 2 * chip.columns, "b1": 2 * chip.columns}
        pad = BankedMemory(
            chip.sram_bytes, banks=chip.sram_banks, reads=reads, writes={"fill": FILL}
        )
        width = 4 * chip.columns
        acc = BankedMemory(
            chip.accumulator_bytes,
            banks=8,
            reads={"acc": width},
            writes={"acc": width, "fill": FILL},
        )
        m.submodules.scratchpad, m.submodules.accumulators = share(pad), share(acc)
        for name in reads:
            connect(m, getattr(engine, name), getattr(pad, f"read_{name}"))
        connect(m, engine.acc_read, acc.read_acc)
        connect(m, engine.acc_write, acc.write_acc)
        connect(m, flipped(self.fill), pad.write_fill)
        connect(m, flipped(self.fill_acc), acc.write_fill)
        m.d.comb += [
            engine.op.eq(self.op),
            engine.start.eq(self.start),
            self.ready.eq(engine.ready),
            self.ends.eq(engine.ends),
            self.fault.eq(engine.fault),
            self.active.eq(engine.active),
            self.a_enable.eq(engine.a.enable),
        ]
        for name in ("address", "enable", "data", "mask"):
            m.d.comb += getattr(self.wrote, name).eq(getattr(engine.acc_write, name))
        return m


def row_of(name: str, slots: list[int], config: list[int]) -> list[int]:
    """A resolved row."""
    row = [BY_NAME[name].opcode] + [0] * (RESOLVED_FIELDS - 1)
    row[R_SLOT : R_SLOT + len(slots)] = slots
    row[R_CONFIG : R_CONFIG + len(config)] = config
    return row


def op_words(row: list[int], sequence: int = 0) -> np.ndarray:
    """A row as OPERATION, uint32 words; links and pc made of its sequence."""
    values = {"opcode": row[0], "pc": sequence * 3 & 0xFFFFFF, "sequence": sequence}
    values |= {"post0": sequence % 61, "post1": sequence % 59}
    bits = 0
    for name, value in values.items():
        bits |= value << OPERATION[name].offset
    for name, first in (("slots", R_SLOT), ("config", R_CONFIG)):
        for i in range(8):
            bits |= (row[first + i] & 0xFFFF_FFFF) << OPERATION[name].offset + 32 * i
    words = -(-OPERATION.size // 32)
    return np.array([bits >> 32 * i & 0xFFFF_FFFF for i in range(words)], np.uint32)


@dataclass
class Memory:
    """Contents of the scratchpad, handed out from the bottom up."""

    chip: ChipSpec
    rng: np.random.Generator
    used: int = 0
    data: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.data = self.rng.integers(0, 256, self.chip.sram_bytes, np.uint8)

    def take(self, size: int) -> int | None:
        """Address of so many bytes that nobody else has, at any alignment."""
        at = self.used + int(self.rng.integers(0, 7))
        if at + size > self.chip.sram_bytes:
            return None
        self.used = at + size
        return at


def _e8m0(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    wild = rng.random(shape) < 0.01
    return np.where(wild, rng.integers(0, 256, shape), rng.integers(118, 136, shape))


def _halves(rng: np.random.Generator, count: int) -> np.ndarray:
    size = np.ldexp(rng.standard_normal(count), rng.integers(-18, 3, count)).astype(np.float16)
    bits = size.view(np.uint16)
    wild = rng.random(count) < 0.01
    return np.where(wild, rng.integers(0, 1 << 16, count), bits).astype(np.uint16).view(np.uint8)


def random_matmul(memory: Memory, **given: object) -> list[int] | None:
    """A legal MATMUL and its operands in memory; None where that is full.

    given: fmt, m, n, blocks, and what else is not to be left to chance.
    """
    rng, chip = memory.rng, memory.chip
    columns, most = chip.columns, chip.accumulator_rows

    def choose(name: str, *values: object) -> object:
        return given[name] if name in given else values[int(rng.integers(len(values)))]

    fmt = BFormat(choose("fmt", *BFormat))
    m = int(choose("m", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, int(rng.integers(1, 17)), most - 1, most))
    n = int(choose("n", 0, 1, columns - 1, columns, columns, int(rng.integers(1, columns + 1))))
    blocks = int(choose("blocks", 0, 1, 2, 3, 5))
    integer = bool(choose("integer", *([True, False] if fmt in INTEGERS else [False])))
    multi = fmt in (BFormat.MX8, BFormat.ROWS)
    a_slices = 1 if integer else int(choose("a_slices", 1, 1, 2, 3))
    b_slices = int(choose("b_slices", *([1, 1, 2, 3] if multi else [1])))
    accumulate = bool(choose("accumulate", True, False))
    mode = matmul_mode(
        fmt, a_slices=a_slices, b_slices=b_slices, accumulate=accumulate, int32=integer
    )
    acc_row = int(rng.integers(0, most - m + 1))
    count, wide = max(m, 1), max(n, 1)
    deep = max(blocks, 1)

    a_stride = 32 * deep + int(rng.choice([0, 0, 5]))
    a_plane = a_stride * count
    a = memory.take(a_slices * a_plane)
    a_scale_stride = deep + int(rng.choice([0, 3]))
    a_scale = memory.take(a_scale_stride * count)
    if a is None or a_scale is None:
        return None
    memory.data[a_scale : a_scale + a_scale_stride * count] = _e8m0(rng, (a_scale_stride * count,))

    if fmt == BFormat.ROWS:
        pitches = [
            wide,
            columns // 4,
            columns // 4 + 1,
            columns // 2,
            columns // 2 + 1,
            columns + 3,
        ]
        pitch = max(wide if rng.random() < 0.7 else 0, int(rng.choice(pitches)))
        plane = 32 * deep * pitch + 11
        b = memory.take(b_slices * plane + columns)
        if b is None:
            return None
        config = [a_stride, a_plane, a_scale_stride, pitch, plane, 12345]
    else:
        first = int(rng.choice([0, 0, 1, 5]))
        pitch = wide + first + int(rng.choice([0, 0, 4]))
        dwords, scales = B_DWORDS[fmt] * b_slices, B_SCALE_BYTES[fmt]
        block = (4 * dwords + scales) * pitch
        pace = block + int(rng.choice([0, 0, 2, 9]))
        b = memory.take(deep * pace)
        if b is None:
            return None
        for i in range(deep):
            at = b + i * pace + 4 * dwords * pitch
            if scales:
                size = scales * pitch
                data = _e8m0(rng, (size,)) if scales == 1 else _halves(rng, size // 2)
                memory.data[at : at + size] = data
        if rng.random() < 0.3:
            b, pace = b + (deep - 1) * pace, -pace
        config = [a_stride, a_plane, a_scale_stride, pitch, first, pace]
    low, high = (0, 255) if fmt == BFormat.UINT8 else (-128, 127)
    low, high = (-8, 7) if fmt == BFormat.INT4 else (low, high)
    zeros = [
        int(rng.choice([0, 1, 130, 256])),
        int(rng.choice([0, low, high, 3])),
    ]
    slots = [acc_row, a, a_scale, b, m, blocks, n, mode]
    return row_of("matmul", slots, config + zeros)


def random_accumulators(chip: ChipSpec, rng: np.random.Generator) -> np.ndarray:
    """Bytes: numbers of everyday size, a few wild patterns and negative zeros."""
    count = chip.accumulator_bytes // 4
    values = np.ldexp(rng.standard_normal(count), rng.integers(-10, 10, count)).astype(np.float32)
    bits = values.view(np.uint32)
    bits = np.where(rng.random(count) < 0.05, rng.integers(0, 1 << 32, count), bits)
    return np.where(rng.random(count) < 0.05, 1 << 31, bits).astype(np.uint32).view(np.uint8)


def golden(core: Core, row: list[int]) -> None:
    """The row's meaning on the core."""
    meaning = next(i for i in BY_NAME.values() if i.opcode == row[0]).meaning
    assert meaning is not None
    with np.errstate(all="ignore"):
        meaning(core, row[R_SLOT:R_CONFIG], row[R_CONFIG:RESOLVED_FIELDS])


def run(sim, chip, rows, starts, cycles, pad, accumulators):
    """The bench's outputs by cycle, from the first one after filling; op n is shown until it
    starts."""
    lead = max(len(pad), len(accumulators)) // FILL + 4
    total = lead + cycles
    inputs = {}
    for name, data in (("fill", pad), ("fill_acc", accumulators)):
        count = len(data) // FILL
        lines = np.zeros((total, FILL // 4), np.uint32)
        lines[:count] = data.view(np.uint32).reshape(count, FILL // 4)
        inputs[f"{name}__data"] = lines
        inputs[f"{name}__address"] = np.minimum(np.arange(total), count - 1) * FILL
        inputs[f"{name}__enable"] = np.arange(total) < count
        inputs[f"{name}__mask"] = np.full((1, FILL // 32), 0xFFFF_FFFF, np.uint32)
    words = np.array([op_words(row, i + 1) for i, row in enumerate(rows)])
    index = np.searchsorted(starts, np.arange(cycles))  # the first that has not started before
    op = np.zeros((total, words.shape[1]), np.uint32)
    op[lead:] = words[np.minimum(index, len(rows) - 1)]
    start = np.zeros(total, np.uint32)
    start[lead + np.asarray(starts)] = 1
    out = sim.run(op=op, start=start, **inputs)
    return {name: value[lead:] for name, value in out.items()}


def schedule(row: list[int], chip: ChipSpec) -> tuple[dict, dict]:
    """What MATRIX asks for, by cycle from the start of the operation: ({cycle: row of A}, {cycle:
    bytes of B}), as plain loops."""
    o, c = row[R_SLOT:R_CONFIG], row[R_CONFIG:RESOLVED_FIELDS]
    _, a, a_scale, b, m, blocks, _, mode = o
    fmt, a_slices, b_slices, pitch = BFormat(mode & 15), mode >> 4 & 3, mode >> 6 & 3, c[3]
    rows: dict[int, dict[str, int]] = {}
    loads: dict[int, dict[str, int]] = {}
    first_source = 1 if mode & 256 else 0
    if m <= 0:
        return rows, loads
    if blocks <= 0:
        for r in range(m):
            rows[1 + r] = {"first": r == 0, "swap": r == 0, "a_slice": 0, "source": first_source}
        return rows, loads
    dwords = B_DWORDS[fmt]
    if fmt == BFormat.ROWS:
        rate = 4 if 4 * pitch <= chip.columns else 2 if 2 * pitch <= chip.columns else 1
        order = {1: range(32), 4: range(0, 32, 4)}.get(rate)
        order = order or [4 * g + i for g in range(8) for i in range(2)]
        apart = 2 * pitch if rate > 1 else 0
    load = len(order) if fmt == BFormat.ROWS else dwords + (B_SCALE_BYTES[fmt] > 0)

    def bring(at: int, block: int, j: int) -> None:
        for index in range(load):
            if fmt == BFormat.ROWS:
                b0 = b + j * c[4] + (32 * block + order[index]) * pitch
                one = {"b0": b0, "b1": b0 + apart, "is_scale": 0}
            elif index < dwords:
                b0 = b + 4 * c[4] + block * c[5] + (32 * j + 4 * index) * pitch
                one = {"b0": b0, "b1": b0 + 2 * chip.columns, "is_scale": 0}
            else:
                width = min(B_SCALE_BYTES[fmt], 2)
                b0 = b + block * c[5] + 4 * dwords * b_slices * pitch + width * c[4]
                one = {"b0": b0, "b1": b0 + 2 * pitch, "is_scale": 1}
            loads[at + index] = one | {"load_index": index}

    pairs = [(k, i, j) for k in range(blocks) for i, j in passes(a_slices, b_slices)]
    at, loaded, before = 1 + load, True, 0
    bring(1, 0, 0)
    for number, (k, i, j) in enumerate(pairs):
        after = pairs[number + 1] if number + 1 < len(pairs) else (blocks, 0, 0)
        brings = after[0] != k or after[2] != j
        length = max(m, 3, load if brings else 0)
        source = first_source if not number else 1 if before >= 7 else 2 + before - 3
        for r in range(m):
            step = {"first": r == 0, "swap": loaded and r == 0, "a_slice": i, "source": source}
            place = {"a": a + i * c[1] + 32 * k + r * c[0], "a_scale": a_scale + k + r * c[2]}
            rows[at + r] = step | place
        if brings and after[0] < blocks:
            bring(at, after[0], after[2])
        loaded = brings
        at, before = at + length, length
    return rows, loads
