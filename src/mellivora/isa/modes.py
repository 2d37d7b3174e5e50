"""The small enumerations that instruction slots carry: formats, elementwise operations, operand
kinds.

Each is written once here; encoder, simulators (the C++ ones through `native/build.py`), RTL and
manual use these numbers.
"""

from __future__ import annotations

from enum import IntEnum

# The order of slice pairs is part of the numbers' meaning; here for the engines' convenience.
from mellivora.numerics import passes as passes


class BFormat(IntEnum):
    """How MATRIX reads its B operand (weights, keys, values)."""

    MX8 = 0  # 1 to 3 slices of 8 bits, E8M0 scale
    MXFP6 = 1
    MXFP4 = 2
    Q8_0 = 3
    Q4_0 = 4
    Q4_1 = 5
    INT8 = 6
    UINT8 = 7
    INT4 = 8
    ROWS = 9  # k-major rows of bytes (values of attention), scales folded into A beforehand


B_DWORDS = {
    BFormat.MX8: 8,
    BFormat.MXFP6: 6,
    BFormat.MXFP4: 4,
    BFormat.Q8_0: 8,
    BFormat.Q4_0: 4,
    BFormat.Q4_1: 4,
    BFormat.INT8: 8,
    BFormat.UINT8: 8,
    BFormat.INT4: 4,
    BFormat.ROWS: 32,
}
"""Cycles to bring a 32-deep block of one slice to every column: 4 bytes a column a cycle.

ROWS brings one k-row of bytes a cycle.
"""

B_SCALE_BYTES = {
    BFormat.MX8: 1,
    BFormat.MXFP6: 1,
    BFormat.MXFP4: 1,
    BFormat.Q8_0: 2,
    BFormat.Q4_0: 2,
    BFormat.Q4_1: 4,
    BFormat.INT8: 0,
    BFormat.UINT8: 0,
    BFormat.INT4: 0,
    BFormat.ROWS: 0,
}
"""Bytes of scale (Q4_1: two of scale and two of offset) a column and block."""


class Op(IntEnum):
    """Binary stage of VEW: t op operand."""

    NONE = 0
    ADD = 1
    SUB = 2
    RSUB = 3
    MUL = 4
    MAX = 5
    MIN = 6
    GT = 7


class Func(IntEnum):
    """Unary last stage of VEW."""

    ID = 0
    EXP2 = 1
    LOG2 = 2
    RECIP = 3
    RSQRT = 4
    SIN = 5
    COS = 6
    ABS = 7
    NEG = 8


class Kind(IntEnum):
    """How VEW and VQUANT read operands b and c."""

    TENSOR = 0  # FP32, row stride from VCFG (0: the same row for all)
    ROW = 1  # one FP32 for each row
    CONST = 2  # the slot's 32 bits are the FP32 value
    E8M0 = 3  # one byte a column, the value 2^(byte-127)


class Reduce(IntEnum):
    """VRED over the columns of a row."""

    SUM = 0
    MAX = 1
    SUMSQ = 2


class Store(IntEnum):
    """Target format of VQUANT."""

    MX1 = 1
    MX2 = 2
    MX3 = 3
    F16 = 4
    BF16 = 5
    INT8 = 6


class Deq(IntEnum):
    """Source format of VDEQ."""

    F16 = 0
    BF16 = 1
    MX1 = 2
    MX2 = 3
    MX3 = 4
    Q8_0 = 5
    Q4_0 = 6
    Q4_1 = 7
    INT32 = 8
    INT8 = 9


def matmul_mode(
    fmt: BFormat,
    *,
    a_slices: int = 1,
    b_slices: int = 1,
    accumulate: bool = False,
    int32: bool = False,
) -> int:
    """The `mode` slot of MATMUL."""
    return int(fmt) | a_slices << 4 | b_slices << 6 | int(accumulate) << 8 | int(int32) << 9


def vew_mode(*, b: Kind = Kind.TENSOR, c: Kind = Kind.TENSOR, mask: bool = False) -> int:
    """The `kinds` slot of VEW."""
    return int(b) | int(c) << 2 | int(mask) << 4


def vew_fn(op1: Op = Op.NONE, op2: Op = Op.NONE, func: Func = Func.ID) -> int:
    """The `fn` slot of VEW."""
    return int(op1) | int(op2) << 3 | int(func) << 6


def vquant_mode(target: Store, *, b: Kind | None = None, wide: bool = False) -> int:
    """The `mode` slot of VQUANT; b None: no multiplication; wide: one block is the whole row."""
    return int(target) | int(wide) << 3 | int(b is not None) << 4 | int(b or 0) << 5
