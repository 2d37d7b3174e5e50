"""The registers of a core as the host sees them: the one table of the control port.

Hardware (`control_port`), drivers (`setup_writes`, `status_registers`) and the page in docs/rtl
come from it. Addresses are bytes within a core; all registers have 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mellivora.isa.encoding import PARAMETERS
from mellivora.rtl.counters import COUNTERS

CORE_ADDRESS_BITS = 14
CORE_STRIDE_BYTES = 1 << CORE_ADDRESS_BITS
WORD_BYTES = 4
WINDOW_WORDS = ("base", "base_high", "limit", "limit_high")
WINDOWS_MAX = 256
IDENTITY_VALUE = 0x4D65_6C31
"""What `identity` reads: "Mel1"."""


@dataclass(frozen=True)
class Register:
    """count registers lie `stride` bytes apart. writable: by the host, while the core stands;
    DOORBELL at any time."""

    name: str
    address: int
    doc: str
    writable: bool = False
    readable: bool = True
    count: int = 1
    stride: int = WORD_BYTES


def _registers() -> tuple[Register, ...]:
    out = [
        Register("identity", 0x000, f"{IDENTITY_VALUE:#x}: this map"),
        Register("run", 0x004, "the doorbell: 1 starts the core, 0 makes it ready for a new start",
                 writable=True),
        Register("status", 0x008, "bit 0: run; bit 1: done; bit 2: a fault is recorded"),
        Register("fault_cause", 0x00C, "1 to 9, 0: none"),
        Register("fault_engine", 0x010, "0 CONTROL, 1 LOAD, 2 STORE, 3 MATRIX, 4 VECTOR"),
        Register("fault_pc", 0x014, "of the instruction"),
        Register("fault_pc_high", 0x018, "bit 32: CONTROL skipped as far"),
        Register("program_words", 0x01C, "length of the program", writable=True),
        Register("parameter_count", 0x020, f"0 to {PARAMETERS}: LDP faults from there on",
                 writable=True),
    ]  # fmt: skip
    for index, (name, doc) in enumerate(COUNTERS.items()):
        out += [
            Register(name, 0x400 + 8 * index, doc),
            Register(f"{name}_high", 0x404 + 8 * index, "the high word, as it was when the low one "
                     "was read"),
        ]  # fmt: skip
    for i, part in enumerate(WINDOW_WORDS):
        doc = "bytes; the base is a multiple of a burst" if i == 0 else ""
        name = f"window_{part}"
        out.append(Register(name, 0x1000 + WORD_BYTES * i, doc, writable=True, readable=False,
                            count=WINDOWS_MAX, stride=WORD_BYTES * len(WINDOW_WORDS)))  # fmt: skip
    out.append(Register("parameters", 0x2000, "parameter memory", writable=True, readable=False,
                        count=PARAMETERS))  # fmt: skip
    return tuple(out)


REGISTERS = _registers()
ADDRESS = {register.name: register.address for register in REGISTERS}
"""Of each register, or of the first of a row of them."""
DOORBELL = ADDRESS["run"]


def setup_writes(
    words: int, parameters: Sequence[int], windows: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """(address, 32-bit value) of all writes before the doorbell; windows: (base, limit), bytes."""
    yield ADDRESS["program_words"], words
    yield ADDRESS["parameter_count"], len(parameters)
    for i, value in enumerate(parameters):
        yield ADDRESS["parameters"] + WORD_BYTES * i, value & 0xFFFF_FFFF
    for i, window in enumerate(windows):
        for part, value in zip(("base", "limit"), window, strict=True):
            for high, suffix in enumerate(("", "_high")):
                address = ADDRESS[f"window_{part}{suffix}"] + i * WORD_BYTES * len(WINDOW_WORDS)
                yield address, value >> 32 * high & 0xFFFF_FFFF


def status_registers() -> dict[str, int]:
    """Addresses of all that a run leaves, by name, low words before high ones."""
    return {one.name: one.address for one in REGISTERS if not one.writable}


def markdown() -> str:
    """The table of docs/rtl/control_port.md; the high words of counters are left out."""
    lines = ["| address | register | access | what |", "| --- | --- | --- | --- |"]
    counters = {f"{name}_high" for name in COUNTERS}
    for one in REGISTERS:
        if one.name in counters:
            continue
        access = ("r" if one.readable else "") + ("w" if one.writable else "")
        place = f"`{one.address:#06x}`" + (f" + {one.stride} i" if one.count > 1 else "")
        lines.append(f"| {place} | `{one.name}` | {access} | {one.doc} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
