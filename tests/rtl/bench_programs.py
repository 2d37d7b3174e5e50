"""Random programs of the timed engines: for the hardware, and for the cycle-stepped definition."""

import numpy as np
from tests.rtl.bench_engines import COST, FAULT_AT, ROLE, SHOWN, FrontBench
from tests.rtl.bench_front import filling

from mellivora.isa import BY_NAME, Word, control, encode
from mellivora.isa.encoding import (
    ENGINES,
    GATHER_PAGES,
    LOAD,
    R_GAP,
    R_OPCODE,
    R_SLOT,
    REGISTER_FLAG,
    RESOLVED_FIELDS,
    wide_slots,
)
from mellivora.isa.latency import DMA_ISSUE_CYCLES, SYNC_CYCLES
from mellivora.isa.table import SYNC_OPCODE
from mellivora.rtl.fault_record import RECORD
from mellivora.rtl.front import NAMES
from mellivora.rtl.simulate import build
from mellivora.sim.stepped import Stepped
from mellivora.sim.timing import ENGINE_OF, OPERATION, ChipNumbers, Role
from mellivora.spec import load_chip

LOAD_, STORE_, MATRIX_, VECTOR_ = range(4)
LIMIT = 1500
COSTS = 40  # that registers hold


def built(size):
    """The chip and the simulation of a front with (queue depth, transfers outstanding)."""
    depth, outstanding = size
    chip = load_chip("nano").replace(queue_depth=depth, outstanding_transfers=outstanding)
    return chip, build(FrontBench(chip))


def operation_word(
    engine, role, cost, *, waits=(0, 0), posts=(0, 0), cause=0, register=False, pages=0
):
    """An operation of the timed engines; its cost is an immediate, or in register 10 + cost.

    pages: it is a LOADX of so many.
    """
    slots = [0] * 8
    slots[ROLE], slots[FAULT_AT] = int(role), cause
    slots[COST] = REGISTER_FLAG | 10 + cost if register else cost
    opcode = SYNC_OPCODE[LOAD + engine]
    if role == Role.TRANSFER:
        opcode = BY_NAME["loadx" if pages else NAMES[engine]].opcode
        slots[4:] = [1, 1, 1, pages]
    if role == Role.COLLECTIVE:
        opcode = BY_NAME["barrier"].opcode
    return Word(opcode, *waits, *posts, tuple(slots))


def random_operation(rng, tokens, *, shared, lively, real=False):
    """real: LOAD and STORE take the cycles that instructions have; there are LOADXs."""
    engine, pages = int(rng.integers(0, 4)), 0
    role, cost = Role.COMPUTE, int(rng.choice([1, 2, 3, int(rng.integers(1, 40))]))
    if engine in (LOAD_, STORE_):
        role = Role(rng.choice([Role.ORDER, Role.TRANSFER], p=[0.4, 0.6]))
        cost = int(rng.choice([1, 2, 6, int(rng.integers(1, 30))]))
        if real:
            cost = SYNC_CYCLES if role == Role.ORDER else DMA_ISSUE_CYCLES
            if (engine, role) == (LOAD_, Role.TRANSFER) and rng.random() < 0.3:
                pages = int(rng.choice([1, 2, 31, GATHER_PAGES]))
                cost += pages
    if engine == STORE_ and rng.random() < 0.15:
        role = Role.COLLECTIVE
    waits, posts = [0, 0], [0, 0]
    for j in range(2):
        if shared:  # any engine waits for any semaphore: who is first, takes
            able = [s for s, n in tokens.items() if n > 0]
        else:
            able = [s for p in range(4) if tokens.get(s := 1 + 4 * p + engine, 0) > 0]
        if able and rng.random() < lively:
            waits[j] = int(rng.choice(able))
            tokens[waits[j]] -= 1
    for j in range(2):
        if rng.random() < 0.5:
            posts[j] = int(rng.integers(1, 7) if shared else 1 + 4 * engine + rng.integers(0, 4))
    for s in posts:
        if s:
            tokens[s] = tokens.get(s, 0) + 1
    register = cost < COSTS and rng.random() < 0.3
    return operation_word(
        engine, role, cost, waits=waits, posts=posts, register=register, pages=pages
    )


def random_program(rng, *, shared=None, real=False):
    """A program whose waits take what earlier words post, within each round of a loop."""
    words = [Word(BY_NAME["li"].opcode, 0, 0, 0, 0, wide_slots(10 + n, n)) for n in range(COSTS)]
    shared = rng.random() < 0.25 if shared is None else shared
    lively = float(rng.choice([0.15, 0.7]))
    for _ in range(int(rng.integers(1, 6))):
        tokens: dict[int, int] = {}
        body = []
        for _ in range(int(rng.integers(1, 25))):
            nops = int(rng.choice([0, 1, 4, 30], p=[0.75, 0.15, 0.07, 0.03]))
            body += [Word(BY_NAME["nop"].opcode, 0, 0, 0, 0, (0,) * 8)] * nops
            body.append(random_operation(rng, tokens, shared=shared, lively=lively, real=real))
        rounds = int(rng.choice([1, 1, 2, 4]))
        if rounds > 1:
            words.append(
                Word(BY_NAME["loop"].opcode, 0, 0, 0, 0, (rounds, len(body), 0, 0, 0, 0, 0, 0))
            )
        words += body
    return encode([*words, Word(BY_NAME["halt"].opcode, 0, 0, 0, 0, (0,) * 8)])


def lowered(code):
    """Operations for the twin, resolved rows, and CONTROL cycles from the last one to HALT."""
    sequencer = control.Sequencer(control.words_of(code), [], core_id=0, cores=1)
    rows = np.array(list(sequencer.stream()), np.int64).reshape(-1, RESOLVED_FIELDS)
    table = np.zeros(len(rows), OPERATION)
    for name, at in (("gap", R_GAP), ("role", R_SLOT + ROLE), ("cost", R_SLOT + COST)):
        table[name] = rows[:, at]
    for at, name in enumerate(("wait0", "wait1", "post0", "post1"), 1):
        table[name] = rows[:, at]
    table["engine"] = ENGINE_OF[rows[:, R_OPCODE]] - LOAD
    table["bursts"] = table["role"] == Role.TRANSFER
    table["after"] = rows[:, R_OPCODE] == BY_NAME["loadx"].opcode
    return table, rows, sequencer.gap


def twin(table, chip, latency, limit=LIMIT):
    """dispatch, start, end of the cycle-stepped definition; DRAM gives all at once."""
    numbers = ChipNumbers(chip.queue_depth, chip.outstanding_transfers, latency, 1 << 16, 1, 1 << 8)
    machine = Stepped([table], numbers)
    finished = machine.run(limit)
    core = machine.cores[0]
    return (*(np.array(t, np.int64) for t in (core.dispatch, core.start, core.end)), finished)


def launch(code, latency, cycles):
    rows = filling(code, np.zeros(0))
    idle = len(rows["fill_words"])
    out = {
        name: np.concatenate([v, np.zeros((cycles, *v.shape[1:]), v.dtype)])
        for name, v in rows.items()
    }
    whole = idle + cycles
    out["run"] = np.arange(whole) >= idle
    out["program_words"] = np.full(whole, len(code))
    out["latency"] = np.full(whole, latency)
    return out


def field(words, offset, width):
    """Bits of a wide port as int64 [cycles]."""
    wide = np.pad(words, ((0, 0), (0, 1))).astype(np.uint64)
    word, shift = divmod(offset, 32)
    both = wide[:, word] | wide[:, word + 1] << np.uint64(32)
    return (both >> np.uint64(shift) & np.uint64((1 << width) - 1)).astype(np.int64)


def times(shown, count):
    """start and end of each operation by its sequence; -1 where it never comes."""
    start, end = np.full(count, -1), np.full(count, -1)
    for e in range(4):
        base = e * SHOWN.size
        at = np.flatnonzero(field(shown, base + 32, 1))
        sequence = field(shown[at], base, 32)
        assert (start[sequence] == -1).all(), "started twice"
        start[sequence] = at
        for i in range(4):
            offset = base + SHOWN["ends"].offset + 33 * i
            at = np.flatnonzero(field(shown, offset, 1))
            sequence = field(shown[at], offset + 1, 32)
            assert (end[sequence] == -1).all(), "ended twice"
            end[sequence] = at + 1
    return start, end


def run(sim, launches):
    """Outputs of each launch from its cycle 0 on; all on one machine, one after the other."""
    inputs = {name: np.concatenate([one[name] for one in launches]) for name in launches[0]}
    shown = sim.run(**inputs)
    out, at = [], 0
    for one in launches:
        idle = int(np.argmax(one["run"]))
        out.append({k: v[at + idle : at + len(one["run"])] for k, v in shown.items()})
        at += len(one["run"])
    return out


def record_of(words):
    """The fault record in the last cycle: cause, engine, pc; None if there is none."""
    value = sum(int(w) << 32 * i for i, w in enumerate(words[-1]))
    got = {name: value >> f.offset & (1 << f.width) - 1 for name, f in RECORD}
    return (got["cause"], ENGINES[got["engine"]], got["pc"]) if got["valid"] else None
