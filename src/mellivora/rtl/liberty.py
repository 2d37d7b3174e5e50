"""Cell libraries: the part of Liberty that area, function and delay of cells are in.

    library = read_library("asap7_rvt_tt_core.lib.gz")
    library.cells["NAND2x1_ASAP7_75t_R"].area_um2

Delays are tables over input slew and output load (NLDM). Units are those of the file, turned into
picoseconds, femtofarads and square micrometres where they are read.
"""

from __future__ import annotations

import bisect
import functools
import gzip
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mellivora.errors import HostError

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}();:,]|[^\s{}();:,"]+')
_NO_SEMICOLON = re.compile(r"(?m)^(\s*\w+\s*:\s*[^;{}\n]*[^;{}\s])\s*$")  # ASAP7 forgets some
_PS = {"1ps": 1.0, "10ps": 10.0, "100ps": 100.0, "1ns": 1000.0}
_FF = {"ff": 1.0, "pf": 1000.0}


@dataclass
class Group:
    """`kind(args) { attributes, groups }`, as it stands in the file."""

    kind: str
    args: list[str]
    attributes: dict[str, str | list[str]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def text(self, name: str, default: str = "") -> str:
        """A simple attribute without its quotes."""
        value = self.attributes.get(name, default)
        return value.strip('"') if isinstance(value, str) else default

    def numbers(self, name: str) -> list[float]:
        """All numbers of a complex attribute."""
        value = self.attributes.get(name, [])
        words = [value] if isinstance(value, str) else value
        return [float(x) for word in words for x in word.strip('"').replace(",", " ").split()]

    def of(self, kind: str) -> list[Group]:
        """The groups of one kind, in order."""
        return [group for group in self.groups if group.kind == kind]


def parse(text: str) -> Group:
    """The outermost group of a Liberty text."""
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r"//[^\n]*", " ", text).replace("\\\n", " ")
    tokens = _TOKEN.findall(_NO_SEMICOLON.sub(r"\1 ;", text))
    root = Group("root", [])
    stack, at = [root], 0
    while at < len(tokens):
        word, following = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
        if word == "}":
            stack.pop()
            at += 1
        elif following == ":":
            end = at + 2
            while tokens[end] not in (";", "}"):
                end += 1
            stack[-1].attributes[word] = " ".join(tokens[at + 2 : end])
            at = end
        elif following == "(":
            end = tokens.index(")", at + 2)
            args = [token for token in tokens[at + 2 : end] if token != ","]
            at = end + 1
            if at < len(tokens) and tokens[at] == "{":
                group = Group(word, [arg.strip('"') for arg in args])
                stack[-1].groups.append(group)
                stack.append(group)
                at += 1
            else:
                stack[-1].attributes[word] = args
        else:
            at += 1
    return root.groups[0]


@dataclass(frozen=True)
class Table:
    """A figure over (slew, load), linear between the points and beyond them."""

    x: tuple[float, ...]  # slews, ps
    y: tuple[float, ...]  # loads, fF; of a setup time slews of the clock, ps
    values: tuple[tuple[float, ...], ...]

    def __call__(self, slew: float, load: float) -> float:
        i, u = _place(self.x, slew)
        j, v = _place(self.y, load)
        low = _between(self.values[i], j, v)
        return low if not u else low + u * (_between(self.values[i + 1], j, v) - low)


def _place(points: Sequence[float], x: float) -> tuple[int, float]:
    """The interval of x, and how far in it x lies."""
    if len(points) < 2:
        return 0, 0.0
    i = min(max(bisect.bisect(points, x) - 1, 0), len(points) - 2)
    return i, (x - points[i]) / (points[i + 1] - points[i])


def _between(row: Sequence[float], j: int, v: float) -> float:
    return row[j] if not v else row[j] + v * (row[j + 1] - row[j])


@dataclass(frozen=True)
class Arc:
    """From one input to one output. tables: cell_rise, cell_fall, rise_transition, ..."""

    source: str
    sense: str  # positive_unate, negative_unate, non_unate
    tables: dict[str, Table]


@dataclass(frozen=True)
class Cell:
    """One cell. arcs and functions by output, capacitances and setup times by input."""

    name: str
    area_um2: float
    inputs: dict[str, float]  # capacitance, fF
    functions: dict[str, str]
    arcs: dict[str, tuple[Arc, ...]]
    setup: dict[str, dict[str, Table]]
    clock: str = ""  # of a flip-flop or latch
    state: tuple[str, str, str] = ("", "", "")  # its value, the inverted value, the next value

    @property
    def is_sequential(self) -> bool:
        return bool(self.clock)

    def truth(self, output: str) -> tuple[int, ...]:
        """The output for all inputs, the first input counting slowest."""
        return _truth(self.functions[output], tuple(self.inputs))


def expression(function: str) -> str:
    """A Liberty function with Python's operators on the bits of integers or arrays."""
    text = re.sub(r"([A-Za-z_]\w*|\([^()]*\))'", r"(!\1)", function)
    return text.replace("!", "~").replace("*", "&").replace("+", "|").strip()


@functools.cache
def _truth(function: str, inputs: tuple[str, ...]) -> tuple[int, ...]:
    code = compile(expression(function), function, "eval")
    rows = itertools.product((0, 1), repeat=len(inputs))
    return tuple(eval(code, {}, dict(zip(inputs, row))) & 1 for row in rows)


@dataclass(frozen=True)
class Library:
    """All cells of a file, and what the file says of the corner they are for."""

    name: str
    corner: str
    volts: float
    cells: dict[str, Cell]

    def full_adder(self) -> tuple[Cell, str, str, bool] | None:
        """The smallest cell with majority and parity of three inputs: (cell, carry output, sum
        output, both are inverted); None if the library has none."""
        majority, parity = (0, 0, 0, 1, 0, 1, 1, 1), (0, 1, 1, 0, 1, 0, 0, 1)
        found = []
        for cell in self.cells.values():
            if cell.is_sequential or len(cell.inputs) != 3 or len(cell.functions) != 2:
                continue
            for carry, total in itertools.permutations(cell.functions):
                for flip in (0, 1):
                    want = [tuple(bit ^ flip for bit in row) for row in (majority, parity)]
                    if [cell.truth(carry), cell.truth(total)] == want:
                        found.append((cell, carry, total, bool(flip)))
        return min(found, key=lambda one: one[0].area_um2, default=None)

    def inverter(self) -> Cell:
        """The smallest inverter."""
        singles = [c for c in self.cells.values() if len(c.inputs) == len(c.functions) == 1]
        return min((c for c in singles if _inverts(c)), key=lambda c: c.area_um2)


def _inverts(cell: Cell) -> bool:
    return not cell.is_sequential and cell.truth(next(iter(cell.functions))) == (1, 0)


@functools.cache
def read_library(path: Path) -> Library:
    """The library in a Liberty file, plain or gzip. Raises HostError MV0931 if it is none."""
    try:
        group = parse(liberty_text(path))
        assert group.kind == "library"
        return _library(group)
    except (OSError, IndexError, KeyError, ValueError, AssertionError) as error:
        raise HostError(
            "MV0931",
            "the cell library cannot be read",
            where=str(path),
            given=f"{type(error).__name__}: {error}",
            allowed="a Liberty file (.lib or .lib.gz) with NLDM delay tables",
            hint="Name another file, or give none to count generic gates.",
        ) from None


def liberty_text(path: Path) -> str:
    """The text of a plain or gzipped file."""
    raw = Path(path).read_bytes()
    return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8", "replace")


def _library(group: Group) -> Library:
    ps = _PS[group.text("time_unit", "1ns")]
    unit = group.attributes.get("capacitive_load_unit", ["1", "pf"])
    ff = float(unit[0]) * _FF[unit[1].strip('"').lower()]
    templates = {t.args[0]: t for t in group.of("lu_table_template")}
    cells = {c.args[0]: _cell(c, templates, ps, ff) for c in group.of("cell")}
    volts, celsius = (float(group.text(f"nom_{word}", "0")) for word in ("voltage", "temperature"))
    process = group.text("nom_process", "1")
    corner = f"process {process}, {volts:g} V, {celsius:g} C"
    return Library(name=group.args[0], corner=corner, volts=volts, cells=cells)


def _cell(group: Group, templates: dict[str, Group], ps: float, ff: float) -> Cell:
    inputs: dict[str, float] = {}
    functions: dict[str, str] = {}
    arcs: dict[str, tuple[Arc, ...]] = {}
    setup: dict[str, dict[str, Table]] = {}
    clock = ""
    for pin in group.of("pin"):
        (name,) = pin.args
        if pin.text("direction") == "output":
            functions[name] = pin.text("function")
        else:
            inputs[name] = float(pin.text("capacitance", "0")) * ff
        found: list[Arc] = []
        for timing in pin.of("timing"):
            kind = timing.text("timing_type", "combinational")
            tables = {t.kind: _table(t, templates, ps, ff) for t in timing.groups}
            source = timing.text("related_pin")
            if kind.startswith("setup"):
                setup[name] = tables
                clock = source
            elif "cell_rise" in tables or "cell_fall" in tables:
                sense = "non_unate" if "edge" in kind else timing.text("timing_sense", "non_unate")
                found.append(Arc(source, sense, tables))
        arcs[name] = tuple(found)
    area = float(group.text("area", "0"))
    outputs = {name: arcs[name] for name in functions}
    state, sequential = ("", "", ""), group.of("ff") + group.of("latch")
    for one in sequential:
        state = (one.args[0], one.args[1], one.text("next_state") or one.text("data_in"))
    clock = clock if sequential else ""
    return Cell(group.args[0], area, inputs, functions, outputs, setup, clock, state)


def _table(group: Group, templates: dict[str, Group], ps: float, ff: float) -> Table:
    template = templates.get(group.args[0]) if group.args else None
    axes: list[list[float]] = []
    for n in (1, 2):
        points = group.numbers(f"index_{n}")
        variable = f"{'input_net_transition' if n == 1 else 'total_output_net_capacitance'}"
        if template:
            points = points or template.numbers(f"index_{n}")
            variable = template.text(f"variable_{n}", variable)
        unit = ff if "capacitance" in variable else ps
        axes.append([x * unit for x in points])
    values = [v * ps for v in group.numbers("values")]
    rows, columns = max(1, len(axes[0])), max(1, len(axes[1]))
    grid = [tuple(values[i * columns : (i + 1) * columns]) for i in range(rows)]
    if axes[1] and template and "capacitance" in template.text("variable_1"):
        return Table(tuple(axes[1]), tuple(axes[0]), tuple(zip(*grid)))
    return Table(tuple(axes[0]), tuple(axes[1]), tuple(grid))
