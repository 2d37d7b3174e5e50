"""Many places, one module: a component that is placed often is emitted once.

Amaranth writes out a submodule anew in every place. `share` puts an instance instead, and notes the
component; `emit` then writes the noted ones once each. A design of hundreds of adders stays as
small as its source.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from amaranth.hdl import ClockSignal, Instance, ResetSignal, Value
from amaranth.lib.wiring import In

if TYPE_CHECKING:
    from collections.abc import Iterator

_INPUT_BITS = 1 << 16
"""Of a module with clock and reset, in Amaranth's netlist."""
_wanted: ContextVar[dict[str, Any] | None] = ContextVar("wanted", default=None)


def share(component: Any) -> Instance:
    """An instance of the component's module, wired to the ports of this component object.

    component: has `module_name`, the same for all that are built alike, and at least one register.
      With an attribute `has_reset` that is true it gets the reset of its place. Only inside
      `collect`.
    """
    wanted = _wanted.get()
    assert wanted is not None, "shared components are emitted by mellivora.rtl.emit only"
    wanted.setdefault(component.module_name, component)
    component._MustUse__used = True  # Amaranth warns of components that were made and not placed
    ports = {
        ("i_" if member.flow == In else "o_") + "__".join(map(str, path)): Value.cast(value)
        for path, member, value in component.signature.flatten(component)
    }
    if getattr(component, "has_reset", False):
        ports["i_rst"] = ResetSignal()
    return Instance(component.module_name, i_clk=ClockSignal(), **ports)


def share_if_numbered(component: Any) -> Any:
    """`share`, unless the component has more input bits than Amaranth can number: then itself,
    which becomes part of the module that it is placed in."""
    inputs = (
        len(Value.cast(value))
        for _, member, value in component.signature.flatten(component)
        if member.flow == In
    )
    return share(component) if sum(inputs) + 2 < _INPUT_BITS else component


@contextmanager
def collect() -> Iterator[dict[str, Any]]:
    """Within it, {module name: component} of all that was shared."""
    wanted: dict[str, Any] = {}
    token = _wanted.set(wanted)
    try:
        yield wanted
    finally:
        _wanted.reset(token)
