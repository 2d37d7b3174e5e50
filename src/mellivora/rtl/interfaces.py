"""How the parts of a core are joined: the operation an engine gets, its handshake, memory ports.

The contract, with its cycles, is docs/design/0006-core-rtl.md. Nothing here is hardware yet.
"""

from __future__ import annotations

from amaranth.hdl import signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from mellivora.isa.encoding import SLOTS

SEMAPHORE_BITS = 6
PC_BITS = 24
CAUSE_BITS = 4
WINDOW_FAULT, SCRATCHPAD_FAULT, ALIGNMENT_FAULT, SHAPE_FAULT = 2, 3, 4, 5
ADDRESS_BITS = 40
"""Of a bounds check: sums of registers and small multiples of them, signed."""

OPERATION = data.StructLayout(
    {
        "opcode": 8,
        "wait0": SEMAPHORE_BITS,
        "wait1": SEMAPHORE_BITS,
        "post0": SEMAPHORE_BITS,
        "post1": SEMAPHORE_BITS,
        "pc": PC_BITS,
        "sequence": 32,  # counts the operations of the core in program order
        "slots": data.ArrayLayout(signed(32), SLOTS),
        "config": data.ArrayLayout(signed(32), SLOTS),
    }
)
"""A resolved operation, as `isa.control` defines it."""

END = data.StructLayout(
    {
        "valid": 1,
        "post0": SEMAPHORE_BITS,
        "post1": SEMAPHORE_BITS,
        "pc": PC_BITS,
        "sequence": 32,
    }
)
"""An operation in its last cycle: its posts can be taken in the next one."""

FAULT = data.StructLayout(
    {"valid": 1, "cause": CAUSE_BITS, "pc": PC_BITS, "sequence": 32},
)
"""Holds until reset; valid from the cycle on in which the engine knows."""


def engine_signature(ends: int = 1) -> wiring.Signature:
    """An engine, as the engine sees it. ends: operations that may end in one cycle."""
    return wiring.Signature(
        {
            "op": In(OPERATION),  # the head of its queue, for as long as it is not started
            "start": In(1),  # it starts in this cycle; only where `ready`
            "ready": Out(1),  # the head, if there is one, could start in this cycle
            "ends": Out(data.ArrayLayout(END, ends)),
            "fault": Out(FAULT),
            "active": Out(1),  # something runs or is in flight that needs no other core
        }
    )


def read_port(width_bytes: int) -> wiring.Signature:
    """A reader's side of a banked memory: any byte address, data READ_CYCLES later."""
    return wiring.Signature(
        {
            "address": Out(32),
            "enable": Out(1),
            "data": In(8 * width_bytes),
        }
    )


def write_port(width_bytes: int) -> wiring.Signature:
    """A writer's side: bytes with their mask bit set go to address + i, WRITE_CYCLES later."""
    return wiring.Signature(
        {
            "address": Out(32),
            "enable": Out(1),
            "data": Out(8 * width_bytes),
            "mask": Out(width_bytes),
        }
    )


READ_CYCLES = 2
"""Address in cycle c, data in cycle c + 2: the banks' own cycle, then alignment."""
WRITE_CYCLES = 2
"""Address in cycle c, a read with its address in cycle c + 2 sees it."""
