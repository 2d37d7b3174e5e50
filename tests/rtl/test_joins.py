"""Long concatenations: the text, and the bits whatever the widths of the pieces."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl import simulate
from mellivora.rtl.joins import joined


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("q = a.concat(b).concat(c).val();", None),
        ("q = a.concat(b).concat(c).concat(d).val();", "q = mellivora_join(a, b, c, d);"),
        ("f<1>(a.concat(b).concat(c).concat(d), e);", "f<1>(mellivora_join(a, b, c, d), e);"),
        ("q = m->a.concat(m->b).concat(c).concat(d);", "q = mellivora_join(m->a, m->b, c, d);"),
        ("(x ? value<2>{0x1u}.concat(b.curr.slice<3,0>()).concat(c).concat(d) : e)",
         "(x ? mellivora_join(value<2>{0x1u}, b.curr.slice<3,0>(), c, d) : e)"),
        ("f<2>(a, b).concat(g<1>(h(c))).concat(i).concat(j).val().concat(k)",
         "mellivora_join(f<2>(a, b), g<1>(h(c)), i, j).concat(k)"),
        ("a.concat(b.concat(c).concat(d).concat(e).val()).val()",
         "a.concat(mellivora_join(b, c, d, e)).val()"),
        ("a.concat(b.concat(c)).concat(d.concat(e).concat(f).concat(g)).concat(h).val()",
         "mellivora_join(a, b.concat(c), mellivora_join(d, e, f, g), h)"),
    ],
)  # fmt: skip
def test_text(text, expected):
    assert joined(text) == (expected or text)


class Pieces(wiring.Component):
    """Some of each operand's bits, one after the other."""

    def __init__(self, cuts: list[tuple[int, int, int]], name: str) -> None:
        self.cuts, self.module_name = cuts, name
        width = sum(high - low for _, low, high in cuts)
        super().__init__({**{f"x{i}": In(70) for i in range(3)}, "q": Out(width)})

    def elaborate(self, platform):
        m = Module()
        operands = [self.x0, self.x1, self.x2]
        m.d.sync += self.q.eq(Cat(operands[i][low:high] for i, low, high in self.cuts))
        return m


@pytest.mark.parametrize("seed", range(6))
def test_bits(seed, rng):
    draw = np.random.default_rng(seed)
    cuts = []
    for _ in range(draw.integers(4, 30)):
        low = int(draw.integers(0, 70))
        width = int(draw.choice([1, 1, 7, 8, 31, 32, 33, 64, 70]))
        cuts.append((int(draw.integers(0, 3)), low, min(70, low + width)))
    x = rng.integers(0, 2**35, (3, 200, 2))
    sim = simulate.build(Pieces(cuts, f"pieces_of_tests_{seed}"))
    shown = sim.results(1, **{f"x{i}": simulate.pack(x[i], 35) for i in range(3)})["q"]
    values = [[int(low) | int(high) << 35 for low, high in rows] for rows in x]
    for t, words in enumerate(shown.reshape(200, -1)):
        expected, at = 0, 0
        for i, low, high in cuts:
            expected |= (values[i][t] >> low & (1 << high - low) - 1) << at
            at += high - low
        assert int.from_bytes(words.tobytes(), "little") == expected
