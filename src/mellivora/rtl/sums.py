"""Finds the sums of products of a design and has each made as a tree: a step of synthesis between
yosys' and yosys'.

Yosys gathers additions and multiplications into `$macc_v2` and `$mul` cells. `expand` replaces each
by partial products, a tree of full adders, and one `$add` of the two rows that are left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mellivora.rtl.liberty import Library
from mellivora.rtl.sum_trees import Net, Tree


@dataclass
class Products:
    """Plus or minus a sum of a * b. Of the b's no two have the same bit, so bit for bit there is
    one a at most to add: they share their rows. All a's, and all b's, are of one width."""

    factors: list[tuple[list[Net], list[Net]]]
    signs: tuple[bool, bool]  # a and b are signed
    negated: bool

    def limits(self) -> tuple[int, int]:
        """Bounds of the value, the closer of two: products at their corners; rows at their ends."""
        x = _range(len(self.factors[0][0]), self.signs[0])
        width = len(self.factors[0][1])
        corners = [i * j for i in x for j in _range(width, self.signs[1])]
        low, high = (len(self.factors) * corner(corners) for corner in (min, max))
        ends = [(i << j) for j in range(width) for i in (min(0, x[0]), max(0, x[1]))]
        if self.signs[1]:
            ends[-2:] = [-end for end in ends[-2:]]
        low = max(low, sum(end for end in ends if end < 0))
        high = min(high, sum(end for end in ends if end > 0))
        return (-high, -low) if self.negated else (low, high)


@dataclass
class Sum:
    """A cell taken apart: y = products + addends, modulo 2^len(y)."""

    y: list[Net]
    products: list[Products]
    addends: list[tuple[list[Net], bool, bool]]  # bits, signed, negated

    def limits(self) -> tuple[int, int]:
        """Bounds of the value."""
        terms = [group.limits() for group in self.products]
        for bits, is_signed, negated in self.addends:
            low, high = _range(len(bits), is_signed)
            terms.append((-high, -low) if negated else (low, high))
        return sum(low for low, _ in terms), sum(high for _, high in terms)


def _range(width: int, is_signed: bool) -> tuple[int, int]:
    return (-(1 << width - 1), (1 << width - 1) - 1) if is_signed else (0, (1 << width) - 1)


def expand(design: dict[str, Any], library: Library | None) -> int:
    """Expand every `$mul` and `$macc_v2` of yosys' JSON in place; returns how many there were."""
    return sum(_expand(module, library) for module in design["modules"].values())


def _expand(module: dict[str, Any], library: Library | None) -> int:
    cells = module["cells"]
    literals = _Literals(module)
    sums = {n: _sum(c, literals) for n, c in cells.items() if c["type"] in ("$mul", "$macc_v2")}
    kept = _keep_carries(module, sums, literals)
    next_net = 1 + max(_numbers(module), default=1)
    for name in sums:
        cells.pop(name)
    todo = dict(sums)
    while todo:
        # A sum whose carries are kept comes before the one that takes its rows.
        name = next(n for n in todo if not any(k in todo for k, v in kept.items() if v[1] == n))
        one = todo.pop(name)
        tree = Tree(module, name, library, next_net)
        width = len(sums[kept[name][1]].y) if name in kept else len(one.y)
        constant = 0
        for group in one.products:
            constant += tree.product(group.factors, group.signs, group.negated)
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


def _together(
    products: list[tuple[list[Net], list[Net], bool, bool, bool]], literals: _Literals
) -> list[Products]:
    """The products (a, b, a signed, b signed, negated) in groups that share their rows."""
    groups: list[Products] = []
    for a, b, *signs, negated in products:
        for group in groups:
            same = group.signs == tuple(signs) and group.negated == negated
            if same and all(
                len(other) == len(b) and literals.exclude(x, y)
                for _, other in group.factors
                for x, y in zip(b, other)
            ):
                group.factors.append((a, b))
                break
        else:
            groups.append(Products([(a, b)], (signs[0], signs[1]), negated))
    for group in groups:
        width = max(len(a) for a, _ in group.factors)  # yosys narrows each by itself
        group.factors = [
            ([_extended(a, i, group.signs[0]) for i in range(width)], b) for a, b in group.factors
        ]
    return groups


def _keep_carries(
    module: dict[str, Any], sums: dict[str, Sum], literals: _Literals
) -> dict[str, tuple[str, str]]:
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
            sums.setdefault(user, _sum(cells[user], literals))
        if user in sums and (q, True, False) in sums[user].addends:
            sums[user].addends.remove((q, True, False))
            kept[name] = flop, user
    return kept


def _is_plain_sum(cell: Mapping[str, Any], users: Mapping[Net, set[str]]) -> bool:
    """An `$alu` that adds, and of which nothing but the sum is used."""
    pins = cell["connections"]
    unused = all(not users[bit] for bit in pins["X"] + pins["CO"])
    return unused and pins["CI"] == pins["BI"] == ["0"]


def _sum(cell: Mapping[str, Any], literals: _Literals) -> Sum:
    """A `$mul`, `$macc_v2` or plain `$alu` taken apart."""
    p, pins = cell["parameters"], cell["connections"]
    if cell["type"] != "$macc_v2":
        a, b = ((pins[pin], bool(int(p[f"{pin}_SIGNED"], 2))) for pin in "AB")
        if cell["type"] == "$mul":
            products = [(a[0], b[0], a[1], b[1], False)]
            return Sum(pins["Y"], _together(products, literals), [])
        return Sum(pins["Y"], [], [(*a, False), (*b, False)])
    counts = (int(p["NPRODUCTS"], 2), int(p["NPRODUCTS"], 2), int(p["NADDENDS"], 2))
    a, b, c = (_split(pins[pin], p[f"{pin}_WIDTHS"], n) for pin, n in zip("ABC", counts))
    products = [
        (x, y, _flag(p["A_SIGNED"], n), _flag(p["B_SIGNED"], n), _flag(p["PRODUCT_NEGATED"], n))
        for n, (x, y) in enumerate(zip(a, b))
    ]
    addends = [(x, _flag(p["C_SIGNED"], n), _flag(p["ADDEND_NEGATED"], n)) for n, x in enumerate(c)]
    return Sum(pins["Y"], _together(products, literals), addends)


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
