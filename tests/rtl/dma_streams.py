"""Random streams of DMA operations, and what the definitions make of them."""

from __future__ import annotations

import numpy as np
from tests.rtl.dma_bench import DRAM_BURSTS, Run

from mellivora.isa import latency, meaning
from mellivora.isa.encoding import (
    DRAM_UNIT_BYTES,
    LOAD,
    R_CONFIG,
    R_GAP,
    R_OPCODE,
    R_PC,
    R_SLOT,
    RESOLVED_FIELDS,
    STORE,
)
from mellivora.isa.state import Core
from mellivora.isa.table import BY_NAME, BY_OPCODE, COLLECTIVES
from mellivora.sim import timing
from mellivora.sim.stepped import Stepped
from mellivora.spec import load_chip

PAD_BURSTS = 256
TABLE_ENTRIES = 40
"""Of the page table in every core, where the second half of the scratchpad begins."""


def chip_of(*, burst=16, **changes):
    """A chip that moves data, small, with small bursts."""
    sizes = {"dram_burst_bytes": burst, "core_port_bytes_per_cycle": burst}
    sizes |= {"sram_bytes": PAD_BURSTS * burst, "exchange_bytes_per_cycle": burst}
    return load_chip("nano").replace(**sizes | {"dram_latency_cycles": 20} | changes)


def windows_of(chip):
    """LOAD reads the first two, which overlap; core i stores to window 2 + i."""
    half = DRAM_BURSTS // 2
    windows = ((0, 128), (64, half - 64), (half, half // 2), (half + half // 2, half // 2))
    return tuple(
        (base * chip.dram_burst_bytes, limit * chip.dram_burst_bytes) for base, limit in windows
    )


def row(name, slots=(), config=(), *, gap=1, pc=0):
    """A resolved row."""
    out = np.zeros(RESOLVED_FIELDS, np.int64)
    out[[R_OPCODE, R_GAP, R_PC]] = BY_NAME[name].opcode, gap, pc
    out[R_SLOT : R_SLOT + len(slots)] = slots
    out[R_CONFIG : R_CONFIG + len(config)] = config
    return out


def _shape(rng, burst):
    """counts, strides of the side that is read and of the side that is written.

    Dimensions join, or not, on either side; what is read may be read again, what is written is
    written once.
    """
    sizes = [1, 3, burst, burst + burst // 2, 2 * burst, int(rng.integers(1, 5 * burst))]
    counts = [int(rng.choice(sizes))] + [int(rng.choice([1, 1, 2, 3])) for _ in range(3)]
    extent, run, read, written = counts[0], counts[0], [], []
    for count in counts[1:]:
        joins = rng.random() < 0.4
        written.append(extent if joins or rng.random() < 0.5 else extent + int(rng.integers(burst)))
        other = [0, burst, run, int(rng.integers(3 * burst))]
        read.append(run if joins else int(rng.choice(other)))
        extent += (count - 1) * written[-1]
        run *= count
    reach = counts[0] + sum((n - 1) * s for n, s in zip(counts[1:], read))
    if max(extent, reach) > 24 * burst:
        return _shape(rng, burst)
    return counts, (read, reach), (written, extent)


def table_of(chip):
    """INT32 pages of a burst or two each that lie in either window that LOAD reads, and a -1."""
    rng = np.random.default_rng(chip.dram_burst_bytes)
    return np.append(rng.integers(0, 24, TABLE_ENTRIES), -1).astype("<i4")


def gather(rng, chip):
    """A legal LOADX: pages of one or two bursts, in the table's order."""
    counts, (read, _), (written, extent) = _shape(rng, chip.dram_burst_bytes)
    counts[3] = int(rng.choice([1, 2, 3, 7, 12]))
    written[2] = extent if rng.random() < 0.5 else extent + int(rng.integers(20))
    pitch = chip.dram_burst_bytes * int(rng.choice([0, 1, 1, 2]))
    reach = counts[0] + sum((n - 1) * s for n, s in zip(counts[1:3], read)) + 23 * pitch
    extent = counts[0] + sum((n - 1) * s for n, s in zip(counts[1:], written))
    window = int(rng.integers(2))
    half, limit = chip.sram_bytes // 2, windows_of(chip)[window][1]
    if extent > half or reach > limit:
        return gather(rng, chip)
    at = int(rng.integers(limit - reach + 1))
    pad = int(rng.choice([0, half - extent, int(rng.integers(half - extent + 1))]))
    slots = [window, at // DRAM_UNIT_BYTES, at % DRAM_UNIT_BYTES, pad, *counts]
    table = half + 4 * int(rng.integers(TABLE_ENTRIES - counts[3] + 1))
    return row("loadx", slots, [*read[:2], pitch, *written, table])


def transfer(rng, name, chip, core):
    """A legal LOAD, LOADM, LOADX or STORE; LOADs fill the lower half of the scratchpad."""
    if name == "loadx":
        return gather(rng, chip)
    counts, read, written = _shape(rng, chip.dram_burst_bytes)
    store = name == "store"
    (far, reach), (near, extent) = (written, read) if store else (read, written)
    window = 2 + core if store else int(rng.integers(2))
    at = int(rng.integers(windows_of(chip)[window][1] - reach + 1))
    if rng.random() < 0.5:
        at -= at % chip.dram_burst_bytes
    fine = int(rng.integers(at + 1)) if rng.random() < 0.2 else at % DRAM_UNIT_BYTES
    fine += (at - fine) % DRAM_UNIT_BYTES
    if rng.random() < 0.1:
        fine -= 2 * DRAM_UNIT_BYTES
    half = chip.sram_bytes // 2
    pad = int(rng.choice([0, half - extent, int(rng.integers(half - extent + 1))]))
    slots = [window, (at - fine) // DRAM_UNIT_BYTES, fine, pad + half * store, *counts]
    return row(name, slots, [*far, *near])


def empty(rng, name):
    """A transfer of no bytes, and otherwise wild: it is not checked."""
    slots = rng.integers(-(2**31), 2**31, 8)
    slots[4 + rng.integers(4)] = rng.choice([0, -5])
    return row(name, slots, rng.integers(-(2**31), 2**31, 8))


def stream(rng, chip, core, count):
    """Rows of one core: LOAD and STORE, transfers, some of no bytes, and syncs."""
    rows, gaps = [], rng.choice([1, 3, 30], count)
    names, often = ["load", "loadx", "store", "lsync", "ssync"], [0.35, 0.1, 0.35, 0.1, 0.1]
    for gap in gaps:
        name = str(rng.choice(names, p=often))
        if name.endswith("sync"):
            one = row(name)
        elif rng.random() < 0.1:
            one = empty(rng, name)
        else:
            one = transfer(rng, name, chip, core)
        one[R_GAP] = rng.integers(1, gap + 1)
        rows.append(one)
    return np.stack(rows)


def with_common(rng, streams, make, count):
    """Puts `count` operations into every stream, in the same order, at places of its own.

    make() gives one operation as a row for each core.
    """
    whole = [list(one) for one in streams]
    common = [make() for _ in range(count)]
    for core, mine in enumerate(whole):
        places = np.sort(rng.integers(0, len(mine) + 1, count))
        for place, rows in reversed(list(zip(places, common))):
            mine.insert(place, rows[core].copy())
    return [np.stack(mine) for mine in whole]


def multicast(rng, chip):
    """One LOADM of every core."""
    return [transfer(rng, "loadm", chip, 0)] * chip.cores


def collective(rng, chip):
    """An EXCH or BARRIER of every core. EXCH takes from the third quarter of the scratchpad, which
    STORE reads, and fills the last one; sizes are common, places and strides are not."""
    if rng.random() < 0.3:
        return [row("barrier")] * chip.cores
    width, quarter = chip.exchange_bytes_per_cycle, chip.sram_bytes // 4
    if rng.random() < 0.1:
        wild = rng.integers(-(2**31), 2**31, 7)
        wild[rng.choice([2, 4])] = rng.choice([0, -3])
        return [row("exch", wild)] * chip.cores
    size = int(rng.choice([1, width, width + 1, int(rng.integers(1, 3 * width))]))
    rows = int(rng.integers(1, 5))
    found = []
    for _ in range(chip.cores):
        src_row = int(rng.choice([0, size, int(rng.integers(3 * width))]))
        src = 2 * quarter + int(rng.integers(quarter - (rows - 1) * src_row - size + 1))
        slack = int(rng.integers(width))
        if rng.random() < 0.5:  # rows of all cores side by side
            stride, dst_row = size, size * chip.cores + slack
        else:
            stride, dst_row = (size + slack) * rows, size + slack
        extent = (chip.cores - 1) * stride + (rows - 1) * dst_row + size
        dst = 3 * quarter + int(rng.integers(quarter - extent + 1))
        if rng.random() < 0.3:  # the last core's part lowest
            dst, stride = dst + (chip.cores - 1) * stride, -stride
        found.append(row("exch", [dst, src, size, stride, rows, dst_row, src_row]))
    return found


def memories(rng, chip):
    dram = rng.integers(0, 256, DRAM_BURSTS * chip.dram_burst_bytes, dtype=np.uint8)
    pads = rng.integers(0, 256, (chip.cores, chip.sram_bytes), dtype=np.uint8)
    at = chip.sram_bytes // 2
    table = table_of(chip).view(np.uint8)
    dram[: table.size] = pads[:, at : at + table.size] = table
    return dram, pads


def expected_times(rows, chip):
    """dispatch, start, end by the engine, which must be those of the stepped twin."""
    operations = [timing.lower(one, chip) for one in rows]
    numbers = timing.ChipNumbers.of(chip)
    times = timing.run_operations(operations, numbers)[:3]
    twin = Stepped(operations, numbers)
    assert twin.run(int(max(end.max(initial=0) for end in times[2])) + 1)
    for core, one in enumerate(twin.cores):
        assert one.start == times[1][core].tolist()
        assert one.end == times[2][core].tolist()
    return times


def expected_memories(rows, chip, dram, pads):
    """dram and scratchpads after the meanings of all rows, in program order of each core."""
    dram, pads = dram.copy(), pads.copy()
    cores = [Core(chip, dram, windows_of(chip), index) for index in range(chip.cores)]
    for core, pad in zip(cores, pads):
        core.scratchpad = pad
    lanes = [iter(mine.tolist()) for mine in rows]
    while True:
        at = [_to_collective(core, lane) for core, lane in zip(cores, lanes)]
        if not any(at):
            return dram, pads
        if at[0][R_OPCODE] == BY_NAME["exch"].opcode:
            meaning.exchange(cores, [one[R_SLOT:R_CONFIG] for one in at])


def _to_collective(core, lane):
    """Performs rows up to the next collective, which it returns, or None."""
    for one in lane:
        if one[R_OPCODE] in COLLECTIVES:
            return one
        BY_OPCODE[one[R_OPCODE]].meaning(core, one[R_SLOT:R_CONFIG], one[R_CONFIG:])
    return None


def check(rng, chip, rows, *, stall=None):
    """Runs them: contents always, and every start and end unless the bus stalls."""
    dram, pads = memories(rng, chip)
    dispatch, start, end = expected_times(rows, chip)
    cycles = int(max(one.max(initial=0) for one in end)) + 2
    if stall is not None:
        cycles *= 6
        stall = stall(cycles)
    run = Run(
        chip,
        windows_of(chip),
        rows,
        dispatch,
        dram,
        pads,
        cycles=cycles,
        stall=0 if stall is None else stall,
    )
    assert not run.fault
    if stall is None:
        for core in range(chip.cores):
            np.testing.assert_array_equal(run.start[core], start[core])
            np.testing.assert_array_equal(run.end[core], end[core])
    assert all((one >= 0).all() for one in run.end)
    dram, pads = expected_memories(rows, chip, dram, pads)
    np.testing.assert_array_equal(run.pads, pads)
    np.testing.assert_array_equal(run.dram, dram)
    return run


def check_fault(rng, chip, name, cause, damage, *, read_all=True):
    """Two legal operations, one that `damage` makes wrong, one legal: what the fault leaves.

    The first two end as if alone, the third shows its cause after its issue and nothing else, the
    last never starts; no byte and no transaction is of the last two. read_all: a LOADX reads all of
    its table before.
    """
    rows = [np.stack([transfer(rng, name, chip, 0) for _ in range(4)])]
    damage(rows[0][2, R_SLOT:R_CONFIG], rows[0][2, R_CONFIG:])
    legal = [rows[0][:2], *([rows[0][:0]] * (chip.cores - 1))]
    rows += [rows[0][:0]] * (chip.cores - 1)
    dispatch, start, end = expected_times(legal, chip)
    dram, pads = memories(rng, chip)
    dispatch = [np.array([*dispatch[0], 20, 21]), *dispatch[1:]]
    run = Run(chip, windows_of(chip), rows, dispatch, dram, pads, cycles=int(end[0][-1]) + 200)
    which = STORE if name == "store" else LOAD
    assert run.fault == {(0, which): (cause, 2)}
    assert run.start[0][:2].tolist() == start[0].tolist()
    assert run.start[0][2] >= 20
    issue = latency.DMA_ISSUE_CYCLES
    if name == "loadx":
        issue = int(latency.gather(rows[0][2:3], chip)[0]) if read_all else issue
    assert run.fault_at[0, which] == run.start[0][2] + issue
    assert run.start[0][3] == -1
    assert run.end[0].tolist() == [*end[0].tolist(), -1, -1]
    dram, pads = expected_memories(legal, chip, dram, pads)
    np.testing.assert_array_equal(run.dram, dram)
    np.testing.assert_array_equal(run.pads, pads)
    requests = (
        [bursts(legal[0], chip), 0, 0] if which == LOAD else [0, *[bursts(legal[0], chip)] * 2]
    )
    assert [int((run.bus >> bit & 255).sum()) for bit in (0, 8, 16)] == requests
    active = run.shown["store0_active" if which == STORE else "load0_active"]
    assert not active[-100:].any()
    assert active[run.start[0][2] + 1 : run.fault_at[0, which]].all()


def bursts(rows, chip):
    """Fragments of all rows of an engine's opcodes."""
    return int(sum(timing.lower(rows, chip)["bursts"]))
