"""Buffers behind flip-flops that drive much: what the mapper leaves to layout.

The mapper ABC sees a flip-flop as an input of its logic, driven as strongly as need be. `buffered`
puts a tree of buffers behind each one whose load is more than it should drive; area and delay then
count them.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from mellivora.rtl.liberty import Cell, Library

FLOP_LOADS, BUFFER_LOADS = 12, 24
"""Inputs of the smallest inverter that a flip-flop, and a buffer, should drive at most."""
_SLEW_PS = 20.0

Sink = tuple[list[Any], int, float]
"""The bits of an input pin, the place of the net in it, the load in fF."""


def buffered(module: dict[str, Any], library: Library) -> int:
    """Add the buffers to one mapped module of yosys' JSON, in place; returns how many.

    A library without a buffer leaves all as it is.
    """
    unit = next(iter(library.inverter().inputs.values()))
    buffer = _buffer(library, BUFFER_LOADS * unit)
    if buffer is None:
        return 0
    (source,), (target,) = buffer.inputs, buffer.functions
    sinks: dict[Any, list[Sink]] = defaultdict(list)
    drivers: list[Any] = []
    for one in module["cells"].values():
        cell = library.cells.get(one["type"])
        for pin, bits in one["connections"].items():
            if cell and pin in cell.functions:
                drivers += bits if cell.is_sequential else []
            elif cell:
                for i, bit in enumerate(bits):
                    sinks[bit].append((bits, i, cell.inputs.get(pin, 0.0)))
    nets = [*sinks, *(bit for net in module["netnames"].values() for bit in net["bits"])]
    fresh = itertools.count(1 + max((bit for bit in nets if isinstance(bit, int)), default=1))
    added = 0
    for driver in drivers:
        level = sinks[driver]
        while sum(load for *_, load in level) > FLOP_LOADS * unit:
            above: list[Sink] = []
            for group in _groups(level, BUFFER_LOADS * unit):
                net, entry = next(fresh), [driver]
                for bits, place, _ in group:
                    bits[place] = net
                module["cells"][f"$fan_out${added}"] = {
                    "type": buffer.name,
                    "connections": {source: entry, target: [net]},
                    "port_directions": {source: "input", target: "output"},
                }
                above.append((entry, 0, buffer.inputs[source]))
                added += 1
            if len(above) >= len(level):
                break
            level = above
    return added


def _groups(level: list[Sink], most_ff: float) -> Iterator[list[Sink]]:
    """The sinks in order, each group within `most_ff` or a single one."""
    group: list[Sink] = []
    for sink in level:
        if group and sum(load for *_, load in (*group, sink)) > most_ff:
            yield group
            group = []
        group.append(sink)
    if group:
        yield group


def _buffer(library: Library, load_ff: float) -> Cell | None:
    """The smallest buffer that takes at most a quarter longer than the fastest at that load."""

    def delay_ps(cell: Cell) -> float:
        ((arc, *_),) = cell.arcs.values()
        return max(arc.tables[edge](_SLEW_PS, load_ff) for edge in ("cell_rise", "cell_fall"))

    found = [
        cell
        for cell in library.cells.values()
        if not cell.is_sequential
        and len(cell.inputs) == len(cell.functions) == 1
        and cell.truth(next(iter(cell.functions))) == (0, 1)
        and all(cell.arcs.values())
    ]
    if not found:
        return None
    fastest = min(map(delay_ps, found))
    good = [cell for cell in found if delay_ps(cell) <= 1.25 * fastest]
    return min(good, key=lambda cell: cell.area_um2)
