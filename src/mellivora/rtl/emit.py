"""A component as text: RTLIL for our own simulation, one Verilog file for anyone's tools.

verilog(FP32_ADD.create()) -> str        python -m mellivora.rtl.emit FOLDER  writes all of them
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from amaranth._toolchain.yosys import find_yosys
from amaranth.back import rtlil as backend
from amaranth.hdl import ClockDomain, Fragment, Value
from amaranth.hdl._ir import PortDirection
from amaranth.lib.wiring import In

from mellivora.rtl.sharing import collect

_TOP = re.compile(r"^ *attribute \\top 1\n", re.MULTILINE)


def rtlil(component: Any, models: dict[str, str] | None = None) -> str:
    """RTLIL of the component and of all it shares; the top is named `component.module_name`.

    models: of a simulation. Shared parts with a `model` are black boxes then, and their C++ is put
      there under their names.
    """
    done: dict[str, str] = {}
    todo = {component.module_name: component}
    while todo:
        name, part = todo.popitem()
        model = getattr(part, "model", None)
        if models is not None and model is not None and part is not component:
            models[name], done[name] = model(), _black_box(part, name)
            continue
        with collect() as wanted:
            done[name] = _convert(part, name)
        todo |= {other: wanted[other] for other in wanted if other not in done}
    top = done.pop(component.module_name)
    return "".join(_TOP.sub("", done[name]) for name in sorted(done)) + top


def module_text(component: Any) -> str:
    """RTLIL of one module without what it shares; inside `collect`."""
    return _TOP.sub("", _convert(component, component.module_name))


def _convert(component: Any, name: str) -> str:
    """One module: the ports of its signature, `clk`, and `rst` where the component has_reset."""
    has_reset = getattr(component, "has_reset", False)
    clock = ClockDomain("sync", reset_less=not has_reset)
    ports: dict[str, Any] = {"clk": (clock.clk, PortDirection.Input)}
    if has_reset:
        ports["rst"] = (clock.rst, PortDirection.Input)
    for path, member, value in component.signature.flatten(component):
        way = PortDirection.Input if member.flow == In else PortDirection.Output
        ports["__".join(map(str, path))] = (Value.cast(value), way)
    fragment = Fragment.get(component, None)
    fragment.add_domains(clock)
    text, _ = backend.convert_fragment(fragment, ports, name, emit_src=False)
    return text


def _black_box(component: Any, name: str) -> str:
    """A module of ports: outputs change at the edge only."""
    lines = ["attribute \\cxxrtl_blackbox 1", f"module \\{name}", 'attribute \\cxxrtl_edge "p"']
    lines.append("  wire width 1 input 0 \\clk")
    for i, (path, member, value) in enumerate(component.signature.flatten(component), 1):
        way = "input" if member.flow == In else "output"
        if way == "output":
            lines.append("attribute \\cxxrtl_sync 1")
        lines.append(
            f"  wire width {len(Value.cast(value))} {way} {i} \\{'__'.join(map(str, path))}"
        )
    return "\n".join([*lines, "end", ""])


def verilog(component: Any) -> str:
    """Verilog-2005 of the component and of all it shares, in one file."""
    return verilog_of(rtlil(component), component.module_name)


def verilog_of(text: str, top: str) -> str:
    """Verilog-2005 of RTLIL that `rtlil` gave."""
    script = [
        f"read_rtlil <<rtlil\n{text}\nrtlil",
        f"hierarchy -check -top {top}",
        "proc -nomux -norom",
        "memory_collect",
        "attrmap -remove generator -remove src -remove top",
        "write_verilog -norename",
    ]
    return yosys("\n".join(script))


def yosys(script: str, *options: str) -> str:
    """What Amaranth's yosys prints for a script."""
    # Its warning that not every process can become Verilog is no news: Amaranth emits none such.
    tool = find_yosys(lambda version: version >= (0, 40))
    return tool.run(["-q", *options, "-"], script, ignore_warnings=True)


def main() -> int:
    """Write every primitive to FOLDER/<name>.v."""
    from mellivora.rtl import PRIMITIVES, primitive

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in PRIMITIVES:
        (folder / f"{name}.v").write_text(verilog(primitive(name).create()), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
