"""Operands of a beat: kinds, formats, the mask; standing still without a beat."""

import numpy as np
import pytest
from tests.rtl.vector_bench import words_of

from mellivora import numerics
from mellivora.isa.modes import Deq, Kind
from mellivora.rtl import simulate
from mellivora.rtl.operand_select import OperandSelect
from mellivora.rtl.vector_control import control_layout
from mellivora.spec import load_chip

NANO = load_chip("nano")
ROWS = 500


@pytest.fixture(scope="module", params=[8, pytest.param(64, marks=pytest.mark.nightly)])
def chip_and_simulation(request):
    chip = NANO.replace(lanes=request.param)
    return chip, simulate.build(OperandSelect(chip))


def run(chip, sim, control, data, *, keep=None, high=0, valid=1):
    layout = control_layout(chip)
    value = layout.const(control).as_value().value
    bits = np.array([words_of(value, layout.size)])
    keep = np.ones((1, chip.lanes)) if keep is None else keep
    return sim.results(1, control=bits, valid=valid, high=high, keep=simulate.pack(keep, 1), **data)


def ports(sim, rng):
    return {
        name: rng.integers(0, 2**32, (ROWS, sim.inputs[name] // 32), dtype=np.uint32)
        for name in "abcd"
    }


def bytes_of(port):
    return np.ascontiguousarray(port).view(np.uint8).reshape(ROWS, -1)


@pytest.mark.parametrize("kind", list(Kind))
def test_kinds_and_mask(kind, chip_and_simulation, rng, same_bits):
    chip, sim = chip_and_simulation
    data, keep = ports(sim, rng), rng.integers(0, 2, (ROWS, chip.lanes))
    control = {"vew": 1, "uses_b": 1, "b_kind": kind, "uses_c": 1, "c_kind": kind}
    got = run(chip, sim, control | {"b_const": 77, "c_const": 78}, data, keep=keep)
    same_bits(got["t"], np.where(keep, data["a"], np.uint32(0xFF800000)))
    for port, x, const in (("b", "x1", 77), ("c", "x2", 78)):
        words = data[port]
        expected = {
            Kind.TENSOR: words,
            Kind.ROW: np.repeat(words[:, :1], chip.lanes, axis=1),
            Kind.CONST: np.full_like(words, const),
            Kind.E8M0: numerics.from_e8m0(bytes_of(words)[:, : chip.lanes]).view(np.uint32),
        }[kind]
        same_bits(got[x], expected)


@pytest.mark.parametrize("deq", list(Deq))
def test_formats(deq, chip_and_simulation, rng, same_bits):
    chip, sim = chip_and_simulation
    lanes, data = chip.lanes, ports(sim, rng)
    high = rng.integers(0, 2, ROWS) if lanes < 32 else np.zeros(ROWS, np.int64)
    got = run(chip, sim, {"vdeq": 1, "deq": deq, "integer": 1}, data, high=high)
    a, b, c = (bytes_of(data[name])[:, :lanes].astype(np.int64) for name in "abc")
    halves = bytes_of(data["a"]).view(np.uint16)[:, :lanes]
    top = (a ^ 128) - 128
    place = np.arange(lanes)
    if lanes < 32:
        nibbles = np.where(high[:, None], a >> 4, a & 15)
    else:
        one = a[:, 16 * (place // 32) + place % 16]
        nibbles = np.where(place % 32 >= 16, one >> 4, one & 15)
    integers = {
        Deq.MX1: top,
        Deq.MX2: top * 256 + b,
        Deq.MX3: top * 65536 + b * 256 + c,
        Deq.Q8_0: top,
        Deq.Q4_0: nibbles - 8,
        Deq.Q4_1: nibbles,
        Deq.INT8: top,
    }
    if deq in integers:
        whole = integers[deq]
        expected = (np.abs(whole) | (whole < 0).astype(np.int64) << 31).astype(np.uint32)
    elif deq == Deq.F16:
        expected = numerics.from_f16(halves).view(np.uint32)
    elif deq == Deq.BF16:
        expected = halves.astype(np.uint32) << 16
    else:
        expected = data["a"]
    same_bits(got["t"], expected)
    group = place // 32
    d_halves = bytes_of(data["d"]).view(np.uint16)
    scale = numerics.from_f16(d_halves)[:, group]
    if Deq.MX1 <= deq <= Deq.MX3:
        shift = 8 * (deq - Deq.MX1 + 1) - 2
        scale = numerics.from_e8m0(bytes_of(data["d"])[:, group], shift=shift)
    if deq == Deq.INT8:
        scale = np.ones((ROWS, lanes), np.float32)
    if deq in integers:
        same_bits(got["x1"], scale)
    if deq == Deq.Q4_1:
        offset = numerics.from_f16(bytes_of(data["b"]).view(np.uint16))[:, group]
        same_bits(got["x2"], offset)


def test_it_stands_still_without_a_beat(chip_and_simulation, rng):
    chip, sim = chip_and_simulation
    got = run(chip, sim, {"vew": 1, "uses_b": 1}, ports(sim, rng), valid=np.arange(ROWS) % 2)
    for name in ("t", "x1"):
        still = (got[name][1:] == got[name][:-1]).all(axis=1)
        np.testing.assert_array_equal(still, np.arange(1, ROWS) % 2 == 0)
