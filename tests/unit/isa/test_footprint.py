"""Footprints against the golden meanings: the bytes touched, and that no others matter."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from mellivora.isa import BY_NAME, Core, Fault
from mellivora.isa.encoding import ACCUMULATOR_BASE, R_CONFIG, R_SLOT, RESOLVED_FIELDS
from mellivora.isa.footprint import Footprint, dram_intervals, footprint, intervals
from mellivora.isa.meaning import exchange
from mellivora.isa.modes import BFormat, Deq, Func, Store
from mellivora.spec import load_chip

CHIP = load_chip("nano").replace(sram_bytes=16384, accumulator_rows=16)
WINDOWS = [(0, 4096), (4096, 8192)]
LIMITS = [limit for _, limit in WINDOWS]
TABLE = 12288  # of LOADX, above all that the rows write
PAGES = [0, 3, 9, 1, 1, 0, 2, -1, 5]
ACCUMULATORS = CHIP.sram_bytes  # the place of accumulator bytes in the joined map of a test


class Recorder(Core):
    """A core that notes which bytes its instructions ask for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.touched = np.zeros(CHIP.sram_bytes + CHIP.accumulator_bytes, bool)

    def tile(
        self, address: int, rows: int, cols: int, stride: int, dtype: type = np.float32
    ) -> npt.NDArray[np.generic]:
        found = super().tile(address, rows, cols, stride, dtype)
        for row in range(rows if cols > 0 else 0):
            _mark(self.touched, address + row * stride, cols * np.dtype(dtype).itemsize)
        return found


def _mark(flags: npt.NDArray[np.bool_], at: int, size: int) -> None:
    at = at - ACCUMULATOR_BASE + ACCUMULATORS if at >= ACCUMULATOR_BASE else at
    flags[at : at + size] = True


def _bytes_of(regions: Sequence[tuple[int, int, int, int]]) -> npt.NDArray[np.bool_]:
    flags = np.zeros(CHIP.sram_bytes + CHIP.accumulator_bytes, bool)
    for region in regions:
        for first, past in intervals(region):
            _mark(flags, first, past - first)
    return flags


def _filled(random_bytes: np.random.Generator) -> Recorder:
    """A core whose memories hold random bytes."""
    core = Recorder(CHIP, random_bytes.integers(0, 256, 12288, np.uint8), WINDOWS)
    core.scratchpad[:] = random_bytes.integers(0, 256, core.scratchpad.size, np.uint8)
    core.accumulators[:] = random_bytes.integers(0, 256, core.accumulators.size, np.uint8)
    core.scratchpad[TABLE : TABLE + 4 * len(PAGES)] = np.array(PAGES, np.int32).view(np.uint8)
    return core


def _row(name: str, slots: Sequence[int], config: Sequence[int]) -> list[int]:
    row = [BY_NAME[name].opcode] + [0] * (RESOLVED_FIELDS - 1)
    row[R_SLOT : R_SLOT + len(slots)] = slots
    row[R_CONFIG : R_CONFIG + len(config)] = config
    return row


def _random_row(pick: random.Random) -> tuple[str, list[int]]:
    """A row of any engine; some are not legal (an odd address, a long stride, an unknown mode)."""

    def pad(align: int = 4) -> int:
        address = pick.randrange(0, 9000) // align * align
        if pick.random() < 0.15:
            address = ACCUMULATOR_BASE + pick.randrange(0, 600) // align * align
        return address + (pick.random() < 0.01) * pick.choice([1, -20000, 1 << 20])

    def count(most: int) -> int:
        return pick.choice([0, 1, 2, 3, most, pick.randint(1, most), pick.randint(-1, most)])

    def stride(width: int) -> int:
        return pick.choice([width, width, width + 4, 0, 4, 256, 128])

    name = pick.choice(
        ["load", "loadm", "loadx", "store", "matmul", "vew", "vred", "vquant", "vdeq", "msync"]
    )
    rows, cols = count(9), pick.choice([32, 64, 96, 1, 7, count(96)])
    if name in ("load", "loadm", "loadx", "store"):
        slots = [pick.choice([0, 1, 1, 2]), pick.randrange(40), pick.randrange(-2, 64), pad(1)]
        slots += [count(64), count(4), count(4), count(4)]
        near = [pick.choice([slots[4], 64, 100, 0, 300]) for _ in range(3)]
        far = [pick.choice([slots[4], 64, 100, 0, 300]) for _ in range(3)]
        if name == "loadx":
            far[2] = pick.choice([0, 64, 64, 192, 100])
            return name, _row(name, slots, [*far, *near, TABLE + pick.choice([0, 4, 8, 1])])
        return name, _row(name, slots, far + near)
    if name == "matmul":
        fmt, n, m = pick.choice(list(BFormat)), pick.choice([8, 8, 3, 1, 0, 9]), count(8)
        deep = fmt in (BFormat.MX8, BFormat.ROWS) or pick.random() < 0.05
        slices = pick.randint(1, 3) if deep else 1
        plain = fmt in (BFormat.INT8, BFormat.UINT8, BFormat.INT4) and pick.random() < 0.5
        mode = fmt | pick.randint(1, 3) << 4 | slices << 6 | pick.randint(0, 1) << 8
        mode = fmt | 1 << 4 | 1 << 6 | pick.randint(0, 1) << 8 | 512 if plain else mode
        mode += (pick.random() < 0.02) * 1024
        first = pick.choice([0, 0, 2, 5]) if fmt != BFormat.ROWS else pick.choice([0, 512, 2048])
        pitch = pick.choice([8, 8, 16, n])
        slots = [count(9), pad(1), pad(1), pad(1), m, count(4), n, mode]
        block = pick.choice([pitch * 34, pitch * 18, 512, 0, -64])
        config = [stride(96), pick.choice([1024, 0]), stride(4), pitch, first, block]
        return name, _row(name, slots, [*config, *pick.choice([(0, 0), (129, 3)])])
    if name == "vew":
        fn = pick.randrange(8) | pick.randrange(8) << 3 | pick.choice([*Func, 11]) << 6
        slots = [pad(), pad(), pad(), pad(), rows, cols, fn, pick.randrange(32)]
    elif name == "vred":
        slots = [pad(), pad(), rows, cols, pick.choice([0, 1, 2, 3]), pick.randrange(2)]
    elif name == "vquant":
        mode = pick.choice([*Store, 7]) | pick.randrange(16) << 3
        slots = [pad(1), pad(1), pad(), pad(), rows, cols, mode]
        block = [stride(cols), stride(4 * cols), stride(4 * cols), stride(3), pick.choice([0, 999])]
        return name, _row(name, slots, block)
    elif name == "vdeq":
        slots = [pad(), pad(), pad(1), rows, cols, pick.choice([*Deq, 12])]
        return name, _row(name, slots, [stride(4 * cols), stride(cols), stride(8), 0, 1000])
    else:
        return name, _row(name, [], [])
    return name, _row(name, slots, [*(stride(4 * cols) for _ in range(4)), 5, 4, 3])


def _run(core: Core, name: str, row: list[int]) -> None:
    meaning = BY_NAME[name].meaning
    assert meaning is not None
    with np.errstate(all="ignore"):
        meaning(core, row[R_SLOT:R_CONFIG], row[R_CONFIG:RESOLVED_FIELDS])


def _footprint(row: list[int]) -> Footprint | None:
    try:
        return footprint(row, CHIP, limits=LIMITS)
    except Fault:
        return None


@pytest.mark.parametrize("seed", range(8))
def test_touches_the_declared_bytes_and_no_others(seed: int) -> None:
    pick, legal = random.Random(seed), 0
    core = _filled(np.random.default_rng(seed))
    for _ in range(250):
        name, row = _random_row(pick)
        core.touched[:] = False
        declared = _footprint(row)
        try:
            _run(core, name, row)
        except Fault as fault:
            wrong_page = name == "loadx" and fault.cause == 2  # data, that no footprint knows
            assert declared is None or wrong_page, (name, row)
            continue
        assert declared is not None, (name, row)
        if name == "loadx":  # of its tiles the table alone
            assert np.array_equal(core.touched, _bytes_of(declared.reads)), row
        elif name not in ("load", "loadm", "store"):  # these do not go through tiles
            expected = _bytes_of([*declared.reads, *declared.writes])
            assert np.array_equal(core.touched, expected), (name, row)
        legal += 1
    assert legal > 60, legal


@pytest.mark.parametrize("seed", range(8))
def test_other_bytes_do_not_matter_and_do_not_change(seed: int) -> None:
    pick, changed = random.Random(100 + seed), 0
    for step in range(100):
        name, row = _random_row(pick)
        declared = _footprint(row)
        if declared is None:
            continue
        one = _filled(np.random.default_rng([seed, step]))
        two = _filled(np.random.default_rng([seed, step, 1]))
        reads, writes = _bytes_of(declared.reads), _bytes_of(declared.writes)
        far_reads, far_writes = np.zeros((2, one.dram.size), bool)
        for flags, regions in (
            (far_reads, declared.dram_reads),
            (far_writes, declared.dram_writes),
        ):
            for region in regions:
                for first, past in dram_intervals(region):
                    base = WINDOWS[region[0]][0]
                    flags[base + first : base + past] = True
        before = [np.concatenate([c.scratchpad, c.accumulators]) for c in (one, two)]
        before[1][reads] = before[0][reads]
        two.scratchpad[:], two.accumulators[:] = np.split(before[1], [two.scratchpad.size])
        two.dram[far_reads] = one.dram[far_reads]
        dram = [one.dram.copy(), two.dram.copy()]
        try:
            _run(one, name, row)
        except Fault:
            assert name == "loadx", row  # a wrong page
            continue
        _run(two, name, row)
        after = [np.concatenate([c.scratchpad, c.accumulators]) for c in (one, two)]
        for core, was, now, far in zip((one, two), before, after, dram, strict=True):
            assert np.array_equal(was[~writes], now[~writes]), (name, row)
            assert np.array_equal(far[~far_writes], core.dram[~far_writes]), (name, row)
        assert np.array_equal(after[0][writes], after[1][writes]), (name, row)
        assert np.array_equal(one.dram[far_writes], two.dram[far_writes]), (name, row)
        changed += bool((before[0] != after[0]).any() or (dram[0] != one.dram).any())
    assert changed > 20, changed


@pytest.mark.parametrize("stride", [24, 80])
def test_exchange(stride: int) -> None:
    """Parts that touch (24 bytes, 24 apart) and parts that do not."""
    chip = CHIP.replace(cores=3)
    cores = [Recorder(chip, np.zeros(64, np.uint8), [], core_id=i) for i in range(3)]
    row = _row("exch", [1000, 40, 24, stride, 4, 300, 32], [])
    exchange(cores, [row[R_SLOT:R_CONFIG]] * 3)
    declared = footprint(row, chip)
    for core in cores:
        assert np.array_equal(core.touched, _bytes_of([*declared.reads, *declared.writes]))
    assert len(declared.writes) == (1 if stride == 24 else 3)


def test_whole_tiles_are_one_region() -> None:
    """What the compiler relies on to be fast: a packed weight tile is one contiguous region."""
    row = _row(
        "matmul",
        [0, 0, 4096, 8192, 4, 4, 8, BFormat.Q4_1 | 1 << 4 | 1 << 6],
        [128, 0, 4, 8, 0, 160],
    )
    size = 4 * 8 * (4 * 4 + 4)  # blocks x columns x (16 bytes of codes, scale and offset)
    assert footprint(row, CHIP).reads[-1] == (8192, 1, size, size)
