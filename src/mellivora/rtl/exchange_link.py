"""Between STORE of a core and the network that EXCH and BARRIER run over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from mellivora.errors import SpecError
from mellivora.rtl.interfaces import READ_CYCLES

if TYPE_CHECKING:
    from mellivora.spec import ChipSpec

SIZE_BITS = 31
TURN_TO_HEAR = 2 + READ_CYCLES
"""A core's turn to its bytes at every core: address, read, the network's register."""
TURN_TO_WRITE = TURN_TO_HEAR + 1
LEAST_LATENCY = 16
"""Shorter networks would begin before the sources and destinations are checked."""


def exchange_link(chip: ChipSpec) -> wiring.Signature:
    """STORE's side. A beat is `exchange_bytes_per_cycle` of a row.

    waits: the core has started an EXCH (`moves`) or a BARRIER and found no fault in it.
    turn: the core's next beat is wanted, on `data` in TURN_TO_HEAR - 1 cycles.
    heard: a beat of some core is here; with `heard_row` it is a row's last, with `heard_part` a
    core's last, and its last `spare` bytes are none of the row.
    differs: the sizes are not core 0's. end: its last cycle.
    """
    width = chip.exchange_bytes_per_cycle
    return wiring.Signature(
        {
            "waits": Out(1),
            "moves": Out(1),
            "bytes": Out(SIZE_BITS),
            "rows": Out(SIZE_BITS),
            "data": Out(8 * width),
            "running": In(1),
            "turn": In(1),
            "turn_row": In(1),
            "heard": In(1),
            "heard_row": In(1),
            "heard_part": In(1),
            "heard_data": In(8 * width),
            "spare": In(range(width)),
            "differs": In(1),
            "end": In(1),
        }
    )


def check_exchange(chip: ChipSpec) -> None:
    """Raises SpecError MV0121 for a chip that the RTL has no network for."""
    if chip.exchange_latency_cycles < LEAST_LATENCY:
        raise SpecError(
            "MV0121",
            "the RTL has no network between the cores of this chip",
            where=f"chip {chip.name}",
            given=f"exchange_latency_cycles {chip.exchange_latency_cycles}",
            allowed=f"{LEAST_LATENCY} or more",
            hint="Take nano or micro, or change the chip.",
        )
