"""Which corners of the instruction set a set of programs has been to.

Every engine instruction has *forms* (formats, operations, operand kinds, from the enumerations) and
*dimensions* (its sizes); each size has classes about the engine's tile. A cell is an instruction, a
form of it, a dimension and a class; beside these, how many semaphores it waits for and posts, each
CONTROL instruction with an immediate and with a register, and each cause of a fault on each engine
that can have it. Co-simulation feeds it what ran: `add`, `add_code`, `add_fault`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mellivora.isa.control import words_of
from mellivora.isa.encoding import (
    ACCUMULATOR_BASE,
    CONTROL,
    ENGINES,
    GATHER_PAGES,
    R_CONFIG,
    R_OPCODE,
    R_POST0,
    R_SLOT,
    R_WAIT0,
    REGISTER_FLAG,
)
from mellivora.isa.latency import ACCUMULATE_CYCLES
from mellivora.isa.modes import BFormat, Deq, Func, Kind, Op, Reduce, Store
from mellivora.isa.table import BY_NAME, BY_OPCODE, TABLE

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Cell = tuple[str, str, str, str]
"""(instruction, form, dimension, class)."""

_PRIMES = frozenset(n for n in range(2, 4096) if all(n % d for d in range(2, int(n**0.5) + 1)))
_FAULT_ENGINES = {
    **dict.fromkeys((1, 8, 9), ("CONTROL",)),
    2: ("LOAD", "STORE"),
    3: ("LOAD", "STORE", "MATRIX", "VECTOR"),
    4: ("LOAD", "VECTOR"),
    5: ("LOAD", "MATRIX", "VECTOR"),
    **dict.fromkeys((6, 7), ENGINES[CONTROL + 1 :]),
}
"""Engines that can have each cause, by the rules of `isa.footprint`."""


@dataclass(frozen=True)
class Dimension:
    """classes of a size; `of` gives the class of each row as an index, -1: none of them."""

    name: str
    classes: tuple[str, ...]
    of: Callable[[Rows], Rows]


@dataclass(frozen=True)
class Form:
    """Rows of one instruction that the mask picks."""

    name: str
    mask: Callable[[Rows], Mask]
    dimensions: tuple[Dimension, ...]


def _by_tile(
    name: str, value: Callable[[Rows], Rows], tile: int, *, above: bool = True
) -> Dimension:
    """Nothing, one, about the tile, a prime; above: sizes past the tile are legal."""
    sizes = {"none": None, "1": 1, f"{tile - 1}": tile - 1, f"{tile}": tile}
    sizes |= {f"{tile + 1}": tile + 1} if above else {}
    named = {size: at for at, size in enumerate(sizes.values()) if size is not None}

    def of(rows: Rows) -> Rows:
        def one(size: int) -> int:
            if size <= 0:
                return 0
            return named.get(size, len(sizes) if size in _PRIMES else -1)

        return np.array([one(size) for size in value(rows).tolist()], np.int64)

    return Dimension(name, (*sizes, "prime"), of)


def _count(name: str, value: Callable[[Rows], Rows]) -> Dimension:
    """None, 1, 2, more."""
    return Dimension(
        name, ("none", "1", "2", "more"), lambda rows: np.clip(value(rows), 0, 3).astype(np.int64)
    )


def _sign(name: str, value: Callable[[Rows], Rows]) -> Dimension:
    return Dimension(
        name, ("negative", "0", "positive"), lambda rows: np.sign(value(rows)).astype(np.int64) + 1
    )


def _slot(name: str, slot: str) -> Callable[[Rows], Rows]:
    at = R_SLOT + BY_NAME[name].slots.index(slot)
    return lambda rows: rows[:, at]


def _config(name: str, field: str) -> Callable[[Rows], Rows]:
    at = R_CONFIG + BY_NAME[name].config.index(field)
    return lambda rows: rows[:, at]


def _equals(
    value: Callable[[Rows], Rows], shift: int, bits: int, wanted: int
) -> Callable[[Rows], Mask]:
    mask = (1 << bits) - 1
    return lambda rows: (value(rows) >> shift & mask) == wanted


def _above(value: Callable[[Rows], Rows], least: int) -> Callable[[Rows], Mask]:
    return lambda rows: value(rows) > least


def _same(one: Callable[[Rows], Rows], two: Callable[[Rows], Rows]) -> Callable[[Rows], Mask]:
    return lambda rows: one(rows) == two(rows)


def _both(*masks: Callable[[Rows], Mask]) -> Callable[[Rows], Mask]:
    return lambda rows: np.logical_and.reduce([mask(rows) for mask in masks])


def _all(rows: Rows) -> Mask:
    return np.ones(len(rows), bool)


# ------------------------------------------------------------------------- forms by instruction


def _dma_forms(name: str, chip: ChipSpec) -> Iterator[Form]:
    n0 = _slot(name, "n0")
    counts = [_slot(name, f"n{k}") for k in (1, 2, 3)]
    dimensions = (
        _by_tile("n0", n0, chip.dram_burst_bytes),
        *(_count(f"n{k}", count) for k, count in enumerate(counts, 1)),
    )
    if name == "loadx":
        pitch = _config(name, "d3")
        pages = _by_tile("n3", counts[2], GATHER_PAGES, above=False)
        apart = Dimension(
            "d3",
            ("0", "a burst", "more"),
            lambda rows: np.clip(pitch(rows) // chip.dram_burst_bytes, 0, 2).astype(np.int64),
        )
        dimensions = (*dimensions[:3], pages, apart)
    yield Form("any", _all, dimensions)
    for side, fields in (("DRAM", "d1 d2 d3"), ("scratchpad", "p1 p2 p3")):
        for k, field in enumerate(fields.split()):
            if (name, field) == ("loadx", "d3"):
                continue
            stride, count = _config(name, field), counts[k]
            kinds = Dimension(
                "stride",
                ("joined", "a burst's multiple", "odd"),
                lambda rows, stride=stride: np.where(
                    stride(rows) == n0(rows),
                    0,
                    np.where(stride(rows) % chip.dram_burst_bytes, 2, 1),
                ),
            )
            yield Form(f"{side} {field}", _above(count, 1), (kinds,))


def _exchange_forms(name: str, chip: ChipSpec) -> Iterator[Form]:
    size, rows = _slot(name, "bytes"), _slot(name, "rows")
    dimensions = (_by_tile("bytes", size, chip.exchange_bytes_per_cycle), _count("rows", rows))
    yield Form("any", _all, (*dimensions, _sign("dst_stride", _slot(name, "dst_stride"))))


def _matmul_forms(name: str, chip: ChipSpec) -> Iterator[Form]:
    mode = _slot(name, "mode")
    m, blocks, n = (_slot(name, field) for field in ("m", "blocks", "n"))
    dimensions = (
        _by_tile("m", m, ACCUMULATE_CYCLES),
        _count("blocks", blocks),
        _by_tile("n", n, chip.columns, above=False),
    )
    integers = (BFormat.INT8, BFormat.UINT8, BFormat.INT4)
    for fmt in BFormat:
        of_format = _equals(mode, 0, 4, fmt)
        for si in (1, 2, 3):
            for sj in (1, 2, 3) if fmt in (BFormat.MX8, BFormat.ROWS) else (1,):
                slices = _both(of_format, _equals(mode, 4, 2, si), _equals(mode, 6, 2, sj))
                plain = _both(slices, _equals(mode, 9, 1, 0))
                yield Form(f"{fmt.name} {si}x{sj} slices", plain, dimensions)
        if fmt in integers:
            yield Form(f"{fmt.name} INT32", _both(of_format, _equals(mode, 9, 1, 1)), dimensions)
        if fmt != BFormat.ROWS:
            pace = _sign("b_block", _config(name, "b_block"))
            yield Form(f"{fmt.name} blocks", _both(of_format, _above(blocks, 1)), (pace,))
        yield Form(f"{fmt.name} accumulates", _both(of_format, _equals(mode, 8, 1, 1)),
                   (_count("blocks", blocks),))  # fmt: skip


def _tile(name: str, chip: ChipSpec) -> tuple[Dimension, ...]:
    return (
        _by_tile("rows", _slot(name, "rows"), 3),
        _by_tile("cols", _slot(name, "cols"), chip.lanes),
    )


def _places(name: str, *slots: str) -> Iterator[Form]:
    """Operands of VECTOR in both memories."""
    rows, cols = _slot(name, "rows"), _slot(name, "cols")
    some = _both(_above(rows, 0), _above(cols, 0))
    for slot in slots:
        at = _slot(name, slot)
        where = Dimension(
            "memory",
            ("scratchpad", "accumulators"),
            lambda r, at=at: (at(r) >= ACCUMULATOR_BASE).astype(np.int64),
        )
        yield Form(f"{slot} in", some, (where,))


def _vew_forms(name: str, chip: ChipSpec) -> Iterator[Form]:
    fn, kinds, tile = _slot(name, "fn"), _slot(name, "kinds"), _tile(name, chip)
    for stage, operand in enumerate("bc"):
        for op in Op:
            one = _equals(fn, 3 * stage, 3, op)
            for kind in Kind if op else ():
                of_kind = _both(one, _equals(kinds, 2 * stage, 2, kind))
                yield Form(f"{op.name} {operand} {kind.name}", of_kind, tile)
            if not op:
                yield Form(f"{op.name} {operand}", one, tile)
    for func in Func:
        yield Form(func.name, _equals(fn, 6, 4, func), tile)
    yield Form("masked", _equals(kinds, 4, 1, 1), tile)
    dst = _slot(name, "dst")
    for slot in ("a", "b"):
        at = _slot(name, slot)
        used = (_above(lambda rows: fn(rows) & 7, 0),) if slot == "b" else ()
        same = _both(_same(dst, at), *used)
        yield Form(f"in place on {slot}", same, (_count("rows", _slot(name, "rows")),))
    yield from _places(name, "dst", "a")


def _vred_forms(name: str, chip: ChipSpec) -> Iterator[Form]:
    op, mask = _slot(name, "op"), _slot(name, "mask")
    chunks = _count("chunks of 32", lambda rows: -(-_slot(name, "cols")(rows) // 32))
    for one in Reduce:
        for masked in (0, 1):
            picks = _both(_equals(op, 0, 4, one), _equals(mask, 0, 1, masked))
            yield Form(f"{one.name}{' masked' * masked}", picks, (*_tile(name, chip), chunks))
    yield from _places(name, "dst", "a")


def _vquant_forms(name: str, chip: ChipSpec) -> Iterator[Form]:
    mode, cols = _slot(name, "mode"), _slot(name, "cols")
    rows, by_lanes = _tile(name, chip)
    in_blocks = _count("blocks of 32", lambda r: -(-cols(r) // 32))
    for target in Store:
        for wide in (0, 1):
            blocked = target <= Store.MX3 and not wide
            picks = _both(_equals(mode, 0, 3, target), _equals(mode, 3, 1, wide))
            width = in_blocks if blocked else by_lanes
            yield Form(f"{target.name}{' wide' * wide}", picks, (rows, width))
    yield Form("no b", _equals(mode, 4, 1, 0), (rows, by_lanes))
    for kind in Kind:
        picks = _both(_equals(mode, 4, 1, 1), _equals(mode, 5, 2, kind))
        yield Form(f"times b {kind.name}", picks, (rows, by_lanes))
    yield from _places(name, "dst", "dst_scale", "a")


def _vdeq_forms(name: str, chip: ChipSpec) -> Iterator[Form]:
    fmt, cols = _slot(name, "fmt"), _slot(name, "cols")
    rows, by_lanes = _tile(name, chip)
    in_blocks = _count("blocks of 32", lambda r: cols(r) // 32)
    for one in Deq:
        width = in_blocks if Deq.MX1 <= one <= Deq.Q4_1 else by_lanes
        yield Form(one.name, _equals(fmt, 0, 8, one), (rows, width))
    yield from _places(name, "dst", "src")


_FORMS: dict[str, Callable[[str, ChipSpec], Iterator[Form]]] = {
    **dict.fromkeys(("load", "loadm", "loadx", "store"), _dma_forms),
    "exch": _exchange_forms,
    "matmul": _matmul_forms,
    "vew": _vew_forms,
    "vred": _vred_forms,
    "vquant": _vquant_forms,
    "vdeq": _vdeq_forms,
}


def _links(first: int) -> Callable[[Rows], Rows]:
    return lambda rows: (rows[:, first : first + 2] > 0).sum(1)


_LINKS = (
    Dimension("waits", ("0", "1", "2"), _links(R_WAIT0)),
    Dimension("posts", ("0", "1", "2"), _links(R_POST0)),
)


def forms(chip: ChipSpec) -> dict[str, list[Form]]:
    """Forms of every engine instruction of the table."""
    out: dict[str, list[Form]] = {}
    for row in TABLE:
        if row.engine != CONTROL:
            made = _FORMS.get(row.name)
            out[row.name] = [
                Form("semaphores", _all, _LINKS),
                *(made(row.name, chip) if made else ()),
            ]
    return out


class Coverage:
    """Counts of every cell; a chip gives the tiles."""

    def __init__(self, chip: ChipSpec) -> None:
        self.forms = forms(chip)
        self.counts: dict[Cell, int] = {}
        for name, some in self.forms.items():
            for form in some:
                for dimension in form.dimensions:
                    for one in dimension.classes:
                        self.counts[name, form.name, dimension.name, one] = 0
        for row in TABLE:
            if row.engine == CONTROL:
                able = len(row.slots) > 1 and row.name != "li"
                for kind in ("immediate", "register") if able else ("any",):
                    self.counts[row.name, "operands", "CONTROL", kind] = 0
        for cause, engines in _FAULT_ENGINES.items():
            for engine in engines:
                self.counts["fault", f"cause {cause}", "engine", engine] = 0

    def add(self, rows: Rows) -> None:
        """Resolved rows that ran; many at once are faster."""
        for name, some in self.forms.items():
            mine = rows[rows[:, R_OPCODE] == BY_NAME[name].opcode]
            if not len(mine):
                continue
            for form in some:
                picked = mine[form.mask(mine)]
                for dimension in form.dimensions:
                    index = dimension.of(picked)
                    found = np.bincount(index[index >= 0], minlength=len(dimension.classes))
                    for one, count in zip(dimension.classes, found.tolist(), strict=True):
                        self.counts[name, form.name, dimension.name, one] += count

    def add_code(self, code: npt.NDArray[np.uint64]) -> None:
        """CONTROL instructions of a program's words."""
        for word in words_of(code):
            row = BY_OPCODE.get(word.opcode)
            if row is None or row.engine != CONTROL:
                continue
            operands = word.slots[row.slots[:1] == ("rd",) : len(row.slots)]
            kinds = {"register" if raw & REGISTER_FLAG else "immediate" for raw in operands}
            for kind in kinds | {"any"}:
                key = (row.name, "operands", "CONTROL", kind)
                if key in self.counts:
                    self.counts[key] += 1

    def add_fault(self, engine: str, cause: int) -> None:
        """A fault record that was compared."""
        self.counts["fault", f"cause {cause}", "engine", engine] += 1

    def holes(self, least: int = 1) -> list[Cell]:
        """Cells met less than `least` times."""
        return [cell for cell, count in self.counts.items() if count < least]

    def table(self) -> str:
        """Markdown: for each instruction and dimension the classes, for each form its counts."""
        lines: list[str] = []
        names = list(dict.fromkeys(cell[0] for cell in self.counts))
        for name in names:
            lines += ["", f"## {name}"]
            mine = {cell[1:]: count for cell, count in self.counts.items() if cell[0] == name}
            heads = dict.fromkeys(
                (dimension, tuple(c for f, d, c in mine if (f, d) == (form, dimension)))
                for form, dimension, _ in mine
            )
            for dimension, classes in heads:
                lines += ["", f"| {dimension} | {' | '.join(classes)} |"]
                lines += ["| --- " * (len(classes) + 1) + "|"]
                for form in dict.fromkeys(f for f, d, _ in mine if d == dimension):
                    if tuple(c for f, d, c in mine if (f, d) == (form, dimension)) == classes:
                        cells = [str(mine[form, dimension, one]) for one in classes]
                        lines.append(f"| {form} | {' | '.join(cells)} |")
        return "\n".join(lines).lstrip("\n") + "\n"


def summary(coverage: Sequence[Coverage]) -> str:
    """One line about the cells."""
    counts = [count for one in coverage for count in one.counts.values()]
    return f"{len(counts)} cells, {sum(not c for c in counts)} empty, least {min(counts)}"
