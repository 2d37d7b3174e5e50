"""A numeric primitive with both faces: what it computes, and the hardware that does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Primitive:
    """One numeric building block of the chip.

    name: of the Verilog module.
    compute: the function on NumPy arrays. Where `mellivora.numerics` has one it is that very
      object, the one the simulators use.
    create: makes the Amaranth component. Its ports are all of its inputs and outputs; registers
      hold data only and need no reset.
    stages: cycles from operands to result; a new set of operands is taken every cycle.
    """

    name: str
    compute: Callable[..., Any]
    create: Callable[[], Any]
    stages: int
