"""Random VECTOR operations whose operands lie anywhere, without overlap."""

from __future__ import annotations

import numpy as np
from tests.rtl.vector_bench import numbers, row_of

from mellivora.isa.encoding import ACCUMULATOR_BASE
from mellivora.isa.modes import (
    Deq,
    Func,
    Kind,
    Op,
    Reduce,
    Store,
    vew_fn,
    vew_mode,
    vquant_mode,
)
from mellivora.spec import ChipSpec

MX = {Deq.MX1: 1, Deq.MX2: 2, Deq.MX3: 3}
SCALE_BYTES = {Deq.Q8_0: 2, Deq.Q4_0: 2, Deq.Q4_1: 4} | dict.fromkeys(MX, 1)
CODE_BITS = {Deq.F16: 16, Deq.BF16: 16, Deq.INT32: 32, Deq.Q4_0: 4, Deq.Q4_1: 4}


class Places:
    """Room for the operands of one operation: (address, stride), disjoint."""

    def __init__(self, chip: ChipSpec, rng: np.random.Generator) -> None:
        self.rng = rng
        self.left = {0: [0, chip.sram_bytes], 1: [0, chip.accumulator_bytes]}

    def take(self, rows: int, row_bytes: int, *, word: int, read: bool = False) -> tuple[int, int]:
        rng = self.rng
        rows, row_bytes = max(rows, 1), max(row_bytes, 1)
        stride = row_bytes + int(rng.integers(0, 3)) * (4 if word == 4 else 5) * (
            rng.random() < 0.5
        )
        if read and rng.random() < 0.1:
            stride = 0
        size = (rows - 1) * stride + row_bytes
        where = int(rng.random() < 0.3)
        start, end = self.left[where]
        if size + 8 > end - start:
            where = 0
            start, end = self.left[0]
        address = start + int(rng.integers(0, 8))
        address = (address + word - 1) // word * word
        slack = end - address - size
        assert slack >= 0, "operands too large for the test"
        jump = int(rng.integers(0, max(1, slack // 4))) if slack > 0 else 0
        address += jump // word * word
        self.left[where][0] = address + size
        return address + (ACCUMULATOR_BASE if where else 0), stride


def shape(rng: np.random.Generator, lanes: int, *, whole: bool = False) -> tuple[int, int]:
    rows = int(
        rng.choice([0, 1, 1, 2, 3, 5, 7, 16], p=[0.04, 0.2, 0.16, 0.2, 0.15, 0.1, 0.1, 0.05])
    )
    if whole:
        cols = int(rng.choice([0, 32, 64, 96, 128, 160]))
    else:
        edge = [1, lanes - 1, lanes, lanes + 1, 31, 32, 33, 64, 70, 97, 2 * lanes, 3, 130]
        cols = 0 if rng.random() < 0.03 else int(rng.choice(edge))
    if rng.random() < 0.02:
        rows, cols = -rows, cols
    elif rng.random() < 0.02:
        cols = -cols
    return rows, cols


def operand(
    rng: np.random.Generator, places: Places, rows: int, cols: int, kind: Kind
) -> tuple[int, int]:
    if kind == Kind.CONST:
        return int(numbers(rng, 1).view(np.int32)[0]), int(rng.integers(-9, 9))
    if kind == Kind.E8M0:
        return places.take(rows, cols, word=1, read=True)
    return places.take(rows, 4 if kind == Kind.ROW else 4 * cols, word=4, read=True)


def mask_of(rng: np.random.Generator, cols: int) -> list[int]:
    window = int(rng.choice([0, 0, -3, 1, 2, 9, 40, 2**31 - 1]))
    modulo = int(rng.choice([0, 1, 2, 3, -5, 2**31 - 1]))
    limit = int(rng.choice([0, 1, 5, cols, cols // 2, cols + 3, -2, 2**31 - 1, -(2**31)]))
    return [limit, modulo, window]


def vew(rng: np.random.Generator, chip: ChipSpec) -> list[int]:
    rows, cols = shape(rng, chip.lanes)
    places = Places(chip, rng)
    op1, op2 = Op(int(rng.integers(8))), Op(int(rng.integers(8)))
    func = Func(int(rng.integers(9)))
    kinds = Kind(int(rng.integers(4))), Kind(int(rng.integers(4)))
    a, a_stride = places.take(rows, 4 * cols, word=4, read=True)
    b, b_stride = operand(rng, places, rows, cols, kinds[0])
    c, c_stride = operand(rng, places, rows, cols, kinds[1])
    dst, dst_stride = places.take(rows, 4 * cols, word=4)
    if rng.random() < 0.25 and (a_stride or rows == 1):
        dst, dst_stride = a, a_stride  # in place
    masked = bool(rng.random() < 0.4)
    config = [dst_stride, a_stride, b_stride, c_stride, *mask_of(rng, cols)]
    kind_bits = vew_mode(b=kinds[0], c=kinds[1], mask=masked) | int(rng.integers(4)) << 5
    return row_of("vew", [dst, a, b, c, rows, cols, vew_fn(op1, op2, func), kind_bits], config)


def vred(rng: np.random.Generator, chip: ChipSpec) -> list[int]:
    rows, cols = shape(rng, chip.lanes)
    if rng.random() < 0.3:
        rows, cols = min(rows, 3), int(rng.choice([255, 256, 257, 500, 1024]))
    places = Places(chip, rng)
    a, a_stride = places.take(rows, 4 * cols, word=4, read=True)
    dst, dst_stride = places.take(rows, 4, word=4)
    mask = int(rng.choice([0, 0, 1, 6, -1]))
    config = [dst_stride, a_stride, 0, 0, *mask_of(rng, cols)]
    return row_of("vred", [dst, a, rows, cols, int(rng.choice(list(Reduce))), mask], config)


def vquant(rng: np.random.Generator, chip: ChipSpec) -> list[int]:
    target = Store(int(rng.integers(1, 7)))
    wide = bool(rng.random() < 0.4)
    rows, cols = shape(rng, chip.lanes, whole=target <= Store.MX3 and not wide)
    places = Places(chip, rng)
    kind = None if rng.random() < 0.3 else Kind(int(rng.integers(4)))
    a, a_stride = places.take(rows, 4 * cols, word=4, read=True)
    b, b_stride = operand(rng, places, rows, cols, kind or Kind.TENSOR)
    if target > Store.MX3:
        size = 1 if target == Store.INT8 else 2
        dst, dst_stride = places.take(rows, size * cols, word=1)
        scale, scale_stride, plane = -5, 3, 1
    else:
        gap = int(rng.integers(0, 7))
        dst, dst_stride = places.take(1, 3 * (max(rows, 1) * max(cols, 1) + gap), word=1)
        dst_stride, plane = cols, max(rows, 1) * max(cols, 1) + gap
        scale, scale_stride = places.take(rows, 1 if wide else cols // 32, word=1)
    config = [dst_stride, a_stride, b_stride, scale_stride, plane]
    mode = vquant_mode(target, b=kind, wide=wide)
    return row_of("vquant", [dst, scale, a, b, rows, cols, mode], config)


def vdeq(rng: np.random.Generator, chip: ChipSpec) -> list[int]:
    fmt = Deq(int(rng.integers(10)))
    rows, cols = shape(rng, chip.lanes, whole=fmt in SCALE_BYTES)
    places = Places(chip, rng)
    planes = MX.get(fmt, 1)
    row_bytes = CODE_BITS.get(fmt, 8) * max(cols, 1) // 8
    word = 4 if fmt == Deq.INT32 else 1
    if planes > 1:
        src, _ = places.take(1, planes * (max(rows, 1) * row_bytes + 3), word=1)
        src_stride, plane = row_bytes, max(rows, 1) * row_bytes + int(rng.integers(0, 3))
    else:
        src, src_stride = places.take(rows, row_bytes, word=word, read=True)
        plane = 77
    scale, scale_stride = places.take(
        rows, SCALE_BYTES.get(fmt, 1) * max(cols, 1) // 32, word=1, read=True
    )
    dst, dst_stride = places.take(rows, 4 * cols, word=4)
    config = [dst_stride, src_stride, scale_stride, 0, plane]
    return row_of("vdeq", [dst, src, scale, rows, cols, int(fmt)], config)


def vsync(rng: np.random.Generator, chip: ChipSpec) -> list[int]:
    return row_of("vsync", [])
