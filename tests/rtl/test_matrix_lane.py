"""A lane's accumulator: from memory, from zero, from its own results of 3 to 6 cycles before."""

import numpy as np
import pytest
from tests.rtl.test_b_column import control

from mellivora.isa.latency import ACCUMULATE_CYCLES
from mellivora.rtl.dot32 import CODE_BITS, OFFSET_STAGE, PAIR_BITS, pair_sums
from mellivora.rtl.interfaces import READ_CYCLES, WRITE_CYCLES
from mellivora.rtl.matrix_column import ACC_STAGE, COLUMN_STAGES, Accumulate
from mellivora.rtl.matrix_lane import HISTORY, MEMORY_CYCLES, MatrixLane, Source
from mellivora.rtl.simulate import build, pack

INTEGER = Accumulate.INTEGER
STEPS = 60


def test_history_reaches_to_memory():
    assert MEMORY_CYCLES == ACCUMULATE_CYCLES + HISTORY
    assert HISTORY == READ_CYCLES + WRITE_CYCLES
    assert max(Source) + HISTORY <= 8


@pytest.mark.parametrize("distance", range(ACCUMULATE_CYCLES, MEMORY_CYCLES))
def test_results_are_taken_up_again(distance, rng):
    """`distance` accumulators in turn: each step adds to the result `distance` cycles before."""
    total = 12 + STEPS + 20
    a = np.zeros((total, 32), int)
    first = 12  # a block of ones is in place by then
    a[first : first + STEPS, 0] = rng.integers(-100, 100, STEPS)
    acc = rng.integers(0, 1 << 20, total).astype(np.uint32)
    offset = rng.integers(-(1 << 20), 1 << 20, total)
    source = np.full(total, Source.MEMORY)
    due = first + ACC_STAGE[INTEGER]
    source[due + distance :] = Source.RESULT + distance - ACCUMULATE_CYCLES
    source[due] = Source.ZERO
    ones = {"unit": 1, "is_signed": 1}
    rows = [control(**ones, slots=0xF << 4 * d) for d in range(8)] + [control(**ones, swap=1)]
    rows += [control(**ones)] * (total - len(rows))
    out = build(MatrixLane()).run(
        mode=int(INTEGER),
        control=np.array(rows, np.uint32),
        dword=0x01010101,
        rows=0,
        half_scale=0,
        half_minimum=0,
        a=pack(a, CODE_BITS),
        pairs=pack(pair_sums(a), PAIR_BITS),
        sa=0,
        a_sum=0,
        source=source,
        keep=1,
        acc=acc,
        offset=offset,
    )["q"]
    expected = np.zeros(STEPS, np.int64)
    for step in range(STEPS):
        begin = 0 if not step else int(acc[due + step])
        before = expected[step - distance] if step >= distance else begin
        expected[step] = before + a[first + step, 0] + offset[first + OFFSET_STAGE + step]
    shown = out[first + COLUMN_STAGES[INTEGER] :][:STEPS]
    np.testing.assert_array_equal(shown, expected.astype(np.uint32))
