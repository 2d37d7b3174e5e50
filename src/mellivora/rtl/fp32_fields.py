"""Pieces of FP32 hardware, as values inside one module: take apart, normalise, shift, round.

A number in flight is `Fields`: (-1)^sign * significand * 2^(exponent - 150), significand 24 bits
wide. Subnormals have exponent 1 and no leading one, so nothing downstream asks about them.
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import C, Cat, Module, Mux, Value, ValueLike, signed

from mellivora.numerics.fp32 import INF_BITS, NAN_BITS
from mellivora.rtl.pipeline import wire


@dataclass
class Fields:
    """sign 1 bit, exponent 8 (1 to 255), significand 24; nan, infinite exclude each other."""

    sign: Value
    exponent: Value
    significand: Value
    nan: Value
    infinite: Value


def unpack(m: Module, bits: ValueLike, name: str) -> Fields:
    """The fields of a pattern of 32 bits."""
    bits = Value.cast(bits)
    field, fraction = bits[23:31], bits[:23]
    normal = wire(m, field != 0, f"{name}_normal")
    special, zero_fraction = field == 255, fraction == 0
    return Fields(
        sign=bits[31],
        exponent=wire(m, Cat(field[0] | ~normal, field[1:]), f"{name}_exponent"),
        significand=Cat(fraction, normal),
        nan=wire(m, special & ~zero_fraction, f"{name}_nan"),
        infinite=wire(m, special & zero_fraction, f"{name}_infinite"),
    )


def leading_zeros(m: Module, value: Value, name: str) -> tuple[Value, Value]:
    """(count, value << count): the leading one at the top. Of zero: a count that is not smaller
    than any other, and zero."""
    width = len(value)
    count: list[Value] = []
    for step in reversed(range((width - 1).bit_length())):
        part = 1 << step
        if part >= width:
            continue
        empty = wire(m, value[width - part :] == 0, f"{name}_zeros{part}")
        value = wire(m, Mux(empty, value << part, value)[:width], f"{name}_by{part}")
        count.append(empty)
    return Cat(*reversed(count)), value


def shift_left(m: Module, value: Value, amount: Value, name: str) -> Value:
    """value << amount, bits beyond the width lost."""
    width = len(value)
    for step in range(len(amount)):
        part = 1 << step
        moved = Cat(C(0, part), value)[:width] if part < width else C(0, width)
        value = wire(m, Mux(amount[step], moved, value), f"{name}_by{part}")
    return value


def shift_right(m: Module, value: Value, amount: Value, name: str, *, unit: int = 1) -> Value:
    """Cat(sticky, value >> amount * unit): one bit wider; sticky tells whether a one was shifted
    out."""
    width, sticky = len(value), Value.cast(C(0, 1))
    for step in range(len(amount)):
        part = min(unit << step, width)
        lost = amount[step] & value[:part].any()
        sticky = wire(m, sticky | lost, f"{name}_sticky{part}")
        value = wire(m, Mux(amount[step], value >> part, value)[:width], f"{name}_by{part}")
    return Cat(sticky, value)


def denormalise(m: Module, exponent: Value, significand: Value, name: str) -> tuple[Value, Value]:
    """(exponent at least 1, significand shifted right to suit, one bit wider): for `round_pack`."""
    low = wire(m, exponent < 1, f"{name}_low")
    amount = wire(m, Mux(low, 1 - exponent, 0), f"{name}_amount")
    limit = len(significand).bit_length()  # 2^limit - 1 empties it
    far = amount[limit:].any() if len(amount) > limit else C(0, 1)
    amount = wire(m, amount[:limit] | Mux(far, C(-1, signed(limit)), 0)[:limit], f"{name}_shift")
    return Mux(low, 1, exponent), shift_right(m, significand, amount, name)


def round_significand(m: Module, significand: Value, keep: int, name: str) -> Value:
    """The top `keep` bits, rounded to nearest even by those below: keep + 1 bits."""
    below = len(significand) - keep
    kept, guard, rest = significand[below:], significand[below - 1], significand[: below - 1]
    return wire(m, kept + (guard & (kept[0] | rest.any())), f"{name}_rounded")[: keep + 1]


def round_pack(
    m: Module,
    *,
    sign: Value,
    exponent: Value,
    significand: Value,
    name: str,
    nan: ValueLike = 0,
    infinite: ValueLike = 0,
) -> Value:
    """The 32-bit pattern, rounded to nearest even; too large gives infinity.

    exponent: at least 1. significand: over 24 bits; its top bit has the weight of FP32's hidden
    bit, and is 0 only if exponent is 1 (a subnormal) or all of it is 0.
    """
    rounded = round_significand(m, significand, 24, name)
    # The hidden bit adds the last one to the exponent, and so does a carry out of the rounding.
    base = wire(m, Mux(significand[-1], exponent - 1, 0), f"{name}_base")
    packed = wire(m, (base << 23) + rounded, f"{name}_packed")
    large = Value.cast(infinite) | (packed >= INF_BITS)
    magnitude = Mux(large, INF_BITS, packed[:31])
    return wire(m, Mux(nan, NAN_BITS, Cat(magnitude[:31], sign)), f"{name}_bits")
