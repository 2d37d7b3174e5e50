"""EXCH of one core: what is refused, and when the core says that it waits."""

import numpy as np
from tests.rtl.test_memory_port import PAIR

from mellivora.isa.encoding import R_OPCODE, R_SLOT, RESOLVED_FIELDS
from mellivora.isa.footprint import footprint
from mellivora.isa.state import Fault
from mellivora.isa.table import BY_NAME
from mellivora.rtl.exchange_side import ExchangeSide
from mellivora.rtl.interfaces import OPERATION
from mellivora.rtl.simulate import build

CHIP = PAIR.replace(cores=3)
KNOWN = 7
"""Cycles from the start until every fault has shown."""


def random_slots(rng):
    """Regions at the edges of the scratchpad: one byte decides; strides of both signs."""
    pad, edge = CHIP.sram_bytes, [0, 0, 0, 1, -1]
    size, rows = rng.integers(1, 40, 2).tolist()
    stride, dst_row, src_row = (int(rng.choice([0, size, -size, 100, 3])) for _ in range(3))
    if rng.random() < 0.8:
        dst_row, src_row = abs(dst_row), abs(src_row)
    reach, extent = (rows - 1) * src_row + size, (rows - 1) * dst_row + size
    low, high = min(0, 2 * stride), max(0, 2 * stride)
    src = int(rng.choice([0, pad - reach, 50])) + int(rng.choice(edge))
    dst = int(rng.choice([-low, pad - extent - high, 300])) + int(rng.choice(edge))
    slots = [dst, src, size, stride, rows, dst_row, src_row, 0]
    if rng.random() < 0.2:
        slots[rng.integers(7)] = int(rng.choice([0, -1, 2**29, -(2**31)]))
    return slots


def cause_of(slots):
    row = [0] * RESOLVED_FIELDS
    row[R_OPCODE], row[R_SLOT : R_SLOT + 8] = BY_NAME["exch"].opcode, slots
    try:
        footprint(row, CHIP)
    except Fault as fault:
        return fault.cause
    return 0


def test_causes_are_those_of_the_footprint(rng):
    sim = build(ExchangeSide(CHIP))
    quiet = {name: np.zeros((1, -(-bits // 32)), int) for name, bits in sim.inputs.items()}
    causes = [0, 0]
    for _ in range(600):
        slots = random_slots(rng)
        fields = {"opcode": BY_NAME["exch"].opcode, "slots": slots, "pc": 5, "sequence": 9}
        value = OPERATION.const(fields).as_value().value
        op = [value >> 32 * k & 0xFFFF_FFFF for k in range(-(-OPERATION.size // 32))]
        start = np.arange(2 * KNOWN) == 0
        shown = sim.run(**quiet | {"op": np.array([op]), "start": start})
        expected = cause_of(slots)
        assert set(shown["cause"][shown["failed"] == 1]) == ({expected} if expected else set()), (
            slots
        )
        assert shown["failed"].sum() <= 1
        assert (shown["link__waits"][KNOWN:] == (expected == 0)).all()
        assert shown["held"][1:].all()
        assert not shown["write__enable"].any()
        causes[expected > 0] += 1
    assert min(causes) > 150, causes
