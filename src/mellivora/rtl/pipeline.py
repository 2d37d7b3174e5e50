"""Registers of a pipeline: no reset, for what they hold is only looked at when it is valid."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from amaranth.hdl import Module, Signal, Value, ValueLike

Bundle = TypeVar("Bundle")


def wire(m: Module, value: ValueLike, name: str) -> Signal:
    """The value under a name of its own, so that it is computed once and can be found in a wave."""
    value = Value.cast(value)
    signal = Signal(value.shape(), name=name)
    m.d.comb += signal.eq(value)
    return signal


def register(m: Module, value: ValueLike, name: str, *, stages: int = 1) -> Value:
    """The value, `stages` cycles later; of no bits, itself: Verilog has no signal of none."""
    value = Value.cast(value)
    if not len(value):
        return value
    for _ in range(stages):
        signal = Signal(value.shape(), name=name, reset_less=True)
        m.d.sync += signal.eq(value)
        value = signal
    return value


def registers(m: Module, bundle: Bundle, name: str, *, stages: int = 1) -> Bundle:
    """Every field of a dataclass of values, `stages` cycles later."""
    later: dict[str, Any] = {
        field.name: register(m, getattr(bundle, field.name), f"{name}_{field.name}", stages=stages)
        for field in dataclasses.fields(bundle)  # type: ignore[arg-type]
    }
    return type(bundle)(**later)
