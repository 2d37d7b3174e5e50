"""Addresses along the rows of a tile."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, Value, ValueLike

from mellivora.rtl.pipeline import wire


def walker(
    m: Module,
    name: str,
    *,
    load: Value,
    start: ValueLike,
    advance: Value,
    row_last: Value,
    step: ValueLike,
    stride: Value,
    again: ValueLike = 0,
) -> Signal:
    """The address of the beat: by steps along a row, then to the next row (`again`: the same)."""
    row = Signal(32, name=f"{name}_row", reset_less=True)
    address = Signal(32, name=f"{name}_address", reset_less=True)
    next_row = wire(m, (row + Mux(again, 0, stride))[:32], f"{name}_next_row")
    with m.If(load):
        m.d.sync += [row.eq(start), address.eq(start)]
    with m.Elif(advance):
        m.d.sync += address.eq(Mux(row_last, next_row, address + step))
        with m.If(row_last):
            m.d.sync += row.eq(next_row)
    return address
