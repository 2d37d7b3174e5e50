"""The queue against a deque: order, one cycle to the head, and when CONTROL has to wait."""

from collections import deque

import numpy as np
import pytest

from mellivora.rtl.interfaces import OPERATION
from mellivora.rtl.op_queue import OpQueue
from mellivora.rtl.simulate import build

WORDS = -(-OPERATION.size // 32)


@pytest.mark.parametrize("depth", [2, 5])
def test_against_a_deque(depth, rng):
    count = 5000
    op_in = rng.integers(0, 1 << 32, (count, WORDS), dtype=np.uint32)
    op_in[:, -1] &= (1 << OPERATION.size % 32) - 1 if OPERATION.size % 32 else 0xFFFF_FFFF
    push, pop, clear = np.zeros((3, count), np.int64)
    busy = np.repeat(rng.random(count // 50), 50)  # now full, now empty
    queue, heads, over = deque(), [], np.zeros(count, np.int64)
    for t in range(count):
        heads.append(queue[0] if queue else -1)
        over[t] = len(queue) == depth + 1
        push[t] = not over[t] and rng.random() < busy[t]
        pop[t] = bool(queue) and rng.random() < 0.5
        clear[t] = rng.random() < 0.002
        if pop[t]:
            queue.popleft()
        if push[t]:
            queue.append(t)
        if clear[t]:
            queue.clear()
    shown = build(OpQueue(depth)).run(clear=clear, push=push, pop=pop, op_in=op_in)
    heads = np.array(heads)
    np.testing.assert_array_equal(shown["valid"], heads >= 0)
    np.testing.assert_array_equal(shown["over"], over)
    np.testing.assert_array_equal(shown["op"][heads >= 0], op_in[heads[heads >= 0]])
    assert over.sum() > 100
    assert (heads < 0).sum() > 100
