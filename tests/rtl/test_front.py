"""The front starts and ends every operation in the cycle in which `sim.stepped` does."""

import numpy as np
import pytest
from tests.rtl.bench_engines import COST, FAULT_AT, ROLE, SHOWN, FrontBench
from tests.rtl.bench_front import filling

from mellivora.isa import BY_NAME, Word, control, encode
from mellivora.isa.encoding import (
    ENGINES,
    LOAD,
    R_GAP,
    R_OPCODE,
    R_PC,
    R_SLOT,
    REGISTER_FLAG,
    RESOLVED_FIELDS,
    SEMAPHORE_MAX,
    wide_slots,
)
from mellivora.isa.table import SYNC_OPCODE
from mellivora.rtl.fault_record import RECORD
from mellivora.rtl.simulate import build
from mellivora.rtl.watchdog import WATCHDOG_CYCLES
from mellivora.sim.stepped import Stepped
from mellivora.sim.timing import ENGINE_OF, OPERATION, ChipNumbers, Role
from mellivora.spec import load_chip

LOAD_, STORE_, MATRIX_, VECTOR_ = range(4)
LIMIT = 1500
COSTS = 40  # that registers hold
SIZES = [(2, 3), (8, 2)]
MORE_SIZES = [
    pytest.param((depth, most), marks=pytest.mark.nightly) for depth, most in ((3, 4), (5, 2))
]
"""Queue depth, transfers outstanding."""


def built(size):
    depth, outstanding = size
    chip = load_chip("nano").replace(queue_depth=depth, outstanding_transfers=outstanding)
    return chip, build(FrontBench(chip))


@pytest.fixture(scope="module")
def bench():
    return built(SIZES[0])


# ---------------------------------------------------------------------------------------- programs


def operation_word(engine, role, cost, *, waits=(0, 0), posts=(0, 0), cause=0, register=False):
    """An operation of the timed engines; its cost is an immediate, or in register 10 + cost."""
    slots = [0] * 8
    slots[ROLE], slots[FAULT_AT] = int(role), cause
    slots[COST] = REGISTER_FLAG | 10 + cost if register else cost
    return Word(SYNC_OPCODE[LOAD + engine], *waits, *posts, tuple(slots))


def random_operation(rng, tokens, *, shared, lively):
    engine = int(rng.integers(0, 4))
    role, cost = Role.COMPUTE, int(rng.choice([1, 2, 3, int(rng.integers(1, 40))]))
    if engine in (LOAD_, STORE_):
        role = Role(rng.choice([Role.ORDER, Role.TRANSFER], p=[0.4, 0.6]))
        cost = int(rng.choice([1, 2, 6, int(rng.integers(1, 30))]))
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
    return operation_word(engine, role, cost, waits=waits, posts=posts, register=register)


def random_program(rng):
    """A program whose waits take what earlier words post, within each round of a loop."""
    words = [Word(BY_NAME["li"].opcode, 0, 0, 0, 0, wide_slots(10 + n, n)) for n in range(COSTS)]
    shared, lively = rng.random() < 0.25, float(rng.choice([0.15, 0.7]))
    for _ in range(int(rng.integers(1, 6))):
        tokens: dict[int, int] = {}
        body = []
        for _ in range(int(rng.integers(1, 25))):
            nops = int(rng.choice([0, 1, 4, 30], p=[0.75, 0.15, 0.07, 0.03]))
            body += [Word(BY_NAME["nop"].opcode, 0, 0, 0, 0, (0,) * 8)] * nops
            body.append(random_operation(rng, tokens, shared=shared, lively=lively))
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
    return table, rows, sequencer.gap


def twin(table, chip, latency, limit=LIMIT):
    """dispatch, start, end of the cycle-stepped definition; DRAM gives all at once."""
    numbers = ChipNumbers(chip.queue_depth, chip.outstanding_transfers, latency, 1 << 16, 1, 1 << 8)
    machine = Stepped([table], numbers)
    finished = machine.run(limit)
    core = machine.cores[0]
    return (*(np.array(t, np.int64) for t in (core.dispatch, core.start, core.end)), finished)


# ---------------------------------------------------------------------------------------- hardware


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


def within(values, limit):
    return np.where(values < limit, values, -1)


def record_of(words):
    """The fault record in the last cycle: cause, engine, pc; None if there is none."""
    value = sum(int(w) << 32 * i for i, w in enumerate(words[-1]))
    got = {name: value >> f.offset & (1 << f.width) - 1 for name, f in RECORD}
    return (got["cause"], ENGINES[got["engine"]], got["pc"]) if got["valid"] else None


@pytest.mark.parametrize("size", SIZES + MORE_SIZES)
def test_every_start_and_end(size):
    """Random programs back to back: every operation's start and end, and when the core is done."""
    chip, sim = built(size)
    rng = np.random.default_rng(chip.queue_depth)
    checked, several, stuck, ends_at = 0, 0, 0, []
    for _ in range(5):
        wanted, launches = [], []
        while len(launches) < 12:
            code = random_program(rng)
            latency = int(rng.choice([0, 1, 9, 50]))
            table, _, tail = lowered(code)
            dispatch, start, end, finished = twin(table, chip, latency)
            cycles = int(end.max()) + 20 if finished else LIMIT
            wanted.append((dispatch, start, end, finished, tail))
            launches.append(launch(code, latency, cycles))
        for shown, (dispatch, start, end, finished, tail) in zip(run(sim, launches), wanted):
            got_start, got_end = times(shown["shown"], len(start))
            np.testing.assert_array_equal(got_start, start)
            if not finished:  # what ends in the first cycle after the run
                end = np.where(got_end == LIMIT, LIMIT, end)
            np.testing.assert_array_equal(got_end, end)
            if finished:
                halted = dispatch[-1] - 1 + tail + 1
                done = np.arange(len(shown["done"])) >= max(int(end.max()), halted)
                np.testing.assert_array_equal(shown["done"], done)
                assert record_of(shown["record"]) is None
            checked += len(start)
            stuck += not finished
            _, counts = np.unique(end[end >= 0] * 4, return_counts=True)
            several += int((counts > 1).sum())
            ends_at.append(int(end.max()))
    assert checked > 3000, checked
    assert several > 200, several
    assert max(ends_at) > 500, ends_at
    assert stuck < 20


def single(*words):
    halt = Word(BY_NAME["halt"].opcode, 0, 0, 0, 0, (0,) * 8)
    return encode([*words, halt])


def go(bench, code, *, latency=3, cycles=LIMIT):
    (shown,) = run(bench[1], [launch(code, latency, cycles)])
    return shown


def test_a_count_past_its_maximum(bench):
    """Fault 6 of the operation that posts; nothing starts from its end on."""
    post = operation_word(VECTOR_, Role.COMPUTE, 2, posts=(5, 5))
    loop = Word(BY_NAME["loop"].opcode, 0, 0, 0, 0, (130, 1, 0, 0, 0, 0, 0, 0))
    other = operation_word(MATRIX_, Role.COMPUTE, 1)
    code = single(other, loop, post, other)
    shown, (table, rows, _) = go(bench, code), lowered(code)
    _, start, end, _ = twin(table, bench[0], 3)
    over = np.flatnonzero((2 * np.arange(len(table)) > SEMAPHORE_MAX) & (table["post0"] == 5))[0]
    assert record_of(shown["record"]) == (6, "VECTOR", int(rows[over, R_PC]))
    got_start, got_end = times(shown["shown"], len(table))
    np.testing.assert_array_equal(got_start, np.where(start < end[over], start, -1))
    np.testing.assert_array_equal(got_end, np.where(start < end[over], end, -1))
    assert shown["done"][-1]
    assert shown["done"].argmax() == end[over]


def test_the_maximum_itself_is_no_fault(bench):
    post = operation_word(VECTOR_, Role.COMPUTE, 1, posts=(5, 0))
    take = operation_word(MATRIX_, Role.COMPUTE, 1, waits=(5, 5))
    loop = Word(BY_NAME["loop"].opcode, 0, 0, 0, 0, (SEMAPHORE_MAX, 1, 0, 0, 0, 0, 0, 0))
    shown = go(bench, single(loop, post, take, post, post))
    assert record_of(shown["record"]) is None
    assert shown["done"][-1]
    shown = go(bench, single(loop, post, post))
    assert record_of(shown["record"]) == (6, "VECTOR", 2)


def test_engine_fault_stops_the_core(bench):
    """Operations that run, end; nothing more starts; of two faults in a cycle the older counts."""
    words = [
        operation_word(LOAD_, Role.TRANSFER, 30),
        operation_word(STORE_, Role.ORDER, 7, cause=2),  # starts in 3, shows it in 9
        operation_word(VECTOR_, Role.COMPUTE, 6, cause=5),  # starts a cycle later: as soon
        operation_word(MATRIX_, Role.COMPUTE, 9),
        *[operation_word(MATRIX_, Role.COMPUTE, 9)] * 2,
    ]
    for first, second, wanted in ((1, 2, (2, "STORE")), (2, 1, (5, "VECTOR"))):
        order = list(words)
        order[1], order[2] = words[first], words[second]
        if first == 2:  # again both in one cycle
            order[1] = operation_word(VECTOR_, Role.COMPUTE, 7, cause=5)
            order[2] = operation_word(STORE_, Role.ORDER, 6, cause=2)
        shown = go(bench, single(*order))
        assert record_of(shown["record"]) == (*wanted, 1)
        got_start, got_end = times(shown["shown"], 6)
        assert got_start.tolist() == [1, 2, 3, 4, -1, -1]
        assert got_end.tolist() == [1 + 30 + 4, -1, -1, 4 + 9, -1, -1]
        assert shown["done"].argmax() == 35
        assert shown["done"][35:].all()


def test_fault_of_control_waits_for_all_that_was_dispatched(bench):
    slow = operation_word(LOAD_, Role.TRANSFER, 30, posts=(3, 0))
    after = operation_word(VECTOR_, Role.COMPUTE, 9, waits=(3, 0))
    bad = Word(0xFF, 0, 0, 0, 0, (0,) * 8)
    shown = go(bench, encode([slow, after, bad]))
    assert record_of(shown["record"]) == (1, "CONTROL", 2)
    start, end = times(shown["shown"], 2)
    assert (start >= 0).all()
    assert (end >= 0).all()
    assert shown["done"].argmax() == end.max() + 1
    # An operation's own fault comes first, as it does in the order of the program.
    wrong = operation_word(LOAD_, Role.TRANSFER, 30, cause=3)
    shown = go(bench, encode([wrong, bad]))
    assert record_of(shown["record"]) == (3, "LOAD", 0)


@pytest.mark.parametrize("end", ["halt", "full", "fault"])
def test_watchdog_names_the_oldest(bench, end):
    """A wait for a token that never comes: cause 7, of the oldest operation that has not ended."""
    fine = operation_word(LOAD_, Role.TRANSFER, 30)
    stuck = operation_word(VECTOR_, Role.COMPUTE, 9, waits=(3, 0))
    behind = operation_word(MATRIX_, Role.COMPUTE, 9, waits=(4, 0))
    words = [fine, stuck, behind]
    words += [behind] * (20 if end == "full" else 0)
    words += [Word(0xFF, 0, 0, 0, 0, (0,) * 8)] * (end == "fault")
    shown = go(bench, single(*words), cycles=WATCHDOG_CYCLES + 100)
    assert record_of(shown["record"]) == (7, "VECTOR", 1)
    quiet = 1 + 30 + 4  # the LOAD's end
    assert shown["done"].argmax() == quiet + WATCHDOG_CYCLES
