"""Tokens and ends of operations: as many beats as the shape has, ended in the cycle of the cost."""

import numpy as np
import pytest
from tests.rtl import vector_bench as bench

from mellivora.isa.modes import Func, Op, Store, vew_fn, vquant_mode
from mellivora.rtl import simulate
from mellivora.rtl.interfaces import OPERATION
from mellivora.rtl.vector_control import TOKEN
from mellivora.rtl.vector_sequencer import VectorSequencer
from mellivora.spec import load_chip

NANO = load_chip("nano")


@pytest.fixture(scope="module")
def sim():
    return simulate.build(VectorSequencer(NANO))


def run(sim, row, *, start=3):
    cost = bench.costs(NANO, [row])[0]
    cycles = start + cost + 4
    op = bench.words_of(bench.packed(row, 5), OPERATION.size)
    starts = np.zeros(cycles, np.uint32)
    starts[start] = 1
    return sim.run(op=np.tile(op, (cycles, 1)), start=starts), start, cost


def tokens_of(got):
    return [TOKEN.from_bits(int(bits)) for bits in got["token"]]


CASES = [
    bench.row_of("vew", [0, 0, 0, 0, 3, 17, 0, 0]),
    bench.row_of("vew", [0, 0, 0, 0, 3, 17, vew_fn(func=Func.LOG2), 0]),
    bench.row_of("vew", [0, 0, 0, 0, -3, 17, 0, 0]),
    bench.row_of("vew", [0, 0, 0, 0, 3, 0, vew_fn(func=Func.COS), 0]),
    bench.row_of("vred", [0, 0, 2, 300, 0, 0]),
    bench.row_of("vred", [0, 0, 2, -300, 0, 0]),
    bench.row_of("vred", [0, 0, 0, 300, 0, 0]),
    bench.row_of("vquant", [0, 0, 0, 0, 2, 64, vquant_mode(Store.MX2)]),
    bench.row_of("vquant", [0, 0, 0, 0, 3, 19, vquant_mode(Store.MX1, wide=True)]),
    bench.row_of("vdeq", [0, 0, 0, 4, 9, 9]),
    bench.row_of("vsync", []),
]


@pytest.mark.parametrize("row", CASES, ids=str)
def test_beats_and_end(row, sim):
    got, start, cost = run(sim, row)
    cycles = np.arange(len(got["ready"]))
    ends = got["ends"].reshape(len(cycles), -1)[:, 0] & 1
    assert np.flatnonzero(ends).tolist() == [start + cost - 1]
    busy = (cycles > start) & (cycles < start + cost)
    np.testing.assert_array_equal(got["ready"], ~busy)
    np.testing.assert_array_equal(got["active"], busy)
    valid = [i for i, token in enumerate(tokens_of(got)) if token.valid]
    rows, cols = {"vred": (9, 10), "vdeq": (10, 11)}.get(
        {0x51: "vred", 0x53: "vdeq"}.get(row[0], ""), (11, 12)
    )
    passes = 2 if row[0] == 0x52 and row[13] & 8 else 1
    beats = passes * max(row[rows], 0) * -(-max(row[cols], 0) // NANO.lanes)
    assert valid == list(range(start + 1, start + 1 + beats))
    lasts = sum(bool(token.row_last) for token in tokens_of(got) if token.valid)
    assert lasts == (passes * row[rows] if beats else 0)


@pytest.mark.parametrize("region", range(4))
def test_a_fault_stops_it(region, sim):
    """A misaligned region of VEW is known in s + 6 + its number, all before the first write."""
    slot = {0: 1, 1: 2, 2: 3, 3: 0}[region]
    slots = [0, 0, 0, 0, 3, 17, vew_fn(Op.ADD, Op.ADD), 0]
    slots[slot] = 2
    got, start, _ = run(sim, bench.row_of("vew", slots))
    known = start + 6 + region
    ends = got["ends"].reshape(len(got["ready"]), -1)[:, 0] & 1
    assert not ends.any()
    assert not got["ready"][start + 1 :].any()
    assert not got["active"][known:].any()
    fault = got["fault"].reshape(len(got["ready"]), -1)[:, 0]
    assert (fault & 31).tolist() == [0] * known + [1 | 4 << 1] * (len(fault) - known)
