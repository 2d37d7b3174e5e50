"""The reference manual of the instruction set, made from the table: `pages()` gives docs/isa.

What is shown as the meaning and the cost is the source of the functions that run, with the parts
they call.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from types import CodeType

from mellivora.isa import latency, meaning, modes
from mellivora.isa.encoding import (
    CONTROL,
    DRAM_UNIT_BYTES,
    ENGINES,
    LOOP_LEVELS,
    PARAMETERS,
    REGISTERS,
    SEMAPHORE_MAX,
    SEMAPHORES,
    SLOT_BITS,
    SLOTS,
    WINDOWS,
    WORD_BYTES,
)
from mellivora.isa.state import FAULTS, Core
from mellivora.isa.table import BY_NAME, COLLECTIVES, TABLE, Instruction
from mellivora.numerics import from_e8m0

FOLDER = "docs/isa"
_NOTE = "Generated from `src/mellivora/isa` by `isa/manual.py`; do not edit."

_LINKS = (("opcode", 8), ("wait0", 6), ("wait1", 6), ("post0", 6), ("post1", 6))

# Shown nowhere: what every function uses and the index explains.
_COMMON = frozenset(("tile", "slot", "config", "ceil_div", "canonical"))
# Of other packages, and shown: what a number of MATRIX means cannot be told without them.
_BORROWED = (modes.passes, from_e8m0)
_ENUMS = {
    "matmul": (modes.BFormat,),
    "vew": (modes.Op, modes.Func, modes.Kind),
    "vred": (modes.Reduce,),
    "vquant": (modes.Store, modes.Kind),
    "vdeq": (modes.Deq,),
}
_MODE_BITS = {
    "matmul": "`mode`: B format (bits 0-3), slices of A (4-5) and of B (6-7), accumulate (8), "
    "INT32 (9).",
    "vew": "`fn`: op1 (bits 0-2), op2 (3-5), func (6-9). `kinds`: of b (bits 0-1), of c (2-3), "
    "mask on a (4).",
    "vquant": "`mode`: target (bits 0-2), one block a row (3), multiply by b (4), kind of b (5-6).",
}
_FAULTS = {
    "load": (2, 3),
    "loadm": (2, 3),
    "loadx": (2, 3, 4, 5),
    "store": (2, 3),
    "exch": (3, 5),
    "matmul": (3, 4, 5),
    "vew": (3, 4, 5),
    "vred": (3, 4, 5),
    "vquant": (3, 4, 5),
    "vdeq": (3, 4, 5),
    "ldp": (9,),
    "loop": (8,),
}


def pages() -> dict[str, str]:
    """{path in the repository: text} of the index and of a page for each instruction."""
    made = {f"{FOLDER}/{row.name}.md": _page(row) for row in TABLE}
    return {f"{FOLDER}/index.md": _index(), **made}


def _picture(row: Instruction | None = None) -> str:
    """The word as text, a line for each field; what an instruction leaves out is 0."""
    names = [name for name, _ in _LINKS]
    if row is not None:
        opcode = f"{row.opcode:#04x}"
        links = [opcode, *(["0"] * 4 if row.engine == CONTROL else names[1:])]
    else:
        links = names
    used = row.slots if row is not None else tuple(f"slot{i}" for i in range(SLOTS))
    if row is not None and row.name == "li":
        used = ("rd", "imm[11:0]", "imm[23:12]", "imm[31:24]")
    slots = [used[i] if i < len(used) else "0" for i in range(SLOTS)]
    fields = [*zip(links, (width for _, width in _LINKS)), *((name, SLOT_BITS) for name in slots)]
    bit, lines = 0, ["bits       field", "---------  -----"]
    for name, width in fields:
        lines.append(f"{bit + width - 1:>3} : {bit:<3}  {name}")
        bit += width
        if bit > 8 * WORD_BYTES - SLOT_BITS and name == "0":
            break
    merged = _merge_zeros(lines)
    return "```text\n" + "\n".join(merged) + "\n```"


def _merge_zeros(lines: list[str]) -> list[str]:
    """Neighbouring fields that are 0 become one."""
    merged: list[str] = []
    for line in lines:
        if merged and line.endswith("  0") and merged[-1].endswith("  0"):
            high, low = line.split(":")[0].strip(), merged[-1].split(":")[1].split()[0]
            merged[-1] = f"{high:>3} : {low:<3}  0"
        else:
            merged.append(line)
    return merged


def _source(function: Callable[..., object]) -> str:
    return "```python\n" + inspect.cleandoc("\n" + inspect.getsource(function)).strip() + "\n```"


def _sources(function: Callable[..., object]) -> list[str]:
    """A function, then the functions of this package that it calls, each once."""
    found: list[Callable[..., object]] = [function]
    for one in found:
        code = inspect.unwrap(one).__code__
        names = {
            *code.co_names,
            *(n for c in code.co_consts if isinstance(c, CodeType) for n in c.co_names),
        }
        for name in sorted(names - _COMMON):
            part = one.__globals__.get(name, vars(Core).get(name))
            ours = getattr(part, "__module__", "").startswith("mellivora.isa")
            if inspect.isfunction(part) and part not in found and (ours or part in _BORROWED):
                found.append(part)
    return [_source(one) for one in found]


def _page(row: Instruction) -> str:
    where = ENGINES[row.engine]
    parts = [f"# {row.name}", _NOTE, f"Opcode `{row.opcode:#04x}`, engine {where}. {row.doc}"]
    parts += ["## Encoding", _picture(row)]
    if row.slots:
        parts += [f"`{row.name} {' '.join(row.slots)}`", _slots(row)]
    if row.config:
        parts += ["## Configuration", _config(row)]
    if row.configures >= 0:
        users = ", ".join(
            f"[{r.name}]({r.name}.md)" for r in TABLE if r.engine == row.configures and r.config
        )
        parts.append(f"The values hold for every later {users} until the next `{row.name}`.")
    if row.engine != CONTROL:
        parts += ["## Meaning", *_meaning(row)]
    if row.name in _ENUMS or row.name in _MODE_BITS:
        parts += ["## Modes and formats", *_modes(row)]
    parts += ["## Time", *_time(row)]
    parts += ["## Faults", *_faults(row)]
    return "\n\n".join(parts) + "\n"


def _slots(row: Instruction) -> str:
    lines = ["| slot | name | kind |", "| --- | --- | --- |"]
    for index, name in enumerate(row.slots):
        kind = "register or immediate 0..2047"
        if name == "rd":
            kind = "destination register; r0 keeps zero"
        elif name == "imm32":
            kind = "signed 32-bit immediate in slots 1 to 3"
        lines.append(f"| {index} | `{name}` | {kind} |")
    return "\n".join(lines)


def _config(row: Instruction) -> str:
    by = next(r.name for r in TABLE if r.configures == row.engine)
    lines = [f"Set by [{by}]({by}.md) before; read at dispatch.", ""]
    lines += [f"| slot of `{by}` | name |", "| --- | --- |"]
    lines += [f"| {i} | `{name}` |" for i, name in enumerate(row.config) if name]
    return "\n".join(lines)


def _meaning(row: Instruction) -> list[str]:
    if row.name.endswith("sync"):
        return ["Waits, then posts. Nothing else."]
    if row.name == "exch":
        return [_source(meaning.exchange), "`o` holds the slots of each core."]
    if row.meaning is None:
        return ["Nothing but its order among the cores."]
    notes = ["`o` are the slots and `c` the configuration, as integers; `core` is a `Core`."]
    if row.name == "loadm":
        notes.append("Every core runs it on its own scratchpad.")
    first, *parts = _sources(row.meaning)
    return [first, *notes, *parts]


def _modes(row: Instruction) -> list[str]:
    found = [_MODE_BITS[row.name]] if row.name in _MODE_BITS else []
    for enum in _ENUMS.get(row.name, ()):
        lines = [
            f"`{enum.__name__}`: {inspect.getdoc(enum)}",
            "",
            "| value | name |",
            "| --- | --- |",
        ]
        lines += [f"| {int(item)} | {item.name} |" for item in enum]
        found.append("\n".join(lines))
    if row.name == "matmul":
        lines = [
            "| B format | bytes a column and block | of scale and offset |",
            "| --- | --- | --- |",
        ]
        for fmt in modes.BFormat:
            size = 32 if fmt == modes.BFormat.ROWS else 4 * modes.B_DWORDS[fmt]
            lines.append(f"| {fmt.name} | {size} | {modes.B_SCALE_BYTES[fmt]} |")
        found.append("\n".join(lines))
    return found


def _time(row: Instruction) -> list[str]:
    if row.engine == CONTROL:
        return [f"CONTROL takes {latency.DISPATCH_CYCLES} cycle for every instruction it passes."]
    cost = row.cost
    if row.name.endswith("sync"):
        return [f"{latency.SYNC_CYCLES} cycle of its engine, once its tokens are there."]
    sources = _sources(cost)
    if row.bursts:
        note = "DRAM time comes on top: the bursts below, shared out by the memory's arbiter."
        sources += [note, *_sources(row.bursts)]
    text = "".join(sources)
    used = sorted(n for n in vars(latency) if n.isupper() and re.search(rf"\b{n}\b", text))
    constants = " " + ", ".join(
        f"`{name}` = {getattr(latency, name)}" for name in used if _plain(name)
    )
    note = "`slot(rows, i)` and `config(rows, i)` are the columns of slot and configuration i."
    return [*sources, f"{note}{constants}." if constants.strip() else note]


def _plain(name: str) -> bool:
    return isinstance(getattr(latency, name), int)


def _faults(row: Instruction) -> list[str]:
    own = _FAULTS.get(row.name, ())
    if row.engine != CONTROL:
        own = tuple(sorted({*own, 6}))
    if not own:
        return ["None of its own."]
    lines = ["| cause | what |", "| --- | --- |"]
    return ["\n".join([*lines, *(f"| {cause} | {FAULTS[cause]} |" for cause in own)])]


def _index() -> str:
    def rows_of(engine: int) -> str:
        lines = ["| opcode | instruction | what it does |", "| --- | --- | --- |"]
        for row in TABLE:
            if row.engine == engine:
                form = " ".join([row.name, *row.slots])
                lines.append(f"| `{row.opcode:#04x}` | [`{form}`]({row.name}.md) | {row.doc} |")
        return "\n".join(lines)

    joint = ", ".join([*(r.name.upper() for r in TABLE if r.opcode in COLLECTIVES)])
    faults = ["| cause | what |", "| --- | --- |"]
    faults += [f"| {cause} | {what} |" for cause, what in FAULTS.items()]
    parts = [
        "# The instruction set",
        _NOTE,
        f"{len(TABLE)} instructions of {WORD_BYTES} bytes. CONTROL runs them in order; those of an "
        "engine go to its queue, with registers already replaced by their values.",
        "## The word",
        _picture(),
        "A slot is an immediate 0..2047 (bit 11 clear) or a register (bit 11 set, number in the "
        f"low six bits). There are {REGISTERS} registers of 32 bits: r0 reads zero, r1 starts as "
        f"the core's number, r2 as the number of cores. {PARAMETERS} parameters are written by the "
        "host before launch and read with [ldp](ldp.md). "
        f"Loops nest {LOOP_LEVELS} deep.",
        "## Semaphores and order",
        f"Semaphores 1..{SEMAPHORES - 1} count from 0 to {SEMAPHORE_MAX} and belong to a core; 0 "
        "means none. An operation takes one token of each semaphore it waits on before it starts, "
        "and adds one to each it posts when it has ended. A semaphore has one producer engine and "
        "one consumer engine. The operations of an engine act in order: each sees what the earlier "
        "ones of the same engine wrote, and ends after them. Between engines only semaphores "
        f"order; between cores only {joint}. LOADM starts together on all cores but ends on each "
        "by itself. `isa.check` proves that a program has no deadlock, overflow or race.",
        "## Memory",
        f"At most {WINDOWS} DRAM windows (base, limit); offsets of LOAD and STORE count "
        f"{DRAM_UNIT_BYTES} bytes, plus `fine` bytes. Every other access is a tile of rows:",
        _source(Core.tile),
        *(part for e, name in enumerate(ENGINES) for part in (f"## {name}", rows_of(e))),
        "## Faults",
        "\n".join(faults),
    ]
    return "\n\n".join(parts) + "\n"


assert set(_ENUMS) | set(_MODE_BITS) | set(_FAULTS) <= set(BY_NAME)
