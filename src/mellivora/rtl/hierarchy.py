"""The modules of a component and how often each is placed: what is synthesised once each.

    part = hierarchy(Core(chip))
    part.totals()["fp32_add"] -> (the component, places in a core)

The crossbars of a `BankedMemory` are taken apart by port: its ports have no logic in common, and
all of them at once are more than a synthesis tool takes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mellivora.rtl.banked_memory import Bank, BankedMemory
from mellivora.rtl.emit import module_text
from mellivora.rtl.sharing import collect


@dataclass
class Part:
    """A module: its own RTLIL, and that of all it places.

    boxes: the modules to leave out when it is mapped.
    inside: those of them that are mapped by themselves, and how often each is placed.
    """

    name: str
    component: Any
    text: str
    around: str = ""
    boxes: list[str] = field(default_factory=list)
    inside: list[tuple[Part, int]] = field(default_factory=list)

    def totals(self) -> dict[str, tuple[Part, int]]:
        """{name: (module, places)} of this one and of all below it."""
        found: dict[str, tuple[Part, int]] = {}

        def visit(part: Part, count: int) -> None:
            found[part.name] = part, found.get(part.name, (part, 0))[1] + count
            for other, number in part.inside:
                visit(other, count * number)

        visit(self, 1)
        return found


def hierarchy(component: Any, known: dict[str, Part] | None = None) -> Part:
    """The modules of a component, but for banks, which are bits and no logic."""
    known = {} if known is None else known
    name = component.module_name
    if name in known:
        return known[name]
    if isinstance(component, BankedMemory) and len(component.reads) + len(component.writes) > 1:
        part = Part(name, component, "")
        part.inside = [(hierarchy(port, known), 1) for port in ports(component)]
    else:
        part = _plain(component, known)
    known[name] = part
    return part


def _plain(component: Any, known: dict[str, Part]) -> Part:
    with collect() as wanted:
        text = module_text(component)
    part = Part(component.module_name, component, text)
    if isinstance(component, BankedMemory):  # a port: all of it but the banks
        part.boxes = [name for name, child in wanted.items() if isinstance(child, Bank)]
        part.around = _texts(wanted[name] for name in sorted(wanted))
        return part
    part.boxes = sorted(wanted)
    places = Counter(re.findall(r"(?m)^\s*cell \\(\S+) ", text))
    for name, child in wanted.items():
        part.inside.append((hierarchy(child, known), places[name]))
    part.around = "".join(o.text or _texts([o.component]) for o, _ in part.inside)
    return part


def _texts(components: Iterable[Any]) -> str:
    with collect():
        return "".join(module_text(component) for component in components)


def ports(memory: BankedMemory) -> list[BankedMemory]:
    """A memory of one port for each port of a memory."""
    made = []
    for kind in ("reads", "writes"):
        for width in getattr(memory, kind).values():
            one = {"reads": {}, "writes": {}} | {kind: {"port": width}}
            port = BankedMemory(
                memory.size_bytes, memory.bank_bytes, banks=memory.banks, ecc=memory.ecc, **one
            )
            port._MustUse__used = True  # its text alone is wanted, perhaps not even that
            port.module_name = f"{kind[:-1]}_port_{memory.depth}x{memory.banks}_{width}"
            port.module_name += "_ecc" * memory.ecc
            made.append(port)
    return made
