"""A column's operand B: every format's codes and scales, by the golden model's own unpacking."""

import functools

import numpy as np
import pytest

from mellivora.isa.meaning import _b_codes, _b_scales
from mellivora.isa.modes import B_DWORDS, B_SCALE_BYTES, BFormat
from mellivora.isa.state import Core
from mellivora.rtl.b_column import B_CONTROL, BColumn
from mellivora.rtl.b_control import FRACTION_BITS, HALF, SCALED
from mellivora.rtl.b_unpack import FLOATING, NIBBLES, SIX_GROUPS, SIX_ORDER
from mellivora.rtl.dot32 import B_BITS
from mellivora.rtl.simulate import build, pack, unpack
from mellivora.spec import load_chip

CHIP = load_chip("nano")
WORDS = -(-B_CONTROL.size // 32)
BLOCKS = 200


@functools.cache
def sim():
    return build(BColumn())


def control(**fields):
    """A row of B_CONTROL; fields of `unpack` by their own names."""
    bits = 0
    for name, value in fields.items():
        inner = name in B_CONTROL["unpack"].shape.members
        field = B_CONTROL["unpack"].shape[name] if inner else B_CONTROL[name]
        offset = field.offset + (B_CONTROL["unpack"].offset if inner else 0)
        bits |= (int(value) & (1 << field.width) - 1) << offset
    return [bits >> 32 * i & 0xFFFF_FFFF for i in range(WORDS)]


def slots_of(fmt, dword):
    """Codes that a dword brings, a bit each."""
    groups = [dword]
    if fmt in NIBBLES:
        groups = [dword, dword + 4]
    if fmt == BFormat.MXFP6:
        groups = SIX_GROUPS[dword]
    return sum(0xF << 4 * group for group in groups)


def lines_of(fmt, data, j):
    """[(control, dword, rows, scale, minimum)] that bring one block: codes, scale, swap."""
    static = {
        "nibbles": fmt in NIBBLES,
        "floating": fmt in FLOATING,
        "six": fmt == BFormat.MXFP6,
        "less_eight": fmt == BFormat.Q4_0,
        "signed_nibbles": fmt != BFormat.Q4_1,
        "is_signed": j == 0 and fmt != BFormat.UINT8,
        "rows": fmt == BFormat.ROWS,
        "half": fmt in HALF,
        "unit": fmt not in SCALED,
        "offset": fmt == BFormat.Q4_1,
        "shift": FRACTION_BITS.get(fmt, 0) + 8 * j,
    }
    codes, scale = data[: 4 * B_DWORDS[fmt]], data[-4:].view(np.uint16)
    lines = []
    if fmt == BFormat.ROWS:
        for k in range(0, 32, 4):
            four = int(codes[k : k + 4].copy().view(np.uint32)[0])
            lines.append((control(**static, slots=0xF << k), 0xDEAD, four, 0, 0))
    else:
        for d, dword in enumerate(codes.view(np.uint32)):
            six = {"six_carry": d % 3, "six_upper": d >= 3}
            lines.append((control(**static, **six, slots=slots_of(fmt, d)), int(dword), 77, 0, 0))
    if B_SCALE_BYTES[fmt]:
        lines.append((control(**static, scale=1), 0, int(data[-4]), int(scale[0]), int(scale[1])))
    lines += [(control(**static, **{swap: 1}), 123, 456, 789, 0) for swap in ("swap", "swap_scale")]
    return lines


@pytest.mark.parametrize("j", [0, 1, 2])
@pytest.mark.parametrize("fmt", BFormat, ids=lambda fmt: fmt.name)
def test_codes_and_scales(fmt, j, rng):
    """What the golden model reads of a memory with these bytes, n = pitch = 1."""
    if j and fmt not in (BFormat.MX8, BFormat.ROWS):
        j = 0
    dwords, scale_bytes = B_DWORDS[fmt], B_SCALE_BYTES[fmt]
    size = 32 if fmt == BFormat.ROWS else 4 * dwords
    lines, ends, codes, scales, minima = [], [], [], [], []
    for _ in range(BLOCKS):
        data = rng.integers(0, 256, size + 4, np.uint8)
        lines += lines_of(fmt, data, j)
        ends.append(len(lines))
        core = Core(CHIP, np.zeros(0, np.uint8), [])
        core.scratchpad[j * size : (j + 1) * size] = data[:size]
        core.scratchpad[(j + 1) * size : (j + 1) * size + 4] = data[-4:]
        o = [0, 0, 0, 0, 1, 1, 1, 0]
        c = [0, 0, 0, 1, 32 if fmt == BFormat.ROWS else 0, 0, 0, 0]
        codes.append(_b_codes(core, o, c, fmt, 0, j)[0])
        with np.errstate(all="ignore"):
            scale, minimum = _b_scales(core, o, c, fmt, 0, j, j + 1)
        scales.append(scale[0, 0]), minima.append(minimum[0, 0])
    names = ("control", "dword", "rows", "half_scale", "half_minimum")
    inputs = {name: np.array([line[i] for line in lines]) for i, name in enumerate(names)}
    idle = {name: np.concatenate([value, value[:1] * 0]) for name, value in inputs.items()}
    out = sim().run(**idle)

    got = unpack(out["b"][ends], B_BITS, 32)
    got = np.where(got >= 128, got - 256, got)
    if j or fmt == BFormat.UINT8:
        got += 128
    order = np.arange(32)
    if fmt == BFormat.MXFP6:
        order = np.array([4 * SIX_ORDER[e // 4] + e % 4 for e in range(32)])
    np.testing.assert_array_equal(got[:, order], np.array(codes))
    nan = np.float32(np.nan)
    expected = np.where(np.isnan(scales), nan, scales).astype(np.float32).view(np.uint32)
    np.testing.assert_array_equal(out["sb"][ends], expected)
    if fmt == BFormat.Q4_1:
        expected = np.where(np.isnan(minima), nan, minima).astype(np.float32).view(np.uint32)
        np.testing.assert_array_equal(out["minimum"][ends], expected)
    assert scale_bytes == 0 or len(set(scales)) > 20


def test_shown_holds_while_the_next_comes_in(rng):
    """Before `swap`, and in its own cycle, the old block is shown; a dword in that cycle counts
    for the next."""
    first, second = rng.integers(0, 256, (2, 36), np.uint8)
    lines = lines_of(BFormat.INT8, first, 0)[:-2]
    swap_and_first = list(lines_of(BFormat.INT8, second, 0)[0])
    plain = {"is_signed": 1, "unit": 1}
    swap_and_first[0] = control(**plain, swap=1, slots=0xF)
    lines += [tuple(swap_and_first), *lines_of(BFormat.INT8, second, 0)[1:]]
    names = ("control", "dword", "rows", "half_scale", "half_minimum")
    inputs = {name: np.array([line[i] for line in lines] * 2) for i, name in enumerate(names)}
    got = unpack(sim().run(**inputs)["b"], B_BITS, 32)
    for cycle in range(9, 9 + 8):
        np.testing.assert_array_equal(got[cycle] & 255, first[:32])
    np.testing.assert_array_equal(got[17] & 255, second[:32])
    assert pack(got[:1], B_BITS).shape == (1, 8)
