"""One sum of products as a tree of full adders that takes the earliest bits first.

Signs cost nothing: a term of negative weight is counted inverted, and the ones too many of all
terms are one constant (Baugh and Wooley).

A library's full adder is a third of its logic in gates, but often inverts both results. Majority
and parity of inverted inputs are the inverted majority and parity, so three inverted bits give
true ones; the tree groups bits of one kind, and products, being AND or NAND, come in either.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mellivora.rtl.liberty import Library

Net = int | str
_SUM, _CARRY, _INVERT, _PRODUCT = 66.0, 34.0, 15.0, 26.0
"""Delays that the order of the tree is chosen by, ps in ASAP7."""


@dataclass(order=True)
class _Bit:
    """One bit of a column, at the earliest `time`. pairs: what they
    have in products, one of which at most is 1; not made yet."""

    time: float
    serial: int
    net: Net = field(compare=False, default=0)
    inverted: bool = field(compare=False, default=False)  # the net holds the bit's complement
    pairs: tuple[tuple[Net, Net], ...] = field(compare=False, default=())
    either: bool = field(compare=False, default=False)  # cheap in both kinds


class Tree:
    """The cells of one sum, added to `cells` of a module."""

    def __init__(
        self, module: dict[str, Any], prefix: str, library: Library | None, first: int
    ) -> None:
        self.cells, self.prefix, self.next_net = module["cells"], prefix, first
        self.adder = library.full_adder() if library else None
        self.serial = self.made = 0
        self.columns: dict[int, list[_Bit]] = defaultdict(list)

    # ------------------------------------------------------------------------------ terms

    def product(
        self, factors: list[tuple[list[Net], list[Net]]], signs: tuple[bool, bool], negated: bool
    ) -> int:
        """Adds the sum of a * b over the factors, of whose b's no two have the same bit; returns
        the constant that goes with it."""
        constant = 0
        a, b = factors[0]
        for i in range(len(a)):
            for j in range(len(b)):
                negative = negated ^ (signs[0] and i == len(a) - 1) ^ (signs[1] and j == len(b) - 1)
                pairs = [(x[i], y[j]) for x, y in factors]
                pairs = [pair for pair in pairs if "0" not in pair]
                if len(pairs) == 1 and "1" in pairs[0]:
                    x, y = pairs[0]
                    constant += self.term(y if x == "1" else x, i + j, negative)
                elif pairs:
                    constant -= negative << (i + j)
                    what = {"inverted": negative, "either": True}
                    self._put(i + j, _PRODUCT * min(2, len(pairs)), pairs=tuple(pairs), **what)
        return constant

    def term(self, bit: Net, column: int, negative: bool) -> int:
        """Adds a bit of a weight; returns the constant that goes with it."""
        if bit in ("0", "x"):
            return 0
        if bit == "1":
            return (-1 if negative else 1) << column
        self._put(column, 0.0, net=bit, inverted=negative, either=True)
        return -negative << column

    def word(self, bits: list[Net], is_signed: bool, negated: bool) -> int:
        """Adds a number; returns the constant that goes with it."""
        top = len(bits) - 1
        return sum(
            self.term(bit, i, negated ^ (is_signed and i == top)) for i, bit in enumerate(bits)
        )

    def _put(self, column: int, time: float, **what: Any) -> None:
        self.serial += 1
        self.columns[column].append(_Bit(time, self.serial, **what))

    # ------------------------------------------------------------------------------- tree

    def rows(self, width: int, constant: int) -> tuple[list[Net], list[Net]]:
        """The two rows whose sum is that of all terms and the constant, modulo 2^width."""
        first: list[Net] = []
        second: list[Net] = []
        for column in range(width):
            one = bool(constant >> column & 1)
            bits = self.columns.pop(column, [])
            heapq.heapify(bits)
            while len(bits) + one > 2:
                if len(bits) == 2:  # and a constant one: their sum is inverted parity
                    self._with_one(column, bits)
                    one = False
                    continue
                self._full(column, bits, last=column == width - 1)
            nets: list[Net] = [self._true(bit) for bit in bits] + ["1"] * one
            first.append(nets[0] if nets else "0")
            second.append(nets[1] if len(nets) > 1 else "0")
        self.columns.clear()
        return first, second

    def _full(self, column: int, bits: list[_Bit], *, last: bool) -> None:
        """Three bits become one, and one of the next column."""
        trio, kind = self._choose(bits)
        for bit in trio:
            bits.remove(bit)
        heapq.heapify(bits)
        time = max(bit.time + _INVERT * (bit.inverted != kind and not bit.either) for bit in trio)
        nets = [self._net(bit, kind) for bit in sorted(trio)]
        carry, total, flips = self._full_adder(nets)
        inverted = kind ^ flips
        self.serial += 1
        heapq.heappush(bits, _Bit(time + _SUM, self.serial, total, inverted))
        if not last:
            self._put(column + 1, time + _CARRY, net=carry, inverted=inverted)

    def _choose(self, bits: list[_Bit]) -> tuple[list[_Bit], bool]:
        """The three to add, and the kind to take them in."""
        order = heapq.nsmallest(8, bits)
        if self.adder is None or not self.adder[3]:
            return order[:3], False
        best: tuple[float, list[_Bit], bool] | None = None
        for kind in (False, True):
            fit = [bit for bit in order if bit.either or bit.inverted == kind][:3]
            if len(fit) == 3 and (best is None or fit[2].time < best[0]):
                best = fit[2].time, fit, kind
        if best and best[0] <= order[2].time + 2 * _SUM:
            return best[1], best[2]
        trio = order[:3]
        return trio, sum(bit.inverted for bit in trio if not bit.either) > 1

    def _with_one(self, column: int, bits: list[_Bit]) -> None:
        x, y = (self._true(bit) for bit in bits)
        time = max(bit.time for bit in bits) + _SUM
        bits.clear()
        self.serial += 1
        bits.append(_Bit(time, self.serial, self._gate("XNOR", x, y)))
        self._put(column + 1, time, net=self._gate("OR", x, y))

    # ------------------------------------------------------------------------------ cells

    def _true(self, bit: _Bit) -> Net:
        return self._net(bit, False)

    def _net(self, bit: _Bit, kind: bool) -> Net:
        """A net that holds the bit, inverted if `kind`. A product or a term with `inverted` is
        itself counted inverted."""
        if len(bit.pairs) == 1:
            return self._gate("NAND" if bit.inverted != kind else "AND", *bit.pairs[0])
        if bit.pairs:
            first, *others = (self._gate("AND", *pair) for pair in bit.pairs)
            for n, other in enumerate(others):
                last = n == len(others) - 1
                first = self._gate("NOR" if last and bit.inverted != kind else "OR", first, other)
            return first
        return bit.net if bit.inverted == kind else self._gate("NOT", bit.net)

    def _full_adder(self, nets: list[Net]) -> tuple[Net, Net, bool]:
        a, b, c = nets
        if self.adder is None:
            half = self._gate("XOR", a, b)
            carry = self._gate("OR", self._gate("AND", a, b), self._gate("AND", half, c))
            return carry, self._gate("XOR", half, c), False
        cell, carry_pin, sum_pin, flips = self.adder
        carry, total = self._new(), self._new()
        pins = dict(zip(cell.inputs, nets)) | {carry_pin: carry, sum_pin: total}
        self._cell(cell.name, pins, set(cell.functions))
        return carry, total, flips

    def _gate(self, kind: str, *inputs: Net) -> Net:
        out = self._new()
        self._cell(f"$_{kind}_", dict(zip("AB", inputs)) | {"Y": out}, {"Y"})
        return out

    def _new(self) -> int:
        self.next_net += 1
        return self.next_net - 1

    def _cell(self, kind: str, pins: Mapping[str, Net], outputs: set[str]) -> None:
        self._add(kind, {pin: [net] for pin, net in pins.items()}, outputs, {})

    def _add(
        self, kind: str, pins: dict[str, list[Net]], outputs: set[str], parameters: dict[str, str]
    ) -> None:
        self.made += 1
        self.cells[f"{self.prefix}$tree{self.made}"] = {
            "hide_name": 1,
            "type": kind,
            "parameters": parameters,
            "attributes": {},
            "port_directions": {pin: "output" if pin in outputs else "input" for pin in pins},
            "connections": pins,
        }

    def register(self, row: list[Net], like: Mapping[str, Any]) -> list[Net]:
        """The row in a register with the clock of another one."""
        bits = [bit for bit in row if not isinstance(bit, str)]  # a constant needs no register
        q = [self._new() for _ in bits]
        words = {"CLK_POLARITY": like["parameters"]["CLK_POLARITY"], "WIDTH": f"{len(q):032b}"}
        pins = {"CLK": like["connections"]["CLK"], "D": bits, "Q": q}
        self._add("$dff", pins, {"Q"}, words)
        held = iter(q)
        return [bit if isinstance(bit, str) else next(held) for bit in row]

    def add(self, a: list[Net], b: list[Net], y: list[Net]) -> None:
        """y = a + b, for yosys to make an adder of."""
        width = f"{len(y):032b}"
        words = {"A_SIGNED": "0", "B_SIGNED": "0"}
        words |= {f"{pin}_WIDTH": width for pin in "ABY"}
        self._add("$add", {"A": a, "B": b, "Y": y}, {"Y"}, words)
