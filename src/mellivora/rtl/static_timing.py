"""Static timing of a mapped netlist: how long its longest path is, without wires.

Arrival times by rise and fall through the delay tables of a `Library`, each net loaded with the
inputs on it (and `wire_ff` a fan-out, if the caller wants to guess wires); an ideal clock. A path
starts at an input (at time 0) or a flip-flop's clock and ends at an output or, with its setup
time, at a flip-flop. What is no cell of the library (a memory, a module left out) is a box: paths
start at its outputs and end at its inputs.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mellivora.errors import HostError
from mellivora.rtl.liberty import Cell, Library

_EDGES = (("cell_rise", "rise_transition"), ("cell_fall", "fall_transition"))
_SETUP = ("rise_constraint", "fall_constraint")
Bit = int | str


@dataclass(frozen=True)
class Path:
    """A longest path of one kind. steps: (cell, net, arrival in ps), first to last."""

    start: str
    end: str
    delay_ps: float
    steps: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class Timing:
    """The longest paths by kind: "register to register", "input to register", ..."""

    paths: dict[str, Path]

    @property
    def longest(self) -> Path | None:
        """The longest of all; None if the netlist has no path."""
        return max(self.paths.values(), key=lambda path: path.delay_ps, default=None)


@dataclass
class _Arrival:
    ps: float
    slew: float
    before: tuple[Any, ...] | None = None  # (cell instance, net, edge), of the last step


class Netlist:
    """Cells by instance, and what drives and loads each net."""

    def __init__(self, module: Mapping[str, Any], library: Library, wire_ff: float = 0.0) -> None:
        self.cells: dict[str, tuple[Cell, dict[str, Bit]]] = {}
        self.load: dict[Bit, float] = defaultdict(float)
        self.driver: dict[Bit, str] = {}
        self.sinks: dict[Bit, list[str]] = defaultdict(list)
        for name, one in module["cells"].items():
            cell = library.cells.get(one["type"])
            if cell is None:  # a memory: its outputs start paths and its inputs end none
                continue
            pins = {pin: bits[0] for pin, bits in one["connections"].items() if bits}
            self.cells[name] = cell, pins
            for pin, bit in pins.items():
                if pin in cell.functions:
                    self.driver[bit] = name
                else:
                    self.load[bit] += cell.inputs.get(pin, 0.0) + wire_ff
                    self.sinks[bit].append(name)
        self.names = _net_names(module)

    def name(self, bit: Bit) -> str:
        return self.names.get(bit, f"net {bit}")

    def register_name(self, instance: str) -> str:
        """A flip-flop is called like the net it holds, perhaps behind an inverter."""
        cell, pins = self.cells[instance]
        bits = [pins[pin] for pin in cell.functions if pin in pins]
        for bit in bits:
            for sink in self.sinks[bit]:
                other, its = self.cells[sink]
                if len(other.inputs) == 1 and not other.is_sequential:
                    bits = [*bits, *(its[pin] for pin in other.functions if pin in its)]
        known = [self.names[bit] for bit in bits if bit in self.names]
        return known[0] if known else instance


def _net_names(module: Mapping[str, Any]) -> dict[Bit, str]:
    names: dict[Bit, str] = {}
    for name, net in module["netnames"].items():
        if net.get("hide_name"):
            continue
        for i, bit in enumerate(net["bits"]):
            shown = f"{name}[{i}]" if len(net["bits"]) > 1 else name
            if bit not in names or len(shown) < len(names[bit]):
                names[bit] = shown
    return names


def analyse(
    module: Mapping[str, Any],
    library: Library,
    *,
    wire_ff: float = 0.0,
    input_slew_ps: float = 20.0,
    clock_slew_ps: float = 20.0,
) -> Timing:
    """The longest paths of one flat module of yosys' JSON.

    Raises HostError MV0935 if its logic has a loop.
    """
    net = Netlist(module, library, wire_ff)
    arrivals: dict[Bit, tuple[_Arrival, _Arrival]] = {}
    early = (_Arrival(0.0, input_slew_ps), _Arrival(0.0, input_slew_ps))
    clock = (_Arrival(0.0, clock_slew_ps), _Arrival(0.0, clock_slew_ps))
    for name in order(net):
        cell, pins = net.cells[name]
        for output, arcs in cell.arcs.items():
            bit = pins.get(output)
            if bit is None:
                continue
            load = net.load[bit]
            best = (_Arrival(-1.0, input_slew_ps), _Arrival(-1.0, input_slew_ps))
            for arc in arcs:
                source = pins.get(arc.source)
                if source is None:
                    continue
                before = clock if cell.is_sequential else arrivals.get(source, early)
                for edge, (delay, slew) in enumerate(_EDGES):
                    if delay not in arc.tables:
                        continue
                    for from_edge in _from_edges(arc.sense, edge):
                        a = before[from_edge]
                        ps = a.ps + arc.tables[delay](a.slew, load)
                        if ps > best[edge].ps:
                            best[edge].ps = ps
                            best[edge].slew = arc.tables[slew](a.slew, load)
                            best[edge].before = (name, source, from_edge)
            arrivals[bit] = best
    return Timing(_longest(net, arrivals, module, clock_slew_ps))


def _from_edges(sense: str, edge: int) -> tuple[int, ...]:
    if sense == "positive_unate":
        return (edge,)
    return (1 - edge,) if sense == "negative_unate" else (0, 1)


def order(net: Netlist) -> list[str]:
    """Every cell after the cells that drive it; flip-flops first."""
    waits: dict[str, int] = {}
    ready: deque[str] = deque()
    for name, (cell, pins) in net.cells.items():
        bits = () if cell.is_sequential else {pins[pin] for pin in cell.inputs if pin in pins}
        waits[name] = sum(1 for bit in bits if bit in net.driver)
        if not waits[name]:
            ready.append(name)
    found: list[str] = []
    while ready:
        name = ready.popleft()
        found.append(name)
        cell, pins = net.cells[name]
        for bit in {pins[pin] for pin in cell.functions if pin in pins}:
            for sink in set(net.sinks[bit]):
                if not net.cells[sink][0].is_sequential:
                    waits[sink] -= 1
                    if not waits[sink]:
                        ready.append(sink)
    if len(found) < len(net.cells):
        stuck = next(name for name in net.cells if waits[name] > 0)
        raise HostError(
            "MV0935",
            "the mapped netlist has a logic loop",
            where=stuck,
            given=f"{len(net.cells) - len(found)} cells on or behind it",
            allowed="logic whose every loop has a register in it",
            hint="Keep the hierarchy of the block: flattening can make loops that are false.",
        )
    return found


def _longest(
    net: Netlist,
    arrivals: dict[Bit, tuple[_Arrival, _Arrival]],
    module: Mapping[str, Any],
    clock_slew_ps: float,
) -> dict[str, Path]:
    ends: list[
        tuple[float, Bit, int, str, str]
    ] = []  # ps, net, edge, "register"/"output"/"box", name
    for name, (cell, pins) in net.cells.items():
        for pin, tables in cell.setup.items():
            bit = pins.get(pin)
            if bit not in arrivals:
                continue
            for edge, kind in enumerate(_SETUP):
                a = arrivals[bit][edge]
                setup = tables[kind](a.slew, clock_slew_ps) if kind in tables else 0.0
                if a.before:
                    ends.append((a.ps + max(0.0, setup), bit, edge, "register", name))
    for name, port in module["ports"].items():
        if port["direction"] == "output":
            ends += [
                (a.ps, bit, edge, "output", name)
                for bit in port["bits"]
                if bit in arrivals
                for edge, a in enumerate(arrivals[bit])
                if a.before
            ]
    for name, one in module["cells"].items():
        if name in net.cells:
            continue
        for pin, bits in one["connections"].items():
            if one.get("port_directions", {}).get(pin) == "input":
                ends += [
                    (a.ps, bit, edge, "box", f"{name}.{pin}")
                    for bit in bits
                    if bit in arrivals
                    for edge, a in enumerate(arrivals[bit])
                    if a.before
                ]
    paths: dict[str, Path] = {}
    for ps, bit, edge, kind, name in sorted(ends, key=lambda end: -end[0]):
        steps, start, is_register = _walk(net, arrivals, bit, edge)
        key = f"{'register' if is_register else 'input'} to {kind}"
        if key not in paths:
            end = net.register_name(name) if kind == "register" else name
            paths[key] = Path(start, end, ps, steps)
        if len(paths) == 6:
            break
    return paths


def _walk(
    net: Netlist, arrivals: dict[Bit, tuple[_Arrival, _Arrival]], bit: Bit, edge: int
) -> tuple[tuple[tuple[str, str, float], ...], str, bool]:
    steps: list[tuple[str, str, float]] = []
    while bit in arrivals:
        before = arrivals[bit][edge].before
        if before is None:
            break
        instance, source, from_edge = before
        cell, _ = net.cells[instance]
        steps.append((cell.name, net.name(bit), arrivals[bit][edge].ps))
        if cell.is_sequential:
            return tuple(reversed(steps)), net.register_name(instance), True
        bit, edge = source, from_edge
    return tuple(reversed(steps)), net.name(bit), False
