"""The loop stack against a list of loops, as `isa.control` keeps them."""

import numpy as np

from mellivora.isa.encoding import LOOP_LEVELS
from mellivora.rtl.loop_stack import LOOP_PC_BITS, LoopStack
from mellivora.rtl.simulate import build, pack, unpack

PC_MASK = (1 << LOOP_PC_BITS) - 1


def wide(values):
    """LOOP_PC_BITS of each, as rows of words."""
    values = np.asarray(values, np.int64)
    return pack(np.stack([values & 0xFFFF, values >> 16 & 0xFFFF, values >> 32], axis=1), 16)


def test_against_a_list(rng):
    """Random walks through nested bodies; ends coincide often, as few numbers are used."""
    count = 10_000
    rows = {name: np.zeros(count, np.int64) for name in ("clear", "step", "open_body", "at")}
    rows |= {name: np.zeros(count, np.int64) for name in ("first", "last", "count")}
    far = 1 << LOOP_PC_BITS - 2
    loops, wanted = [], np.zeros((count, 3), np.int64)
    depths = set()
    for t in range(count):
        at = int(rng.integers(0, 5)) + far * int(rng.random() < 0.1)
        row = {
            "clear": rng.random() < 0.002,
            "step": rng.random() < 0.8,
            "open_body": len(loops) < LOOP_LEVELS and rng.random() < 0.4,
            "at": at,
            "first": int(rng.integers(0, 9)),
            "last": at if rng.random() < 0.2 else int(rng.integers(0, 5)),
            "count": int(rng.integers(1, 4)),
        }
        for name, value in row.items():
            rows[name][t] = value
        after, target = [list(loop) for loop in loops], None
        if row["open_body"]:
            after.append([row["first"], row["last"], row["count"]])
        else:
            while after and after[-1][1] == at:
                after[-1][2] -= 1
                if after[-1][2] > 0:
                    target = after[-1][0]
                    break
                after.pop()
        wanted[t] = len(loops) == LOOP_LEVELS, target is not None, target or 0
        loops = [] if row["clear"] else after if row["step"] else loops
        depths.add(len(loops))
    assert depths == set(range(LOOP_LEVELS + 1))
    assert wanted[:, 1].sum() > 500
    inputs = {k: wide(v) if k in ("at", "first", "last") else v for k, v in rows.items()}
    shown = build(LoopStack()).run(**inputs)
    np.testing.assert_array_equal(shown["full"], wanted[:, 0])
    np.testing.assert_array_equal(shown["jump"], wanted[:, 1])
    target = unpack(shown["target"], 16, 2)
    jumps = wanted[:, 1] == 1
    np.testing.assert_array_equal(target[jumps, 0], wanted[jumps, 2])
