"""SECDED on bytes: of 13 stored bits any one may flip and is put right, any two are noticed.

Hsiao's code: column i of the parity check matrix is the syndrome of a flip of bit i. All columns
have an odd number of ones (data: three of five, check bits: one), so two flips give an even
syndrome, which is nobody's, and no check bit has more than five data bits to add up.
"""

from functools import reduce
from itertools import combinations
from operator import or_, xor

import numpy as np
import numpy.typing as npt
from amaranth.hdl import Cat, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.rtl.pipeline import register, wire
from mellivora.rtl.primitive import Primitive

DATA_BITS, CHECK_BITS = 8, 5
CODE_BITS = DATA_BITS + CHECK_BITS
COLUMNS = [
    *[sum(1 << i for i in three) for three in combinations(range(CHECK_BITS), 3)][1:-1],
    *[1 << i for i in range(CHECK_BITS)],
]
"""The syndrome of a flip of each bit of a code word: data low, check bits above."""


def encoded(data: Value) -> Value:
    """Code word of a byte; that of 0 is 0."""
    checks = [
        reduce(xor, [data[j] for j in range(DATA_BITS) if COLUMNS[j] >> i & 1])
        for i in range(CHECK_BITS)
    ]
    return Cat(data, *checks)


def decoded(m: Module, code: Value, name: str) -> tuple[Value, Value, Value]:
    """The byte; whether a flip of one bit was put right; whether there is more than that."""
    syndrome = wire(m, encoded(code[:DATA_BITS])[DATA_BITS:] ^ code[DATA_BITS:], f"{name}_syndrome")
    hits = [syndrome == column for column in COLUMNS]
    known = wire(m, reduce(or_, hits), f"{name}_known")
    return code[:DATA_BITS] ^ Cat(hits[:DATA_BITS]), known, syndrome.any() & ~known


class SecdedEncode(wiring.Component):
    """code, one cycle after its byte."""

    data: In(DATA_BITS)
    code: Out(CODE_BITS)
    module_name = "secded_encode"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.code.eq(register(m, encoded(self.data), "code_1"))
        return m


class SecdedDecode(wiring.Component):
    """data, corrected and uncorrectable, one cycle after their code word."""

    code: In(CODE_BITS)
    data: Out(DATA_BITS)
    corrected: Out(1)
    uncorrectable: Out(1)
    module_name = "secded_decode"

    def elaborate(self, platform: object) -> Module:
        m = Module()
        data, corrected, uncorrectable = decoded(m, self.code, "code")
        m.d.comb += [
            self.data.eq(register(m, data, "data_1")),
            self.corrected.eq(register(m, corrected, "corrected_1")),
            self.uncorrectable.eq(register(m, uncorrectable, "uncorrectable_1")),
        ]
        return m


_CHECKS = np.array(
    [
        reduce(xor, [COLUMNS[j] for j in range(DATA_BITS) if byte >> j & 1], 0)
        for byte in range(1 << DATA_BITS)
    ],
    np.uint16,
)
_BIT_OF = {column: 1 << i for i, column in enumerate(COLUMNS)}
_FLIPPED = np.array([_BIT_OF.get(s, 0) for s in range(1 << CHECK_BITS)], np.uint16)


def encode(data: npt.ArrayLike) -> npt.NDArray[np.uint16]:
    """Code words of bytes."""
    data = np.asarray(data, np.uint16)
    return data | _CHECKS[data] << DATA_BITS


def decode(
    code: npt.ArrayLike,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(bytes, whether one flip was put right, whether there are more)."""
    code = np.asarray(code, np.uint16)
    syndrome = _CHECKS[code & 0xFF] ^ code >> DATA_BITS
    flipped = _FLIPPED[syndrome]
    corrected = flipped != 0
    return ((code ^ flipped) & 0xFF).astype(np.uint8), corrected, (syndrome != 0) & ~corrected


SECDED_ENCODE = Primitive(name="secded_encode", compute=encode, create=SecdedEncode, stages=1)
SECDED_DECODE = Primitive(name="secded_decode", compute=decode, create=SecdedDecode, stages=1)
