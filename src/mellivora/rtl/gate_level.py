"""Runs a mapped netlist cell by cell: the proof that synthesis kept the bits, and how often nets
switch.

    GateLevel(module, library).run({"a": words, "b": words}, cycles=5)["q"]

64 rows of operands travel in each bit of an integer array; registers start at 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import CodeType
from typing import Any

import numpy as np
import numpy.typing as npt

from mellivora.rtl.liberty import Library, expression
from mellivora.rtl.static_timing import Netlist, order

Lanes = npt.NDArray[np.uint64]
_ZERO, _ONE = np.uint64(0), np.uint64(2**64 - 1)


class GateLevel:
    """A flat module of yosys' JSON, ready to run."""

    def __init__(self, module: Mapping[str, Any], library: Library) -> None:
        self.ports = module["ports"]
        self.netlist = Netlist(module, library)
        self.steps: list[tuple[CodeType, dict[str, Any], int]] = []
        self.registers: list[tuple[CodeType, dict[str, Any], list[tuple[bool, Any]]]] = []
        for name in order(self.netlist):
            cell, pins = self.netlist.cells[name]
            inputs = {pin: pins[pin] for pin in cell.inputs if pin in pins}
            outputs = {pin: pins[pin] for pin in cell.functions if pin in pins}
            if cell.is_sequential:
                value, _, following = cell.state
                holds = [(cell.functions[pin] == value, bit) for pin, bit in outputs.items()]
                self.registers.append((_code(following), inputs, holds))
            else:
                for pin, bit in outputs.items():
                    self.steps.append((_code(cell.functions[pin]), inputs, bit))

    def run(
        self,
        operands: Mapping[str, npt.NDArray[np.bool_]],
        *,
        cycles: int,
        toggles: dict[Any, int] | None = None,
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """What every output port shows after `cycles` edges, bool [rows, width].

        operands: bool [rows, width], held; or [cycles + 1, rows, width], one a cycle.
        toggles: if given, counts by net how often it changed between settled cycles.
        """
        rows = next(iter(operands.values())).shape[-2]
        words = -(-rows // 64)
        nets: dict[Any, Lanes] = {
            "0": np.full(words, _ZERO),
            "1": np.full(words, _ONE),
            "x": np.full(words, _ZERO),
        }
        packed = {name: _pack(value) for name, value in operands.items()}
        states = [np.full(words, _ZERO) for _ in self.registers]
        for cycle in range(cycles + 1):
            before = dict(nets)
            for name, lanes in packed.items():
                now = lanes if lanes.ndim == 2 else lanes[min(cycle, len(lanes) - 1)]
                nets.update(zip(self.ports[name]["bits"], now))
            for state, (_, _, holds) in zip(states, self.registers):
                nets.update((bit, state if straight else ~state) for straight, bit in holds)
            for code, inputs, bit in self.steps:
                nets[bit] = eval(code, {}, {pin: nets[net] for pin, net in inputs.items()})
            states = [
                eval(code, {}, {pin: nets[net] for pin, net in inputs.items()})
                for code, inputs, _ in self.registers
            ]
            if toggles is not None and cycle:
                for bit, lanes in nets.items():
                    if bit in before:
                        changed = int(np.bitwise_count(lanes ^ before[bit]).sum())
                        toggles[bit] = toggles.get(bit, 0) + changed
        return {
            name: _unpack(np.array([nets[bit] for bit in port["bits"]]), rows)
            for name, port in self.ports.items()
            if port["direction"] == "output"
        }


def _code(function: str) -> CodeType:
    return compile(expression(function), function, "eval")


def _pack(value: npt.NDArray[np.bool_]) -> Lanes:
    """[..., rows, width] to [..., width, words]."""
    bits = np.swapaxes(value, -1, -2)
    short = -bits.shape[-1] % 64
    bits = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, short)])
    packed = np.packbits(bits, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view(np.uint64)


def _unpack(lanes: Lanes, rows: int) -> npt.NDArray[np.bool_]:
    """[width, words] to [rows, width]."""
    bits = np.unpackbits(lanes.view(np.uint8), axis=-1, bitorder="little")
    return bits[:, :rows].T.astype(bool)
