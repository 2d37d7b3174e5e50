"""Runs a component at millions of cycles a second: CXXRTL, built once, fed with NumPy arrays.

    sim = build(Fp32Add())
    sim.run(a=a, b=b)["q"]    # uint32 [cycles]: in row t what q shows in cycle t, before its end

Operands of cycle t are rows t. A component of L stages shows the result of row t in row t + L;
`sim.results(L, ...)` does that shift. Ports of up to 32 bits are uint32 [cycles], wider ones uint32
[cycles, words], low word first; `pack` and `unpack` make those of arrays of small integers.
The library lies in the cache under the hash of all that made it, so a stale one is never found.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mellivora.rtl import objects
from mellivora.rtl.emit import rtlil, yosys
from mellivora.rtl.host import cache_dir, compiler, locked
from mellivora.rtl.memory_model import BYTE_MEMORY

Words = npt.NDArray[np.uint32]

# One clock cycle: operands in, let them settle, look at the results, then the edge.
_DRIVER = """
#include "design.hpp"
#include <cstring>
template<size_t N> uint32_t* words(cxxrtl::value<N>& v) { return v.data; }
template<size_t N> uint32_t* words(cxxrtl::wire<N>& w) { return w.curr.data; }
extern "C" __attribute__((visibility("default")))
void run(long cycles, const uint32_t* in, uint32_t* out) {
    cxxrtl_design::p_TOP top;
    for (long cycle = 0; cycle < cycles; cycle++) {
IN
        settle(top);
OUT
        clock_edge(top);
    }
}
"""


class Simulation:
    """A built component. inputs, outputs: {port: width in bits}, in the order of the signature."""

    def __init__(
        self, library: ctypes.CDLL, inputs: Mapping[str, int], outputs: Mapping[str, int]
    ) -> None:
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self._run = library.run
        self._run.restype = None
        self._run.argtypes = [ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def run(self, **operands: npt.ArrayLike) -> dict[str, Words]:
        """One row a cycle, from power-on. Every input is named; scalars hold for all cycles."""
        assert operands.keys() == self.inputs.keys(), f"inputs are {sorted(self.inputs)}"
        rows = {name: _rows(operands[name], width) for name, width in self.inputs.items()}
        cycles = max(len(row) for row in rows.values())
        table = np.concatenate(
            [np.broadcast_to(row, (cycles, row.shape[1])) for row in rows.values()], axis=1
        )
        table = np.ascontiguousarray(table, np.uint32)
        widths = [_words(width) for width in self.outputs.values()]
        out = np.empty((cycles, sum(widths)), np.uint32)
        self._run(cycles, table.ctypes.data, out.ctypes.data)
        parts = np.split(out, np.cumsum(widths)[:-1], axis=1)
        return {
            name: part[:, 0] if width <= 32 else part
            for (name, width), part in zip(self.outputs.items(), parts)
        }

    def results(
        self, stages: int, *, late: Mapping[str, int] | None = None, **operands: npt.ArrayLike
    ) -> dict[str, Words]:
        """Row t is the result of operands t: runs `stages` cycles more and drops the first ones.

        late: {port: cycles after the other operands at which this one is due}.
        """
        ends = {}
        for name, width in self.inputs.items():
            row, lead = _rows(operands[name], width), (late or {}).get(name, 0)
            if len(row) > 1:
                row = np.pad(row, ((lead, stages - lead), (0, 0)), mode="edge")
            ends[name] = row
        return {name: column[stages:] for name, column in self.run(**ends).items()}


def build(component: Any) -> Simulation:
    """Emit, compile (seconds; the second time nothing), load. Memories inside are models.

    Raises HostError MV0921 (no compiler), MV0922 (compilation failed).
    """
    models: dict[str, str] = {}
    text = rtlil(component, models)
    inputs, outputs = _ports(component)
    driver = _driver(component.module_name, inputs, outputs)
    black_boxes = model_source(models)
    facts = (text, driver, black_boxes, compiler()[1], *objects.FLAGS)
    digest = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:24]
    target = cache_dir() / "rtl" / f"{component.module_name}-{digest}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            if not target.exists():
                make_library(text, driver, target, models=black_boxes)
    return Simulation(ctypes.CDLL(str(target)), inputs, outputs)


def make_library(text: str, driver: str, target: Path, *, models: str = "") -> None:
    """Compile RTLIL, whose top the target is named after, and what drives it (`rtl.objects`)."""
    top = target.name.rsplit("-", 1)[0]
    design = yosys(
        f"read_rtlil <<rtlil\n{text}\nrtlil\nhierarchy -check -top {top}\n"
        "write_cxxrtl -g0 -noflatten"
    )
    objects.library(design, driver, target, where=top, models=models)


def model_source(models: Mapping[str, str]) -> str:
    """C++ to follow the design's: what stands in its black boxes, as `rtlil` gave it."""
    if not models:
        return ""
    return f"{BYTE_MEMORY}namespace cxxrtl_design {{\n{''.join(models.values())}}}\n"


def pack(values: npt.ArrayLike, bits: int) -> Words:
    """Integers [rows, count] -> uint32 [rows, words]: element 0 lowest, `bits` (to 32) of each."""
    whole = np.asarray(values)
    rows, count = whole.shape
    words = np.zeros((rows, _words(count * bits) + 1), np.uint32)  # one more: nothing to ask for
    for i in range(count):
        word, shift = divmod(i * bits, 32)
        one = (whole[:, i].astype(np.int64).view(np.uint64) & (2**bits - 1)) << shift
        words[:, word] |= one.astype(np.uint32)
        words[:, word + 1] |= (one >> 32).astype(np.uint32)
    return words[:, :-1]


def unpack(words: Words, bits: int, count: int) -> npt.NDArray[np.int64]:
    """The way back, as unsigned integers [rows, count]."""
    wide = np.pad(words, ((0, 0), (0, 1))).astype(np.uint64)
    values = np.empty((len(words), count), np.int64)
    for i in range(count):
        word, shift = divmod(i * bits, 32)
        both = wide[:, word] | wide[:, word + 1] << 32
        values[:, i] = (both >> shift & (2**bits - 1)).view(np.int64)
    return values


def _words(width: int) -> int:
    return -(-width // 32)


def _rows(operand: npt.ArrayLike, width: int) -> Words:
    """An operand as uint32 [cycles or 1, words], bits above the port's width cleared."""
    array = np.asarray(operand)
    if array.dtype.kind == "i" or array.dtype == np.uint8:
        array = array.astype(np.int64).astype(np.uint32)
    array = array.view(np.uint32) if array.dtype == np.float32 else array.astype(np.uint32)
    array = array.reshape(-1, _words(width))
    return array & np.uint32((1 << width) - 1) if width < 32 else array


def _ports(component: Any) -> tuple[dict[str, int], dict[str, int]]:
    from amaranth.hdl import Value
    from amaranth.lib.wiring import In

    sides: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for path, member, value in component.signature.flatten(component):
        side = sides[0] if member.flow == In else sides[1]
        side["__".join(map(str, path))] = len(Value.cast(value))
    return sides


def _driver(top: str, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> str:
    """The text of the driver; names are mangled as write_cxxrtl does."""
    reads = [
        f"        memcpy(words(top.{_mangle(name)}), in, {4 * _words(width)});"
        f" in += {_words(width)};"
        for name, width in inputs.items()
    ]
    writes = [
        f"        memcpy(out, words(top.{_mangle(name)}), {4 * _words(width)});"
        f" out += {_words(width)};"
        for name, width in outputs.items()
    ]
    text = _DRIVER.replace("p_TOP", _mangle(top))
    return text.replace("IN\n", "\n".join(reads) + "\n").replace("OUT\n", "\n".join(writes) + "\n")


def _mangle(name: str) -> str:
    return "p_" + name.replace("_", "__")
