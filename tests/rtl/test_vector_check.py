"""Causes of VECTOR operations as `isa.footprint` raises them, in its order."""

import numpy as np
import pytest
from tests.rtl import vector_bench as bench
from tests.rtl import vector_ops as ops

from mellivora.isa.encoding import ACCUMULATOR_BASE
from mellivora.isa.footprint import footprint
from mellivora.isa.state import Fault
from mellivora.rtl import simulate
from mellivora.rtl.interfaces import OPERATION
from mellivora.rtl.vector_check import VectorCheck
from mellivora.spec import load_chip

NANO = load_chip("nano")
APART, LATEST = 12, 9
"""Cycles between operations here; `bad` comes so many after `first` at the latest."""


def spoilt(rng, kind):
    """A random operation, most of them with a field or two out of range."""
    row = getattr(ops, kind)(rng, NANO)
    odd = [-1, 2, 6, 31, NANO.sram_bytes, NANO.sram_bytes - 4, ACCUMULATOR_BASE - 4, 1 << 30]
    odd += [2**31 - 1, -(2**31), ACCUMULATOR_BASE + NANO.accumulator_bytes - 8, 1 << 20, 13, 8 << 6]
    for _ in range(int(rng.integers(0, 3))):
        at = int(rng.integers(7, 20))
        row[at] = int(rng.choice(odd)) if rng.random() < 0.7 else row[at] + int(rng.integers(-9, 9))
    return row


@pytest.mark.parametrize("kind", ["vew", "vred", "vquant", "vdeq"])
def test_causes(kind, rng):
    rows = [spoilt(rng, kind) for _ in range(600)]
    one = np.array(
        [bench.words_of(bench.packed(row, 0), OPERATION.size) for row in rows], np.uint32
    )
    first = np.zeros(APART * len(rows), np.uint32)
    first[::APART] = 1
    sim = simulate.build(VectorCheck(NANO))
    bad = sim.run(op=np.repeat(np.array(one, np.uint32), APART, axis=0), first=first)[
        "bad"
    ].reshape(-1, APART)
    assert not bad[:, LATEST + 1 :].any()
    seen = set()
    for row, found in zip(rows, bad.tolist()):
        try:
            footprint(list(row), NANO)
            expected = 0
        except Fault as fault:
            expected = fault.cause
        assert next((cause for cause in found if cause), 0) == expected, row
        seen.add(expected)
    assert seen == {0, 3, 4, 5}
