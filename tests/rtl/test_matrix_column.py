"""A column of MATRIX: steps equal `numerics`, and their chain equals its matrix products."""

import numpy as np
import pytest

from mellivora import numerics
from mellivora.rtl.dot32 import B_BITS, CODE_BITS, OFFSET_STAGE, PAIR_BITS, pair_sums
from mellivora.rtl.matrix_column import (
    ACC_STAGE,
    COLUMN_STAGES,
    MATRIX_COLUMN,
    SCALE_STAGE,
    SUM_STAGE,
    Accumulate,
)
from mellivora.rtl.simulate import pack

F32, U32 = np.float32, np.uint32
LATE = {"a_sum": SUM_STAGE, "offset": OFFSET_STAGE} | dict.fromkeys(
    ("sa", "sb", "minimum"), SCALE_STAGE
)
B_FORMATS = ["mxint8", "x2", "x3", "mxfp6", "mxfp4", "q8_0", "q4_0", "q4_1"]


@pytest.fixture
def column(simulation):
    return simulation(MATRIX_COLUMN)


def signed_bytes(a, b):
    """(b less a number of its row, so that signed bytes hold it; what that takes off the dot)."""
    low, high = b.min(axis=1, keepdims=True), b.max(axis=1, keepdims=True)
    taken = np.where((low < -128) | (high > 127), low + 128, 0)
    assert (b - taken).max() < 128
    return b - taken, (a.sum(axis=1, keepdims=True) * taken)[:, 0]


def step(column, mode, *, a, b, acc, sa=1.0, sb=1.0, minimum=0.0):
    """One step on each row, by the hardware; the same operands as `compute` takes."""
    f32 = {name: np.asarray(x, F32) for name, x in (("sa", sa), ("sb", sb), ("minimum", minimum))}
    late = {"acc": ACC_STAGE[mode], **LATE}
    b, offset = signed_bytes(a, b)
    operands = {"a": pack(a, CODE_BITS), "b": pack(b, B_BITS), "acc": acc, **f32}
    operands["offset"] = offset
    operands["pairs"] = pack(pair_sums(a), PAIR_BITS)
    return column.results(
        COLUMN_STAGES[mode], late=late, mode=int(mode), a_sum=np.sum(a, axis=1), **operands
    )["q"]


def operands_of(count, corners, rng):
    """Codes of all 9 bits, B's a row's zero point away from bytes; scales and accumulators of all
    kinds, mostly such that terms matter.

    B's scales are powers of two and FP16 numbers, its minima FP16.
    """
    a, b = rng.integers(-256, 256, (count, 32)), rng.integers(-128, 128, (count, 32))
    b += rng.integers(-128, 129, (count, 1))
    a[:2], b[:2] = -256, -256
    everyday = np.ldexp(rng.standard_normal((3, count)), rng.integers(-20, 20, (3, count)))
    acc, sb, minimum = everyday.astype(F32).view(U32)
    acc[::5] = rng.choice(corners, acc[::5].size)
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    with np.errstate(over="ignore"):
        sb, minimum = (x.view(F32).astype(np.float16) for x in (sb, minimum))
    for x in (sb, minimum):
        x[::5] = rng.choice(halves, x[::5].size)
    sb, minimum = (x.astype(F32).view(U32) for x in (sb, minimum))
    sb[::3] = numerics.from_e8m0(rng.integers(0, 256, sb[::3].size)).view(U32)
    wild = rng.integers(0, 256, count)
    sa = numerics.from_e8m0(np.where(rng.random(count) < 0.1, wild, rng.integers(110, 140, count)))
    return {"a": a, "b": b, "acc": acc, "sa": sa, "sb": sb.view(F32), "minimum": minimum.view(F32)}


@pytest.mark.parametrize("mode", Accumulate, ids=lambda mode: mode.name)
def test_step_bits(mode, column, corners, rng, same_bits):
    """2^18 steps of 32 products for each mode."""
    operands = operands_of(1 << 18, corners, rng)
    expected = MATRIX_COLUMN.compute(mode, **operands)
    same_bits(step(column, mode, **operands), expected, acc=operands["acc"])


@pytest.mark.parametrize("b_fmt", B_FORMATS)
@pytest.mark.parametrize("a_fmt", ["mxint8", "x2", "x3"])
def test_chain_is_block_matmul(a_fmt, b_fmt, column, rng, same_bits):
    """Blocks ascending, passes in order: the bits of `numerics.block_matmul`, every format."""
    m, n, k = 12, 9, 96
    exponents = rng.integers(-8, 8, (m + n, k // 32)).repeat(32, axis=1)
    size = np.ldexp(rng.standard_normal((m + n, k)), exponents)
    a = numerics.quantize(size[:m].astype(F32), a_fmt)
    b = numerics.quantize(size[m:].astype(F32), b_fmt)
    row, col = (x.reshape(-1) for x in np.meshgrid(range(m), range(n), indexing="ij"))
    mode = Accumulate.SCALED if b.offsets is None else Accumulate.OFFSET
    acc = np.zeros(m * n, U32)
    for block in range(k // 32):
        part = slice(32 * block, 32 * block + 32)
        for i, j in numerics.passes(a.slices, b.slices):
            acc = step(
                column,
                mode,
                a=a.slice_codes(i)[row, part].astype(int),
                b=b.slice_codes(j)[col, part].astype(int),
                sa=a.slice_scales(i)[row, block],
                sb=b.slice_scales(j)[col, block],
                minimum=0.0 if b.offsets is None else b.offsets[col, block].astype(F32),
                acc=acc,
            )
    same_bits(acc, numerics.block_matmul(a, b).reshape(-1))


@pytest.mark.parametrize("b_fmt", ["int8", "uint8", "int4"])
@pytest.mark.parametrize("a_fmt", ["int8", "uint8"])
def test_chain_is_int_matmul(a_fmt, b_fmt, column, rng, same_bits):
    """Bytes less their zero points fit 9 bits; the sum wraps."""
    m, n, k = 8, 7, 64
    a = numerics.quantize(rng.standard_normal((m, k)).astype(F32), a_fmt)
    b = numerics.quantize(rng.standard_normal((n, k)).astype(F32), b_fmt)
    row, col = (x.reshape(-1) for x in np.meshgrid(range(m), range(n), indexing="ij"))
    start = rng.integers(2**31 - 10_000, 2**31, (m, n))
    acc = start.reshape(-1).astype(U32)
    for k0 in range(0, k, 32):
        left, right = a.integers()[row, k0 : k0 + 32], b.integers()[col, k0 : k0 + 32]
        acc = step(column, Accumulate.INTEGER, a=left, b=right, acc=acc)
    same_bits(acc, numerics.int_matmul(a, b, acc=start).reshape(-1).view(U32))


@pytest.mark.parametrize("mode", Accumulate, ids=lambda mode: mode.name)
def test_cycles(mode, column, changes_at):
    """From the codes, from the sum of codes, and from the accumulator to the result."""
    ones = pack(np.full((1, 32), 1), CODE_BITS)[0]
    scale = int(F32(1).view(U32))
    b_ones, b_twos = (pack(np.full((1, 32), n), B_BITS)[0] for n in (1, 2))
    first = {"mode": int(mode), "a": ones, "b": b_ones, "sa": scale, "sb": scale, "minimum": scale}
    first |= {"a_sum": 32, "acc": 0, "offset": 0, "pairs": pack(np.full((1, 16), 2), PAIR_BITS)[0]}
    value = (lambda x: x) if mode == Accumulate.INTEGER else (lambda x: int(F32(x).view(U32)))
    base = 64 if mode == Accumulate.OFFSET else 32
    late = {"acc": ACC_STAGE[mode], **LATE}
    changes = [({"b": b_twos}, base + 32), ({"offset": 7}, base + 7)]
    changes.append(({"acc": value(100)}, base + 100))
    if mode == Accumulate.OFFSET:
        changes.append(({"a_sum": 33}, base + 1))
    for change, after in changes:
        pair = (value(base), value(after))
        changes_at(column, COLUMN_STAGES[mode], first, first | change, "q", pair, late)


def test_modes_may_follow_each_other_after_three_cycles(column, corners, rng, same_bits):
    """Ten steps of each mode in turn, three idle ones between: no step disturbs another."""
    count, run, gap = 600, 10, 3
    operands = operands_of(count, corners, rng)
    modes = np.arange(count) // (run + gap) % 3
    rows = np.arange(count)
    extra = max(COLUMN_STAGES.values())
    acc = np.zeros(count + extra, U32)
    due = rows + np.array([ACC_STAGE[Accumulate(mode)] for mode in modes])
    idle = rows % (run + gap) >= run
    acc[due[~idle]] = operands["acc"][~idle]  # idle steps take whatever is there
    wide = {name: np.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1)) for name, x in operands.items()}
    b, offset = signed_bytes(wide["a"], wide["b"])
    shown = column.run(
        mode=np.pad(np.where(idle, Accumulate.SCALED, modes), (0, extra)),
        a=pack(wide["a"], CODE_BITS),
        b=pack(b, B_BITS),
        offset=np.pad(offset, (OFFSET_STAGE, 0))[: count + extra],
        pairs=pack(pair_sums(wide["a"]), PAIR_BITS),
        a_sum=np.pad(wide["a"].sum(axis=1), (SUM_STAGE, 0))[: count + extra],
        acc=acc,
        **{
            name: np.pad(wide[name], (SCALE_STAGE, 0))[: count + extra]
            for name in ("sa", "sb", "minimum")
        },
    )["q"]
    for mode in Accumulate:
        mine = rows[(modes == mode) & ~idle]
        expected = MATRIX_COLUMN.compute(mode, **{name: x[mine] for name, x in operands.items()})
        same_bits(shown[mine + COLUMN_STAGES[mode]], expected, row=mine)
