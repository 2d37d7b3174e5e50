"""Writes that write nothing are not queued, masks are spread, and nothing else is touched."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl import simulate
from mellivora.rtl.write_masks import _bits, cheap_writes

WRITE = """\t\tif (tmp_3.valid) {
\t\t\tmemory_p_data.update(tmp_3.index, p_data, %s, 2);
\t\t}
"""


@pytest.mark.parametrize(
    ("mask", "bits"),
    [
        ("p_m.repeat<3>().val()", [0, 0, 0]),
        ("p_m.slice<1>().val().repeat<2>().concat(p_m.slice<0>().val().repeat<2>()).val()",
         [0, 0, 1, 1]),
        ("p_m.slice<1>().val().concat(p_m.slice<1,0>()).concat(p_m.slice<0>()).val()",
         [0, 0, 1, 1]),
        ("p_m.slice<2,0>().val()", [0, 1, 2]),
        ("p_m.concat(p_n).val()", None),
        ("p_m.slice<1>().concat(value<1>{1u}).val()", None),
        ("not_u<1>(p_m)", None),
    ],
)  # fmt: skip
def test_bits_of_a_mask(mask, bits):
    assert _bits(mask, "p_m") == bits


def test_what_is_written():
    struct = "\t/*input*/ value<2> p_m;\n"
    spread = "p_m.slice<1>().val().repeat<2>().concat(p_m.slice<0>().val().repeat<2>()).val()"
    odd = "p_m.slice<0>().val().repeat<2>().concat(p_m.slice<1>().val().repeat<2>()).val()"
    assert cheap_writes(struct, WRITE % spread) == (
        WRITE.replace("valid)", "valid && !p_m.is_zero())") % "mellivora_spread<2>(p_m)"
    )
    assert cheap_writes(struct, WRITE % odd) == (
        WRITE.replace("valid)", "valid && !p_m.is_zero())") % odd
    )
    other = "p_m.slice<1>().val().concat(p_n.slice<1>().val()).val()"
    assert cheap_writes(struct, WRITE % other) == WRITE % other


class Bytes(wiring.Component):
    """A memory of words of `size` bytes of `bits`, one write and one read a cycle."""

    def __init__(self, size: int, bits: int) -> None:
        self.size, self.bits = size, bits
        self.module_name = f"bytes_of_tests_{size}x{bits}"
        word = size * bits
        super().__init__(
            {"row": In(3), "data": In(word), "mask": In(size), "look": In(3), "seen": Out(word)}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.data = data = memory.Memory(shape=self.size * self.bits, depth=8, init=[])
        write, read = data.write_port(granularity=self.bits), data.read_port()
        m.d.comb += [
            write.addr.eq(self.row),
            write.data.eq(self.data),
            write.en.eq(self.mask),
            read.addr.eq(self.look),
            self.seen.eq(read.data),
        ]
        return m


@pytest.mark.parametrize(("size", "bits"), [(1, 8), (3, 8), (4, 8), (9, 8), (5, 13)])
def test_a_memory_of_masked_bytes(size, bits, rng):
    cycles = 400
    row, look = rng.integers(0, 8, (2, cycles))
    data = rng.integers(0, 1 << bits, (cycles, size))
    mask = rng.integers(0, 2, (cycles, size)) * rng.integers(0, 2, (cycles, 1))
    sim = simulate.build(Bytes(size, bits))
    shown = sim.run(
        row=row, look=look, data=simulate.pack(data, bits), mask=simulate.pack(mask, 1)
    )["seen"]
    got = simulate.unpack(shown.reshape(cycles, -1), bits, size)
    words, expected = np.zeros((8, size), np.int64), np.zeros((cycles, size), np.int64)
    for t in range(cycles - 1):
        expected[t + 1] = words[look[t]]
        words[row[t]] = np.where(mask[t], data[t], words[row[t]])
    np.testing.assert_array_equal(got, expected)
