"""One lane: binary stages and functions with the bits of `isa.meaning`."""

import numpy as np
import pytest

from mellivora import numerics
from mellivora.isa import meaning
from mellivora.isa.modes import Func, Op
from mellivora.isa.state import canonical
from mellivora.rtl import simulate
from mellivora.rtl.vector_lane import LANE_STAGES, TABLE_LANE_STAGES, TABLES, VectorLane

STILL = {"integer": 0, "int32": 0, "taps": 0}


@pytest.fixture(scope="module")
def lane():
    return simulate.build(VectorLane())


@pytest.fixture
def operands(corners, rng):
    def draw():
        wild = rng.integers(0, 2**32, 3000, dtype=np.uint32)
        near = rng.normal(0, 4, 3000).astype(np.float32).view(np.uint32)
        return np.concatenate([rng.choice(corners, 3000), wild, near])

    return [draw() for _ in range(3)]


def f32(bits):
    return bits.view(np.float32)


@pytest.mark.parametrize("op2", [Op.NONE, Op.SUB, Op.MIN])
@pytest.mark.parametrize("op1", list(Op))
def test_operations(op1, op2, lane, operands, same_bits):
    t, x1, x2 = operands
    with np.errstate(all="ignore"):
        first = canonical(meaning._binary(op1, f32(t), f32(x1)))
        expected = canonical(meaning._binary(op2, first, f32(x2)))
    got = lane.results(LANE_STAGES, t=t, x1=x1, x2=x2, op1=op1, op2=op2, func=Func.ID, **STILL)
    same_bits(got["q"], expected, t=t, x1=x1, x2=x2)


@pytest.mark.parametrize("func", list(Func))
def test_functions(func, lane, operands, same_bits):
    t, x1, _ = operands
    stages = TABLE_LANE_STAGES if func in TABLES else LANE_STAGES
    with np.errstate(all="ignore"):
        expected = canonical(
            meaning._unary(func, canonical(meaning._binary(Op.ADD, f32(t), f32(x1))))
        )
    got = lane.results(stages, t=t, x1=x1, x2=0, op1=Op.ADD, op2=Op.NONE, func=func, **STILL)
    same_bits(got["q"], expected, t=t, x1=x1)


def test_integers(lane, operands, rng, same_bits):
    """A sign and a magnitude of 24 bits, times a scale; an INT32."""
    _, x1, x2 = operands
    whole = rng.integers(-(1 << 23), (1 << 23) + 1, len(x1)) >> rng.integers(0, 24, len(x1))
    t = (np.abs(whole) | (whole < 0).astype(np.int64) << 31).astype(np.uint32)
    still = {"op1": Op.MUL, "op2": Op.ADD, "func": Func.ID, "integer": 1, "int32": 0, "taps": 1}
    got = lane.results(LANE_STAGES, t=t, x1=x1, x2=x2, **still)
    value = numerics.add(numerics.mul(numerics.from_int(whole), f32(x1)), f32(x2))
    same_bits(got["q"], value, t=t, x1=x1, x2=x2)
    still = {"op1": Op.NONE, "op2": Op.NONE, "func": Func.ID, "integer": 0, "int32": 1, "taps": 1}
    got = lane.results(LANE_STAGES, t=x1, x1=0, x2=0, **still)
    same_bits(got["q"], numerics.from_int(x1.view(np.int32)), t=x1)


def test_cycles(lane, changes_at):
    one, two = (int(np.float32(n).view(np.uint32)) for n in (1, 2))
    still = {"x1": 0, "x2": 0, "op1": Op.NONE, "op2": Op.NONE, **STILL}
    for func, stages, shown in (
        (Func.ID, LANE_STAGES, (one, two)),
        (Func.EXP2, TABLE_LANE_STAGES, (two, int(np.float32(4).view(np.uint32)))),
    ):
        operands = [{"t": t, "func": func, **still} for t in (one, two)]
        changes_at(lane, stages, *operands, "q", shown)
