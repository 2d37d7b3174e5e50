"""Rows in beats, reduced by the tree of `numerics.reduce`."""

import numpy as np
import pytest

from mellivora import numerics
from mellivora.rtl import simulate
from mellivora.rtl.chunk_reduce import ChunkReduce
from mellivora.spec import load_chip

NANO = load_chip("nano")


@pytest.fixture(scope="module", params=[8, pytest.param(64, marks=pytest.mark.nightly)])
def lanes_and_simulation(request):
    lanes = request.param
    return lanes, simulate.build(ChunkReduce(NANO.replace(lanes=lanes)))


def beats_of(rows, lanes, rng):
    """Inputs, a row a beat, with pauses; and in which cycle each row's last beat is."""
    x, flags, inside, ends = [], [], [], []
    for row in rows:
        for at in range(0, len(row), lanes):
            if rng.random() < 0.1:
                x.append(rng.integers(0, 2**32, lanes))
                flags.append((0, 1, 1))
                inside.append(rng.integers(0, 2, lanes))
            part = row[at : at + lanes]
            full = rng.integers(0, 2**32, lanes)
            full[: len(part)] = part
            last = at + lanes >= len(row)
            x.append(full)
            flags.append((1, last or (at + lanes) % 32 == 0, last))
            inside.append(np.arange(lanes) < len(part))
        ends.append(len(x) - 1)
    return np.array(x), np.array(flags), np.array(inside), np.array(ends)


@pytest.mark.parametrize("cols", [1, 8, 31, 33, 64, 65, 96, 100, 256, 500])
@pytest.mark.parametrize("take_max", [0, 1])
def test_rows(cols, take_max, lanes_and_simulation, rng, corners, same_bits):
    lanes, sim = lanes_and_simulation
    rows = rng.normal(0, 1, (20, cols)).astype(np.float32).view(np.uint32)
    rows[::3] = np.where(rng.random((7, cols)) < 0.1, rng.choice(corners, (7, cols)), rows[::3])
    rows[1] = 1 << 31  # -0 stays -0
    x, flags, inside, ends = beats_of(rows, lanes, rng)
    levels = (-(-cols // 32) - 1).bit_length()
    lead, tail = 3, 60
    flags = np.pad(flags, ((lead, tail), (0, 0)))

    def padded(array):
        return np.pad(array, ((lead, tail), (0, 0)))

    got = sim.run(
        take_max=take_max,
        levels_used=levels,
        valid=flags[:, 0],
        block_last=flags[:, 1],
        row_last=flags[:, 2],
        inside=simulate.pack(padded(inside), 1),
        x=simulate.pack(padded(x), 32),
    )
    shown = np.flatnonzero(got["q_valid"])
    np.testing.assert_array_equal(shown, ends + lead + 12 + 2 * levels)
    reduce = numerics.tree_max if take_max else numerics.tree_sum
    same_bits(got["q"][shown], reduce(rows.view(np.float32)))
