"""float(dot) * scale equals `numerics`, with every kind of scale."""

import numpy as np

from mellivora import numerics
from mellivora.numerics.block import power_of_two
from mellivora.rtl.dot32 import SUM_BITS
from mellivora.rtl.scale_dot import DOT_BITS, SCALE_DOT, ScaleDot
from mellivora.rtl.simulate import build

F32, U32 = np.float32, np.uint32


def scales(count, rng):
    """sa: powers of two, also negative, and NaN; sb: powers of two and FP16 numbers."""
    power = power_of_two(rng.integers(-149, 128, (2, count)))
    sa = np.where(
        rng.random(count) < 0.03, F32("nan"), np.where(rng.random(count) < 0.1, -1, 1) * power[0]
    )
    half = rng.integers(0, 2**16, count, dtype=np.uint16).view(np.float16).astype(F32)
    half[: count // 8] = rng.choice(
        np.array([0, -0.0, np.inf, -np.inf, np.nan, 2.0**-24, 65504], F32), count // 8
    )
    return sa.astype(F32), np.where(rng.random(count) < 0.4, power[1], half).astype(F32), half


def test_bits(rng, simulation, same_bits):
    dots = np.array([0, 1, -1, 2, 3, 127 * 127 * 32, -(2**21) + 2**13, 2**21, 2**21 - 1])
    wild = rng.integers(-(2**21), 2**21 + 1, 1_500_000) >> rng.integers(0, 21, 1_500_000)
    dot = np.concatenate([np.repeat(dots, 50_000), wild])
    sa, sb, _ = scales(dot.size, rng)
    # a half so small that the product of the scales, or the whole one, may be subnormal
    low = power_of_two(rng.integers(-155, -100, dot.size))
    with np.errstate(all="ignore"):
        near = (low / np.where(np.isfinite(sb) & (sb != 0), np.abs(sb), 1)).astype(F32)
    near = power_of_two(np.clip(np.frexp(near)[1], -149, 127))
    sa = np.where(rng.random(dot.size) < 0.5, near, sa)
    got = simulation(SCALE_DOT).results(SCALE_DOT.stages, dot=dot, sa=sa, sb=sb, integer=0)["q"]
    same_bits(got, SCALE_DOT.compute(dot, sa, sb), dot=dot, sa=sa.view(U32), sb=sb.view(U32))


def test_sums_of_codes_with_fp16_scales(rng, same_bits):
    """The narrow kind that Q4_1's minimum goes through."""
    sim = build(ScaleDot(SUM_BITS + 1, half=True))
    dot = rng.integers(-(2**13), 2**13 + 1, 1_000_000) >> rng.integers(0, 13, 1_000_000)
    sa, _, sb = scales(dot.size, rng)
    sa[::2] = power_of_two(rng.integers(-149, -110, sa[::2].size))
    got = sim.results(SCALE_DOT.stages, dot=dot, sa=sa, sb=sb, integer=0)["q"]
    same_bits(got, SCALE_DOT.compute(dot, sa, sb), dot=dot, sa=sa.view(U32), sb=sb.view(U32))


def test_the_widest_dot_fits():
    widest = 32 * 256 * 256
    assert widest.bit_length() + 1 == DOT_BITS
    assert numerics.from_int(2**21) == 2.0**21  # all are exact in FP32: one rounding is enough


def test_cycles(simulation, changes_at):
    half, one, three, six = (int(F32(x).view(U32)) for x in (0.5, 1, 3, 6))
    first = {"dot": 6, "sa": half, "sb": one, "integer": 0}
    sim = simulation(SCALE_DOT)
    for change in ({"dot": 12}, {"sa": one}, {"sb": int(F32(2).view(U32))}):
        changes_at(sim, SCALE_DOT.stages, first, first | change, "q", (three, six))


def test_integers_pass(simulation, rng):
    """Whatever the scales are."""
    dot = np.concatenate([rng.integers(-(2**21), 2**21 + 1, 100_000), [2**21, -1, 0, 1]])
    sa, sb, _ = scales(dot.size, rng)
    operands = {"dot": dot, "sa": sa, "sb": sb, "integer": 1}
    got = simulation(SCALE_DOT).results(SCALE_DOT.stages, **operands)["q"]
    np.testing.assert_array_equal(got, np.abs(dot) | (dot < 0).astype(np.int64) << 31)
