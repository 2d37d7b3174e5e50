"""The codes of MATRIX's operand B, taken apart while they come in: 4 bytes a column a cycle.

A column has 32 slots for codes, in eight groups of four. What comes in is decoded to two sets of
four codes, one for each lane of a group: `low` for the slots 0 to 15 and `high` for 16 to 31. So a
slot needs an enable, but no choice of its own:

    bytes (MX8, Q8_0, INT8, UINT8)     dword d: both sets are its bytes, group d takes them
    nibbles (MXFP4, Q4_0, Q4_1, INT4)  dword d: low nibbles for group d, high ones for d + 4
    ROWS                               lanes 0 and 1, and 2 and 3, are each a k-row or two
    MXFP6                              `SIX_GROUPS`: a dword completes one group of 24 bits, or two

MXFP6's second half lies in other slots than its codes' numbers say; operand A's groups follow it
(`SIX_ORDER`). The dot product is exact, so the order does not matter otherwise.
"""

from __future__ import annotations

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data

from mellivora.isa.modes import B_DWORDS, BFormat
from mellivora.numerics import BLOCK
from mellivora.rtl.pipeline import wire

STORED_BITS = 8
"""Of a code in a column; whether its top bit is a sign, the block says."""
LANES = 4
GROUPS = BLOCK // LANES

SIX_GROUPS = ((0,), (1,), (2, 4), (5,), (6,), (7, 3))
"""The slot groups that each dword of MXFP6 completes."""
SIX_ORDER = tuple(group for groups in SIX_GROUPS for group in groups)
"""SIX_ORDER[g]: the slot group of codes 4 g to 4 g + 3."""

UNPACK = data.StructLayout(
    {
        "nibbles": 1,  # two codes a byte
        "floating": 1,  # MXFP6, MXFP4
        "six": 1,  # MXFP6
        "six_carry": 2,  # bytes of the dword before that begin this group
        "six_upper": 1,  # the second half of a block
        "less_eight": 1,  # Q4_0: codes are nibbles less 8
        "signed_nibbles": 1,
    }
)

NIBBLES = frozenset(fmt for fmt, dwords in B_DWORDS.items() if dwords == 4)
FLOATING = frozenset({BFormat.MXFP6, BFormat.MXFP4})


def _small_float(m: Module, bits: Value, name: str) -> Value:
    """E2M3 times 8 of six bits, as `numerics.FP6_CODES` has it: 7 bits signed."""
    mantissa, exponent, negative = bits[:3], bits[3:5], bits[5]
    significand = Cat(mantissa, exponent.any())
    size = wire(m, (significand << Mux(exponent == 0, 0, exponent - 1)[:2])[:6], f"{name}_size")
    return wire(m, Mux(negative, -size, size).as_signed(), f"{name}_value")[:7].as_signed()


def unpack(m: Module, word: Value, control: data.View) -> tuple[list[Value], list[Value]]:
    """(low, high): four codes of 8 bits each, combinational, of the dword `word`.

    MXFP6 takes the upper half of the dword a cycle before as well.
    """
    before = Signal(16, reset_less=True)
    with m.If(control.six):
        m.d.sync += before.eq(word[16:])
    joined = Cat(before, word)
    group, carry = word[:24], control.six_carry
    group = Mux(carry == 1, joined[8:32], Mux(carry == 2, joined[:24], group))
    group = wire(m, group, "six_group")
    sets = []
    for high in (False, True):
        # Group 2's and 6's dword completes another one, which goes to the other set.
        second = control.six_upper if not high else ~control.six_upper
        six = wire(m, Mux(second, word[8:], group)[:24], f"six_{'high' if high else 'low'}")
        codes = []
        for lane in range(LANES):
            name = f"{'high' if high else 'low'}_{lane}"
            byte = word[8 * lane : 8 * lane + 8]
            nibble = byte[4:] if high else byte[:4]
            four = Cat(C(0, 2), nibble)  # E2M1 is E2M3 without its two last bits
            number = Mux(control.six, six[6 * lane : 6 * lane + 6], four)
            number = _small_float(m, wire(m, number, f"{name}_bits"), name)
            number = Mux(control.six, number, number >> 2)  # E2M1 counts in halves, E2M3 in eighths
            top = nibble[3] ^ control.less_eight
            whole = Cat(nibble[:3], top, (top & control.signed_nibbles).replicate(4))
            code = Mux(control.floating, number, Mux(control.nibbles, whole, byte).as_signed())
            codes.append(wire(m, code[:STORED_BITS], f"{name}_code"))
        sets.append(codes)
    return sets[0], sets[1]
