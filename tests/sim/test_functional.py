"""Native == reference == meaning, bit for bit: random instructions, every format and shape."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

from mellivora.isa import BY_NAME, Core, Fault, assemble, encode
from mellivora.isa.encoding import ACCUMULATOR_BASE, REGISTER_FLAG, Word, wide_slots
from mellivora.isa.modes import (
    B_DWORDS,
    B_SCALE_BYTES,
    BFormat,
    Deq,
    Func,
    Kind,
    Op,
    Reduce,
    Store,
    matmul_mode,
    vew_fn,
    vew_mode,
    vquant_mode,
)
from mellivora.native import build
from mellivora.sim import functional
from mellivora.sim.functional import Machine
from mellivora.spec import ChipSpec, load_chip

Slots = list[int]
Case = tuple[str, Slots, Slots]  # instruction, slots, configuration

SIZES = [0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 96, 127, 1031]
DRAM_BYTES = 1 << 16
WINDOWS = [(0, DRAM_BYTES // 2), (DRAM_BYTES // 2, 4096)]
CONFIGURES = {"load": "lcfg", "loadm": "lcfg", "loadx": "lcfg", "store": "scfg", "matmul": "mcfg"}


@pytest.fixture(scope="module")
def chip() -> ChipSpec:
    return load_chip("nano").replace(columns=64, accumulator_rows=48, sram_bytes=1 << 18)


@pytest.fixture(params=["machine", "portable"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The native code for this machine, and that for one without vector instructions of note."""
    if request.param == "portable":
        library = build.load("functional", flags=["-mno-avx512f", "-mno-avx2", "-mno-f16c", "-O1"])
        library.mellivora_run.restype = ctypes.c_int64
        library.mellivora_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        monkeypatch.setattr(functional, "_library", lambda: library)
    return request.param


def program_of(case: Case) -> np.ndarray:
    """A program that does one instruction, all its numbers through registers."""
    name, slots, config = case
    numbers = [*slots, *[0] * (8 - len(slots)), *config, *[0] * (8 - len(config))]
    li = BY_NAME["li"].opcode
    words = [Word(li, 0, 0, 0, 0, wide_slots(8 + i, n)) for i, n in enumerate(numbers)]
    configure = BY_NAME[CONFIGURES.get(name, "vcfg")].opcode
    words.append(Word(configure, 0, 0, 0, 0, tuple(REGISTER_FLAG | 16 + i for i in range(8))))
    words.append(
        Word(BY_NAME[name].opcode, 0, 0, 0, 0, tuple(REGISTER_FLAG | 8 + i for i in range(8)))
    )
    words.append(Word(BY_NAME["halt"].opcode, 0, 0, 0, 0, (0,) * 8))
    return encode(words)


def fill(rng: np.random.Generator, size: int) -> np.ndarray:
    """Bytes: any, or FP32 of middling size with some special ones, or E8M0-like ones."""
    kind = rng.integers(3)
    if kind == 0:
        return rng.integers(0, 256, size, np.uint8)
    if kind == 1:
        floats = (rng.normal(size=size // 4) * 2.0 ** rng.integers(-9, 9)).astype(np.float32)
        special = np.array(
            [0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 3e38, 1, 0.5], np.float32
        )
        at = rng.integers(0, floats.size, floats.size // 50)
        floats[at] = rng.choice(special, at.size)
        return floats.view(np.uint8)
    return rng.integers(112, 140, size).astype(np.uint8)


TABLES = np.random.default_rng(3).integers(0, 40, 400).astype(np.int32)
TABLES[::29] = [(-1, 1 << 20, -(1 << 31), 500)[i % 4] for i in range(len(TABLES[::29]))]
"""Pages, a few of them wrong, at the end of the scratchpad."""


class Ways:
    """The same start, run natively, by the reference backend and by the bare meaning."""

    def __init__(self, chip: ChipSpec) -> None:
        self.chip = chip
        self.native = Machine(chip, dram=DRAM_BYTES, windows=WINDOWS, backend="native")
        self.reference = Machine(chip, dram=DRAM_BYTES, windows=WINDOWS, backend="reference")
        self.core = Core(chip, np.zeros(DRAM_BYTES, np.uint8), WINDOWS)

    def memories(self) -> list[list[np.ndarray]]:
        cores = [self.native.cores[0], self.reference.cores[0], self.core]
        return [[core.scratchpad, core.accumulators, core.dram] for core in cores]

    def check(self, rng: np.random.Generator, case: Case, patches: list[tuple[int, int]]) -> str:
        """patches: (address, bytes) of the scratchpad for middling E8M0 scales. Gives the fault."""
        start = [fill(rng, memory.size) for memory in self.memories()[0]]
        start[0][-TABLES.nbytes :] = TABLES.view(np.uint8)
        for address, size in patches:
            if address >= 0 and address + size <= start[0].size:
                start[0][address : address + size] = rng.integers(120, 134, size).astype(np.uint8)
        for memories in self.memories():
            for memory, wanted in zip(memories, start, strict=True):
                memory[...] = wanted
        outcomes = [
            self._run(self.native, case),
            self._run(self.reference, case),
            self._meaning(case, start),
        ]
        assert outcomes[0] == outcomes[1], case
        assert bool(outcomes[1][0]) == bool(outcomes[2][0]), case  # words are the footprint's
        for other in self.memories()[1:]:
            for index, memory in enumerate(other):
                bad = np.flatnonzero(memory != self.memories()[0][index])
                assert not bad.size, (
                    case,
                    ["scratchpad", "accumulators", "dram"][index],
                    hex(bad[0]),
                    bad.size,
                )
        return outcomes[0][0]

    def _run(self, machine: Machine, case: Case) -> tuple[object, ...]:
        machine.load(program_of(case))
        try:
            stats = machine.run()
        except Fault as fault:
            return fault.given + fault.code, fault.record  # type: ignore[attr-defined]
        return "", stats.engine_ops, stats.instructions, stats.macs

    def _meaning(self, case: Case, start: list[np.ndarray]) -> tuple[object, ...]:
        name, slots, config = case
        act = BY_NAME[name].meaning
        assert act
        try:
            with np.errstate(all="ignore"):
                act(
                    self.core,
                    [*slots, *[0] * (8 - len(slots))],
                    [*config, *[0] * (8 - len(config))],
                )
        except Fault as fault:
            for memory, wanted in zip(self.memories()[2], start, strict=True):
                memory[...] = wanted
            return (fault.given + fault.code,)
        return ("",)


def pick(rng: np.random.Generator, most: int = 1 << 30) -> int:
    return int(rng.choice([size for size in SIZES if size <= most]))


def place(rng: np.random.Generator, size: int, memory: int, align: int) -> int:
    """An address where `size` bytes fit, mostly."""
    room = max(memory - size, 0) if rng.random() < 0.97 else memory + 64
    return int(rng.integers(0, room // align + 1)) * align


def matmul_case(
    rng: np.random.Generator, chip: ChipSpec, fmt: BFormat
) -> tuple[Case, list[tuple[int, int]]]:
    m, blocks, n = pick(rng, 33), int(rng.integers(0, 6)), pick(rng, 64)
    integer = fmt in (BFormat.INT8, BFormat.UINT8, BFormat.INT4)
    wants_int = integer and rng.random() < 0.6
    si = 1 if wants_int else int(rng.integers(1, 4))
    sj = int(rng.integers(1, 4)) if fmt in (BFormat.MX8, BFormat.ROWS) else 1
    pitch = n + int(rng.integers(0, 4)) * 5
    rows = fmt == BFormat.ROWS
    block_bytes = (
        32 * pitch if rows else sj * 4 * B_DWORDS[fmt] * pitch + B_SCALE_BYTES[fmt] * pitch
    )
    b_block = block_bytes + int(rng.integers(0, 3)) * 7
    b_plane = blocks * 32 * pitch + 3 if rows else int(rng.integers(-1, pitch - n + 1))
    total_b = b_plane * sj if rows else 9 + b_block * blocks
    a_stride, scale_stride = 32 * blocks + int(rng.integers(0, 9)), blocks + int(rng.integers(0, 4))
    a_plane = a_stride * m + 1
    a = place(rng, a_plane * si, chip.sram_bytes, 1)
    a_scale = place(rng, scale_stride * m, chip.sram_bytes, 1)
    b = place(rng, total_b, chip.sram_bytes, 1)
    if rng.random() < 0.1:  # operands in the accumulators, or crossing into them
        choice = rng.integers(4)
        a = (
            ACCUMULATOR_BASE + place(rng, a_plane * si, chip.accumulator_bytes, 1)
            if choice != 1
            else a
        )
        b = ACCUMULATOR_BASE + place(rng, total_b, chip.accumulator_bytes, 1) if choice == 1 else b
        a_scale = ACCUMULATOR_BASE + 5 if choice == 2 else a_scale
        if choice == 3 and blocks == 2 and not rows:
            b, b_block = 16, ACCUMULATOR_BASE
    acc_row = int(rng.integers(0, max(chip.accumulator_rows - m, 0) + 1))
    mode = matmul_mode(
        fmt, a_slices=si, b_slices=sj, accumulate=rng.random() < 0.5, int32=wants_int
    )
    zeros = [int(rng.integers(0, 257)) if rng.random() < 0.5 else 0, int(rng.integers(-128, 256))]
    case = ("matmul", [acc_row, a, a_scale, b, m, blocks, n, mode],
            [a_stride, a_plane, scale_stride, pitch, b_plane, b_block, *zeros])  # fmt: skip
    patches = [(a_scale, scale_stride * m)] if rng.random() < 0.8 else []
    if B_SCALE_BYTES[fmt] == 1 and rng.random() < 0.9:
        patches += [
            (b + k * b_block + b_plane + sj * 4 * B_DWORDS[fmt] * pitch, n) for k in range(blocks)
        ]
    return case, patches


def tensor(
    rng: np.random.Generator, chip: ChipSpec, rows: int, cols: int, size: int = 4
) -> tuple[int, int]:
    """Address and row stride of a tile somewhere."""
    align = 4 if size == 4 else 1
    stride = (
        cols * size + int(rng.integers(0, 3)) * 4 + (0 if size == 4 else int(rng.integers(0, 3)))
    )
    memory, base = chip.sram_bytes, 0
    if rng.random() < 0.2:
        memory, base = chip.accumulator_bytes, ACCUMULATOR_BASE
    return base + place(rng, stride * rows, memory, align), stride


def vew_case(rng: np.random.Generator, chip: ChipSpec) -> Case:
    rows, cols = pick(rng, 9), pick(rng)
    a, a_stride = tensor(rng, chip, rows, cols)
    kinds = [Kind(int(rng.integers(4))) for _ in range(2)]
    operands = []
    for kind in kinds:
        at, stride = tensor(
            rng, chip, rows, 1 if kind == Kind.ROW else cols, 1 if kind == Kind.E8M0 else 4
        )
        if kind == Kind.CONST:
            at = int(
                np.float32(rng.choice([0.0, -0.0, 1.5, -2.25, np.inf, np.nan, 1e-40])).view(
                    np.int32
                )
            )
        elif rng.random() < 0.2:
            stride = 0
        elif rng.random() < 0.2:
            at, stride = a, a_stride
        operands.append((at, stride))
    dst, dst_stride = tensor(rng, chip, rows, cols)
    where = rng.random()
    if where < 0.3:
        dst, dst_stride = a, a_stride
    elif where < 0.4:
        dst, dst_stride = operands[0][0] & ~3, cols * 4
    elif where < 0.5:
        dst = a + 4
    func = Func(int(rng.integers(len(Func)))) if rng.random() < 0.6 else Func.ID
    fn = vew_fn(Op(int(rng.integers(8))), Op(int(rng.integers(8))), func)
    mask = rng.random() < 0.3
    config = [dst_stride, a_stride, operands[0][1], operands[1][1], *mask_of(rng, cols)]
    slots = [
        dst,
        a,
        operands[0][0],
        operands[1][0],
        rows,
        cols,
        fn,
        vew_mode(b=kinds[0], c=kinds[1], mask=mask),
    ]
    return "vew", slots, config


def mask_of(rng: np.random.Generator, cols: int) -> Slots:
    return [
        int(rng.integers(-3, cols + 3)),
        int(rng.integers(-1, 5)),
        int(rng.choice([0, -1, 1, 4, 40])),
    ]


def vred_case(rng: np.random.Generator, chip: ChipSpec) -> Case:
    rows, cols = pick(rng, 9), pick(rng)
    a, a_stride = tensor(rng, chip, rows, cols)
    dst, dst_stride = (a, 4) if rng.random() < 0.2 else tensor(rng, chip, rows, 1)
    config = [dst_stride, a_stride, 0, 0, *mask_of(rng, cols)]
    return (
        "vred",
        [dst, a, rows, cols, int(rng.integers(len(Reduce))), int(rng.integers(2))],
        config,
    )


def vquant_case(rng: np.random.Generator, chip: ChipSpec) -> Case:
    target, wide = Store(int(rng.integers(1, 7))), rng.random() < 0.3
    rows, cols = pick(rng, 9), pick(rng)
    cols = cols if wide or target > Store.MX3 or rng.random() < 0.1 else cols // 4 * 32
    a, a_stride = tensor(rng, chip, rows, cols)
    size = 2 if target in (Store.F16, Store.BF16) else 1
    dst, dst_stride = tensor(rng, chip, 3 * rows, cols, size)
    if rng.random() < 0.2:
        dst = a
    b_kind = Kind(int(rng.integers(4))) if rng.random() < 0.5 else None
    b, b_stride = tensor(
        rng, chip, rows, 1 if b_kind == Kind.ROW else cols, 1 if b_kind == Kind.E8M0 else 4
    )
    scale, scale_stride = tensor(rng, chip, rows, max(cols // 32, 1), 1)
    config = [dst_stride, a_stride, b_stride, scale_stride, dst_stride * rows]
    return (
        "vquant",
        [dst, scale, a, b, rows, cols, vquant_mode(target, b=b_kind, wide=wide)],
        config,
    )


def vdeq_case(rng: np.random.Generator, chip: ChipSpec) -> Case:
    fmt = Deq(int(rng.integers(len(Deq))))
    rows, cols = pick(rng, 9), pick(rng)
    blocked = Deq.MX1 <= fmt <= Deq.Q4_1
    cols = cols // 4 * 32 if blocked and rng.random() < 0.95 else cols
    size = 2 if fmt in (Deq.F16, Deq.BF16) else 4 if fmt == Deq.INT32 else 1
    src, src_stride = tensor(rng, chip, 3 * rows, cols, size)
    dst, dst_stride = (src & ~3, 4 * cols) if rng.random() < 0.2 else tensor(rng, chip, rows, cols)
    scale, scale_stride = tensor(rng, chip, rows, cols // 8, 1)
    config = [dst_stride, src_stride, scale_stride, 0, src_stride * rows]
    return "vdeq", [dst, src, scale, rows, cols, int(fmt)], config


def dma_case(rng: np.random.Generator, chip: ChipSpec) -> Case:
    few = [0.04, 0.5, 0.2, 0.16, 0.1]
    counts = [pick(rng, 128), *(int(n) for n in rng.choice([0, 1, 2, 3, 5], 3, p=few))]
    strides: Slots = []
    for _ in range(2):  # increasing, so that destinations do not overlap; sometimes contiguous
        reach = counts[0]
        for n in counts[1:]:
            strides.append(reach if rng.random() < 0.5 else reach + int(rng.integers(0, 40)))
            reach = strides[-1] * max(n, 1)
    window = int(rng.choice([0, 0, 0, 1, 2]))
    offset, fine = int(rng.integers(0, 200)), int(rng.integers(-40, 90))
    pad = place(rng, 4096, chip.sram_bytes, 1)
    return (
        str(rng.choice(["load", "loadm", "store"])),
        [window, offset, fine, pad, *counts],
        strides,
    )


def loadx_case(rng: np.random.Generator, chip: ChipSpec) -> Case:
    _, slots, strides = dma_case(rng, chip)
    if rng.random() < 0.1:
        slots[7] = int(rng.choice([63, 64, 65]))
    strides[2] = int(rng.choice([0, 64, 64, 256, 100]))
    if rng.random() < 0.9:  # places may lie over the table, which is read before
        slots[3] = place(rng, 4096, chip.sram_bytes - TABLES.nbytes, 1)
    if rng.random() < 0.2:
        strides[5] = 7
    table = chip.sram_bytes - TABLES.nbytes + 4 * int(rng.integers(300))
    return "loadx", slots, [*strides, table + (rng.random() < 0.05)]


def no_patches(make: Callable[[np.random.Generator, ChipSpec], Case]):
    return lambda rng, chip: (make(rng, chip), [])


MAKERS = {
    **{
        f"matmul-{fmt.name}": (lambda rng, chip, fmt=fmt: matmul_case(rng, chip, fmt))
        for fmt in BFormat
    },
    "vew": no_patches(vew_case),
    "vred": no_patches(vred_case),
    "vquant": no_patches(vquant_case),
    "vdeq": no_patches(vdeq_case),
    "dma": no_patches(dma_case),
    "loadx": no_patches(loadx_case),
}
COUNTS = {"vew": 250, "vred": 100, "vquant": 150, "vdeq": 150, "dma": 100, "loadx": 200}


@pytest.mark.parametrize("maker", MAKERS)
def test_instruction_equals_its_meaning(kernels: str, chip: ChipSpec, maker: str) -> None:
    rng = np.random.default_rng(7)
    ways = Ways(chip)
    count = COUNTS.get(maker, 60)
    faults = sum(bool(ways.check(rng, *MAKERS[maker](rng, chip))) for _ in range(count))
    assert faults < count / 2  # most cases must compute something


def mutate(rng: np.random.Generator, case: Case) -> Case:
    """The same instruction with one number that is mostly wrong."""
    name, slots, config = case
    slots, config = [*slots], [*config]
    wild = int(
        rng.choice([-1, -32, 1, 2, 3, 1 << 30, (1 << 31) - 1, -(1 << 31), 0x1FF, 77, (1 << 30) + 4])
    )
    target = slots if rng.random() < 0.7 else config
    at = int(rng.integers(len(target)))
    target[at] = wild if rng.random() < 0.8 else target[at] ^ 1 << int(rng.integers(20))
    return name, slots, config


def test_faults_are_those_of_the_meaning(kernels: str, chip: ChipSpec) -> None:
    rng = np.random.default_rng(11)
    ways = Ways(chip)
    seen: set[str] = set()
    for maker in [*list(MAKERS)[:-1], *list(MAKERS)[-6:-1] * 4, *["loadx"] * 8]:
        for _ in range(12):
            case, patches = MAKERS[maker](rng, chip)
            case = mutate(rng, case)
            seen.add(ways.check(rng, case, patches)[-6:])
    assert seen >= {"MV0702", "MV0703", "MV0704", "MV0705"}


def test_assembled_program_runs() -> None:
    chip = load_chip("nano")
    machine = Machine(chip, dram=4096, windows=[(0, 4096)], backend="native")
    machine.dram[:4] = np.array([3.0], np.float32).view(np.uint8)
    machine.load(
        assemble("""
        load 0 0 0 64 4 1 1 1 !1
        vcfg 4 4 4 4 0 0 0
        li r9 0x3f800000
        vew 128 64 r9 0 1 1 1 2 ?1 !2      ; 3 + 1
        store 0 1 0 128 4 1 1 1 ?2
        halt
    """)
    )
    stats = machine.run()
    assert machine.dram[32:36].view(np.float32)[0] == 4.0
    assert (stats.engine_ops, stats.instructions, stats.macs) == (3, 6, 0)
