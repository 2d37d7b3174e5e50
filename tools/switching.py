"""Least energy of arithmetic blocks: what the pins of their cells switch, at random operands.

    python tools/switching.py --liberty FILE

Half of capacitance times volts squared for each change of a net, counted on the mapped netlist,
and the clock pins of all flip-flops every cycle. No wires, nothing inside cells, no leakage: the
energy that the library's file supports, and so a lower bound of the block's own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src")]

from mellivora.rtl import primitive, synth  # noqa: E402
from mellivora.rtl.dot32 import pair_sums  # noqa: E402
from mellivora.rtl.gate_level import GateLevel  # noqa: E402
from mellivora.rtl.liberty import Library, read_library  # noqa: E402

CYCLES, ROWS = 24, 64
Operands = dict[str, npt.NDArray[np.bool_]]


def dot32_operands(rng: np.random.Generator) -> Operands:
    """Codes of INT8, uniform."""
    a, b = rng.integers(-127, 128, (2, CYCLES + 1, ROWS, 32))
    offset = np.zeros((CYCLES + 1, ROWS), np.int64)
    return {
        "a": _bits(a, 9),
        "b": _bits(b, 8),
        "pairs": _bits(pair_sums(a), 10),
        "offset": _bits(offset, 23),
    }


def fp32_operands(rng: np.random.Generator) -> Operands:
    """Normally distributed, as activations are."""
    a, b = rng.standard_normal((2, CYCLES + 1, ROWS)).astype(np.float32).view(np.uint32)
    return {"a": _bits(a, 32), "b": _bits(b, 32)}


def _bits(values: npt.NDArray[np.generic], width: int) -> npt.NDArray[np.bool_]:
    """[cycles, rows] or [cycles, rows, n] to [cycles, rows, n * width]."""
    wide = values.astype(np.int64).reshape(*values.shape[:2], -1)
    bits = wide[..., None] >> np.arange(width) & 1
    return bits.astype(bool).reshape(*values.shape[:2], -1)


BLOCKS: dict[str, tuple[Callable[[np.random.Generator], Operands], int]] = {
    "dot32": (dot32_operands, 32),
    "fp32_add": (fp32_operands, 1),
    "fp32_mul": (fp32_operands, 1),
}
"""Name -> (operands, operations a cycle)."""


def switched_fj(result: synth.SynthesisResult, library: Library, operands: Operands) -> float:
    """fJ of a cycle."""
    level = GateLevel(result.netlist, library)
    toggles: dict[int | str, int] = {}
    clock = np.zeros((ROWS, 1), bool)
    level.run({"clk": clock, **operands}, cycles=CYCLES, toggles=toggles)
    net = level.netlist
    ff = sum(count * net.load[bit] for bit, count in toggles.items()) / (2 * CYCLES * ROWS)
    ff += sum(cell.inputs.get(cell.clock, 0.0) for cell, _ in net.cells.values() if cell.clock)
    return ff * library.volts**2


def main() -> int:
    """Print fJ of an operation for each block."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--liberty", type=Path, required=True)
    args = parser.parse_args()
    library = read_library(args.liberty)
    for name, (operands, operations) in BLOCKS.items():
        result = synth.synthesise(primitive(name).create(), liberty=args.liberty, recipes=("area",))
        fj = switched_fj(result, library, operands(np.random.default_rng(0)))
        print(f"{name}: {fj:.1f} fJ a cycle, {fj / operations:.2f} fJ an operation, "
              f"{result.area_um2:.0f} um2, {library.volts} V", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
