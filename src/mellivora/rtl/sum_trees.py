"""Sums of products as trees of full adders: a step of synthesis between yosys' and yosys'.

Yosys gathers additions and multiplications into `$macc_v2` and `$mul` cells. `expand` replaces each
by partial products, a tree of full adders that takes the earliest bits first, and one `$add` of
the two rows that are left. Signs cost nothing: a term of negative weight is counted inverted, and
the ones too many of all terms are one constant (Baugh and Wooley).

A library's full adder is a third of its logic in gates, but often inverts both results. Majority
and parity of inverted inputs are the inverted majority and parity, so three inverted bits give
true ones; the tree groups bits of one kind, and products, being AND or NAND, come in either.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator, Mapping
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


class _Tree:
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


@dataclass
class _Sum:
    """A cell taken apart: y = products + addends, modulo 2^len(y)."""

    y: list[Net]
    products: list[tuple[list[Net], list[Net], bool, bool, bool]]  # a, b, signed, signed, negated
    addends: list[tuple[list[Net], bool, bool]]  # bits, signed, negated

    def limits(self) -> tuple[int, int]:
        """The least and the greatest value it may have."""
        low = high = 0
        terms = []
        for a, b, a_signed, b_signed, negated in self.products:
            x, y = _range(len(a), a_signed), _range(len(b), b_signed)
            corners = [i * j for i in x for j in y]
            terms.append((min(corners), max(corners), negated))
        terms += [(*_range(len(bits), signed), negated) for bits, signed, negated in self.addends]
        for least, most, negated in terms:
            low, high = (low - most, high - least) if negated else (low + least, high + most)
        return low, high


def _range(width: int, is_signed: bool) -> tuple[int, int]:
    return (-(1 << width - 1), (1 << width - 1) - 1) if is_signed else (0, (1 << width) - 1)


def expand(design: dict[str, Any], library: Library | None) -> int:
    """Expand every `$mul` and `$macc_v2` of yosys' JSON in place; returns how many there were."""
    return sum(_expand(module, library) for module in design["modules"].values())


def _expand(module: dict[str, Any], library: Library | None) -> int:
    cells = module["cells"]
    sums = {n: _sum(c) for n, c in cells.items() if c["type"] in ("$mul", "$macc_v2")}
    kept = _keep_carries(module, sums)
    literals = _Literals(module)
    next_net = 1 + max(_numbers(module), default=1)
    for name in sums:
        cells.pop(name)
    todo = dict(sums)
    while todo:
        # A sum whose carries are kept comes before the one that takes its rows.
        name = next(n for n in todo if not any(k in todo for k, v in kept.items() if v[1] == n))
        one = todo.pop(name)
        tree = _Tree(module, name, library, next_net)
        width = len(sums[kept[name][1]].y) if name in kept else len(one.y)
        constant = 0
        for factors, signs, negated in _together(one.products, literals):
            constant += tree.product(factors, signs, negated)
        for bits, is_signed, negated in one.addends:
            constant += tree.word(bits, is_signed, negated)
        rows = tree.rows(width, constant % (1 << width))
        if name in kept:
            flop, user = kept[name]
            registers = cells.pop(flop)
            held = [tree.register(row, registers) for row in rows]
            sums[user].addends += [(row, False, False) for row in held]
        else:
            tree.add(*rows, one.y)
        next_net = tree.next_net
    return len(sums)


def _extended(word: list[Net], i: int, is_signed: bool) -> Net:
    return word[i] if i < len(word) else word[-1] if is_signed else "0"


class _Literals:
    """Which nets and complements of nets a bit is the conjunction of, as far as it can be seen."""

    def __init__(self, module: Mapping[str, Any]) -> None:
        self.drivers: dict[Net, tuple[str, list[Net]]] = {}
        for cell in module["cells"].values():
            kind, pins = cell["type"], cell["connections"]
            if kind not in ("$and", "$not"):
                continue
            words = [pins[pin] for pin in "AB" if pin in pins]
            for i, bit in enumerate(pins["Y"]):
                if all(i < len(word) for word in words):
                    self.drivers[bit] = kind, [word[i] for word in words]
        self.known: dict[Net, frozenset[tuple[Net, bool]]] = {}

    def of(self, bit: Net) -> frozenset[tuple[Net, bool]]:
        if bit not in self.known:
            kind, inputs = self.drivers.get(bit, ("", []))
            if kind == "$and":
                found = frozenset().union(*(self.of(one) for one in inputs))
            elif kind == "$not":
                found = frozenset([(inputs[0], False)])
            else:
                found = frozenset([(bit, True)])
            self.known[bit] = found
        return self.known[bit]

    def exclude(self, x: Net, y: Net) -> bool:
        """The two bits are never both 1."""
        if "0" in (x, y):
            return True
        return any((net, not straight) in self.of(y) for net, straight in self.of(x))


_Factors = list[tuple[list[Net], list[Net]]]


def _together(
    products: list[tuple[list[Net], list[Net], bool, bool, bool]], literals: _Literals
) -> list[tuple[_Factors, tuple[bool, bool], bool]]:
    """Products in groups of which no two right factors have the same bit: they share their rows."""
    groups: list[tuple[_Factors, tuple[bool, bool], bool]] = []
    for a, b, a_signed, b_signed, negated in products:
        signs = (a_signed, b_signed)
        for factors, their_signs, their_negated in groups:
            same = (len(factors[0][1]), their_signs, their_negated) == (len(b), signs, negated)
            if same and all(
                literals.exclude(x, y) for _, other in factors for x, y in zip(b, other)
            ):
                factors.append((a, b))
                break
        else:
            groups.append(([(a, b)], signs, negated))
    return groups


def _keep_carries(module: dict[str, Any], sums: dict[str, _Sum]) -> dict[str, tuple[str, str]]:
    """{sum: (its register, the sum that takes it)}: where a sum goes through a register into
    another sum only, the register holds two rows and the carries need not run before it."""
    cells = module["cells"]
    users: dict[Net, set[str]] = defaultdict(set)
    for name, cell in cells.items():
        for pin, bits in cell["connections"].items():
            if cell["port_directions"][pin] == "input":
                for bit in bits:
                    users[bit].add(name)
    for port in module["ports"].values():
        for bit in port["bits"]:
            users[bit].add("")
    kept: dict[str, tuple[str, str]] = {}
    for name in list(sums):
        one = sums[name]
        low, high = one.limits()
        least, most = _range(len(one.y), True)
        readers = set().union(*(users[bit] for bit in one.y))
        if len(readers) != 1 or low < least or high > most:
            continue
        (flop,) = readers
        if not flop or cells[flop]["type"] != "$dff" or cells[flop]["connections"]["D"] != one.y:
            continue
        q = cells[flop]["connections"]["Q"]
        readers = set().union(*(users[bit] for bit in q))
        if len(readers) != 1:
            continue
        (user,) = readers
        if user and cells[user]["type"] == "$alu" and _is_plain_sum(cells[user], users):
            sums.setdefault(user, _sum(cells[user]))
        if user in sums and (q, True, False) in sums[user].addends:
            sums[user].addends.remove((q, True, False))
            kept[name] = flop, user
    return kept


def _is_plain_sum(cell: Mapping[str, Any], users: Mapping[Net, set[str]]) -> bool:
    """An `$alu` that adds, and of which nothing but the sum is used."""
    pins = cell["connections"]
    unused = all(not users[bit] for bit in pins["X"] + pins["CO"])
    return unused and pins["CI"] == pins["BI"] == ["0"]


def _sum(cell: Mapping[str, Any]) -> _Sum:
    """A `$mul`, `$macc_v2` or plain `$alu` taken apart."""
    p, pins = cell["parameters"], cell["connections"]
    if cell["type"] != "$macc_v2":
        a, b = ((pins[pin], bool(int(p[f"{pin}_SIGNED"], 2))) for pin in "AB")
        if cell["type"] == "$mul":
            return _Sum(pins["Y"], [(a[0], b[0], a[1], b[1], False)], [])
        return _Sum(pins["Y"], [], [(*a, False), (*b, False)])
    counts = (int(p["NPRODUCTS"], 2), int(p["NPRODUCTS"], 2), int(p["NADDENDS"], 2))
    a, b, c = (_split(pins[pin], p[f"{pin}_WIDTHS"], n) for pin, n in zip("ABC", counts))
    products = [
        (x, y, _flag(p["A_SIGNED"], n), _flag(p["B_SIGNED"], n), _flag(p["PRODUCT_NEGATED"], n))
        for n, (x, y) in enumerate(zip(a, b))
    ]
    addends = [(x, _flag(p["C_SIGNED"], n), _flag(p["ADDEND_NEGATED"], n)) for n, x in enumerate(c)]
    return _Sum(pins["Y"], products, addends)


def _flag(bits: str, n: int) -> bool:
    return n < len(bits) and bits[-1 - n] == "1"


def _split(bits: list[Net], widths: str, count: int) -> Iterator[list[Net]]:
    """The words of a port, whose widths are 16-bit numbers, the first one last."""
    at = 0
    for n in range(count):
        end = len(widths) - 16 * n
        width = int(widths[max(0, end - 16) : end], 2)
        yield bits[at : at + width]
        at += width


def _numbers(module: Mapping[str, Any]) -> Iterator[int]:
    for cell in module["cells"].values():
        for bits in cell["connections"].values():
            yield from (bit for bit in bits if isinstance(bit, int))
    for group in ("netnames", "ports"):
        for one in module[group].values():
            yield from (bit for bit in one["bits"] if isinstance(bit, int))
