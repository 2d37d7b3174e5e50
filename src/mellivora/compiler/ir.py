"""The compiler's low-level IR: engine operations with the memory they touch, scalars, loops.

Kernels write it in plain program order and never mention a semaphore; `sync` places those, `emit`
turns the result into instruction words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from mellivora.isa.table import BY_NAME


class Reg(NamedTuple):
    """A scalar register."""

    number: int


Operand: TypeAlias = int | Reg

ZERO, CORE_ID, CORES = Reg(0), Reg(1), Reg(2)


class Region(NamedTuple):
    """Bytes [start, end) of one memory; conflicts are looked for within a root only."""

    root: str
    start: int
    end: int


@dataclass(slots=True, eq=False)
class EngineOp:
    """One engine instruction. config None keeps the engine's configuration."""

    name: str
    slots: list[Operand]
    config: tuple[Operand, ...] | None = None
    reads: tuple[Region, ...] = ()
    writes: tuple[Region, ...] = ()
    label: int = 0
    prefetch: bool = False
    waits: list[int] = field(default_factory=list)
    posts: list[int] = field(default_factory=list)

    @property
    def engine(self) -> int:
        return BY_NAME[self.name].engine


@dataclass(slots=True, eq=False)
class ScalarOp:
    """rd = a op b, on CONTROL."""

    name: str
    rd: Reg
    a: Operand
    b: Operand = 0


@dataclass(slots=True, eq=False)
class Loop:
    """Body run `count` times (zero or less: not at all)."""

    count: Operand
    body: list[Item] = field(default_factory=list)


Item: TypeAlias = EngineOp | ScalarOp | Loop


def text(items: list[Item], labels: list[str], indent: str = "") -> str:
    """Readable dump of the low-level IR, with regions and semaphores."""
    lines: list[str] = []
    shown = -1
    for item in items:
        if isinstance(item, Loop):
            lines.append(f"{indent}loop {_operand(item.count)} {{")
            lines.append(text(item.body, labels, indent + "  "))
            lines.append(f"{indent}}}")
        elif isinstance(item, ScalarOp):
            lines.append(
                f"{indent}{_operand(item.rd)} = {item.name} {_operand(item.a)} {_operand(item.b)}"
            )
        else:
            if item.label != shown:
                shown = item.label
                lines.append(f"{indent}# {labels[shown]}")
            lines.append(indent + _engine_text(item))
    return "\n".join(lines)


def _operand(value: Operand) -> str:
    return f"r{value.number}" if isinstance(value, Reg) else str(value)


def _engine_text(op: EngineOp) -> str:
    names = BY_NAME[op.name].slots
    slots = " ".join(f"{n}={_operand(v)}" for n, v in zip(names, op.slots, strict=True))
    config = "" if op.config is None else " cfg(" + " ".join(map(_operand, op.config)) + ")"
    tokens = "".join(f" ?{s}" for s in op.waits) + "".join(f" !{s}" for s in op.posts)
    reads = ",".join(f"{r.root}[{r.start}:{r.end}]" for r in op.reads)
    writes = ",".join(f"{r.root}[{r.start}:{r.end}]" for r in op.writes)
    return f"{op.name} {slots}{config}{tokens}   ; {reads} -> {writes}"
