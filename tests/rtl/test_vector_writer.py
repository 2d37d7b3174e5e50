"""Where results go: addresses along rows, byte masks, which port; with two blocks a beat too."""

import numpy as np
import pytest
from tests.rtl import vector_bench as bench

from mellivora.isa.modes import Store
from mellivora.rtl import simulate
from mellivora.rtl.interfaces import OPERATION
from mellivora.rtl.vector_control import TOKEN, control_layout
from mellivora.rtl.vector_writer import VectorWriter
from mellivora.spec import load_chip

NANO = load_chip("nano")


def run(lanes, row, control, tokens, blocked=0, **results):
    chip = NANO.replace(lanes=lanes)
    layout = control_layout(chip)
    value = layout.const(control).as_value().value
    token = [0, 0] + [TOKEN.const(one).as_value().value for one in tokens]
    sim = simulate.build(VectorWriter(chip))
    zeros = dict.fromkeys(("q", "reduced_valid", "reduced", "codes", "narrow", "scales"), 0)
    inputs = {}
    for name, width in sim.inputs.items():
        if name in zeros:
            inputs[name] = results.get(name, np.zeros((1, -(-width // 32)), np.uint32))
    return sim.run(
        control=np.array([bench.words_of(value, layout.size)]),
        current=np.array([bench.words_of(bench.packed(row, 0), OPERATION.size)]),
        first=np.array([1] + [0] * (len(token) - 1)),
        blocked=blocked,
        token=np.array(token),
        **inputs,
    )


def beats(rows, a_row, **fields):
    return [
        {"valid": 1, "row_last": i == a_row - 1, "block_last": 1, **fields}
        for _ in range(rows)
        for i in range(a_row)
    ]


def test_words_of_a_tile():
    row = bench.row_of("vew", [0x100, 0, 0, 0, 2, 11], [0x40])
    got = run(8, row, {"vew": 1, "last_mask": 7}, beats(2, 2), q=np.arange(8)[None])
    assert got["w0__enable"].tolist() == [0, 0, 1, 1, 1, 1]
    assert got["w0__address"][2:].tolist() == [0x100, 0x120, 0x140, 0x160]
    assert got["w0__mask"][2:].tolist() == [0xFFFFFFFF, 0xFFF] * 2
    assert got["w0__data"][2].tolist() == list(range(8))
    assert not any(got[f"w{i}__enable"].any() for i in (1, 2, 3))


def test_nothing_while_blocked():
    row = bench.row_of("vew", [0x100, 0, 0, 0, 2, 11], [0x40])
    got = run(8, row, {"vew": 1, "last_mask": 7}, beats(2, 2), blocked=1)
    assert not any(got[f"w{i}__enable"].any() for i in range(4))


SLICES = pytest.mark.parametrize("target", [Store.MX1, Store.MX2, Store.MX3])


@SLICES
def test_planes_and_scales(target):
    """A scale with the last of four beats, planes apart."""
    row = bench.row_of("vquant", [0x100, 0x800, 0, 0, 2, 32], [40, 0, 0, 5, 0x200])
    control = {"vquant": 1, "target": target, "last_mask": 255}
    tokens = [{**one, "block_last": one["row_last"]} for one in beats(2, 4)]
    got = run(8, row, control, tokens, scales=np.array([[0x03]]))
    for j in range(3):
        assert got[f"w{j}__enable"][2:].all() == (j < target)
        if j < target:
            at = [0x100 + 0x200 * j + 40 * (i // 4) + 8 * (i % 4) for i in range(8)]
            assert got[f"w{j}__address"][2:].tolist() == at
    assert got["w3__enable"].tolist() == [0, 0, *[0, 0, 0, 1] * 2]
    assert got["w3__address"][[5, 9]].tolist() == [0x800, 0x805]
    assert got["w3__mask"][5] == 1
    assert got["w3__data"][5] == 3


@pytest.mark.nightly
@SLICES
def test_two_blocks_a_beat(target):
    """96 columns on 64 lanes: two scales, then one."""
    row = bench.row_of("vquant", [0x100, 0x800, 0, 0, 2, 96], [96, 0, 0, 5, 0x200])
    control = {"vquant": 1, "target": target, "last_mask": (1 << 32) - 1}
    got = run(64, row, control, beats(2, 2), scales=np.array([[0x0304]]))
    for j in range(3):
        assert got[f"w{j}__enable"][2:].all() == (j < target)
        if j < target:
            at = 0x100 + 0x200 * j
            assert got[f"w{j}__address"][2:].tolist() == [at, at + 64, at + 96, at + 160]
    assert got["w3__address"][2:].tolist() == [0x800, 0x802, 0x805, 0x807]
    assert got["w3__mask"][2:].tolist() == [3, 1, 3, 1]
    assert got["w3__data"].reshape(6, -1)[2, 0] == 0x0304


def test_narrow_codes():
    row = bench.row_of("vquant", [0x101, 0, 0, 0, 1, 11], [22])
    for target, step, mask in ((Store.BF16, 16, 0x3F), (Store.INT8, 8, 7)):
        control = {"vquant": 1, "narrow": 1, "target": target, "last_mask": 7}
        narrow = simulate.pack(np.arange(8)[None] + 0x100, 16)
        got = run(8, row, control, beats(1, 2), narrow=narrow)
        assert got["w0__address"][2:].tolist() == [0x101, 0x101 + step]
        assert got["w0__mask"][3] == mask
        assert not got["w3__enable"].any()
        word = got["w0__data"][2, 0]
        assert word == (0x03020100 if target == Store.INT8 else 0x01010100)


def test_a_word_for_each_row():
    row = bench.row_of("vred", [0x100, 0, 3, 8], [12])
    valid = np.array([0, 0, 1, 0, 1, 1])
    got = run(8, row, {"vred": 1}, [{}] * 4, reduced_valid=valid, reduced=np.array([7]))
    assert got["w0__enable"].tolist() == valid.tolist()
    assert got["w0__address"][np.flatnonzero(valid)].tolist() == [0x100, 0x10C, 0x118]
    assert (got["w0__mask"] == 15).all()
