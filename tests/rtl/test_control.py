"""CONTROL equals `isa.control.Sequencer`: rows, cycles, faults, whatever the queues do."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from tests.rtl.bench_front import IMEM_WORDS, Memories, filling, operations, random_word

from mellivora.isa import BY_OPCODE, Fault, Word, assemble, control, encode
from mellivora.isa.encoding import (
    LOAD,
    PARAMETERS,
    R_CONFIG,
    R_GAP,
    R_OPCODE,
    R_PC,
    R_SLOT,
)
from mellivora.rtl.control import CONTROL_FAULT, OPCODE_FAULT, WORKERS, Control
from mellivora.rtl.interfaces import OPERATION
from mellivora.rtl.simulate import build

HALT = Word(0, 0, 0, 0, 0, (0,) * 8)
LIMIT = 600


class ControlBench(wiring.Component):
    """CONTROL with its memories."""

    fill_word: In(128)
    fill_address: In(16)
    fill_words: In(1)
    fill_parameters: In(1)
    run: In(1)
    program_words: In(24)
    parameter_count: In(12)
    core_id: In(16)
    cores: In(16)
    stall: In(1)
    push: Out(1)
    engine: Out(WORKERS)
    op: Out(OPERATION)
    halted: Out(1)
    fault: Out(CONTROL_FAULT)
    has_reset = True
    module_name = "control_bench"

    def elaborate(self, platform):
        m = Module()
        m.submodules.control = core = Control()
        m.submodules.memories = memories = Memories()
        for name in ("run", "program_words", "parameter_count", "core_id", "cores", "stall"):
            m.d.comb += getattr(core, name).eq(getattr(self, name))
        for name in ("push", "engine", "op", "halted", "fault"):
            m.d.comb += getattr(self, name).eq(getattr(core, name))
        for name in ("fill_word", "fill_address", "fill_words", "fill_parameters"):
            m.d.comb += getattr(memories, name).eq(getattr(self, name))
        m.d.comb += [
            memories.fetch_address.eq(core.fetch_address),
            core.fetch_word.eq(memories.fetch_word),
            memories.parameter_address.eq(core.parameter_address),
            core.parameter_value.eq(memories.parameter_value),
        ]
        return m


@pytest.fixture(scope="module")
def sim():
    return build(ControlBench())


def expected(code, parameters, core_id, cores):
    """Rows, fault (cause, pc) or None, and the end's cycles after the last row; None: too long."""
    sequencer = control.Sequencer(control.words_of(code), parameters, core_id=core_id, cores=cores)
    rows = []
    try:
        for row in sequencer.stream():
            rows.append(row)
    except Fault as fault:
        if fault.cause == 7:
            return rows, None, None
        late = 1 if fault.cause == OPCODE_FAULT else 0  # its own cycle is not counted
        return rows, (fault.cause, sequencer.pc), sequencer.gap + late
    return rows, None, sequencer.gap


def launch(code, parameters, stall, *, core_id, cores, count=None):
    """Inputs that fill the memories, then run; [rows of one launch]."""
    rows = filling(code, np.asarray(parameters, np.int64))
    idle = len(rows["fill_words"])
    whole = idle + len(stall)
    out = {name: np.concatenate([v, np.zeros((len(stall), *v.shape[1:]), v.dtype)])
           for name, v in rows.items()}  # fmt: skip
    out["run"] = np.arange(whole) >= idle
    out["stall"] = np.concatenate([np.ones(idle, bool), stall])
    for name, value in (
        ("program_words", len(code)),
        ("parameter_count", len(parameters) if count is None else count),
        ("core_id", core_id),
        ("cores", cores),
    ):
        out[name] = np.full(whole, value)
    return out


def check(shown, stall, rows, fault, tail):
    """One launch's outputs, from its cycle 0 on, are those of the sequencer."""
    pushed = np.flatnonzero(shown["push"])
    works = np.flatnonzero(~np.asarray(stall, bool))  # cycles in which CONTROL can do something
    executed = np.cumsum([row[R_GAP] for row in rows], dtype=np.int64) - 1
    assert pushed.tolist() == works[executed[executed < len(works)]].tolist()
    ops = operations(shown["op"][pushed])
    for at, row, op in zip(pushed, rows, ops):
        assert 1 << BY_OPCODE[row[R_OPCODE]].engine - LOAD == shown["engine"][at]
        assert [op[name] for name in ("opcode", "wait0", "wait1", "post0", "post1")] == row[:5]
        assert op["pc"] == row[R_PC]
        assert op["slots"] == row[R_SLOT:R_CONFIG]
        assert op["config"] == row[R_CONFIG : R_CONFIG + 8]
    assert [op["sequence"] for op in ops] == list(range(len(ops)))

    # The instruction that ends it is the tail-th after the last operation; it shows a cycle later.
    last = (int(executed[-1]) if len(rows) else -1) + tail if tail is not None else len(works)
    ended = np.arange(len(stall)) > (works[last] if last < len(works) else len(stall))
    np.testing.assert_array_equal(shown["halted"], ended & (fault is None))
    record = {"valid": 0, "cause": 0, "pc": 0}
    if fault is not None:
        record = {"valid": 1, "cause": fault[0], "pc": fault[1]}
    given = [int(row[0]) | int(row[1]) << 32 for row in shown["fault"]]
    value = CONTROL_FAULT.const(record).as_value().value
    assert given == [value if one else 0 for one in ended]


def outcomes(sim, launches):
    """Launches one after the other on the same hardware, each checked."""
    inputs = {name: np.concatenate([one[0][name] for one in launches]) for name in launches[0][0]}
    shown = sim.run(**inputs)
    at = 0
    for rows, stall, *wanted in launches:
        at += len(rows["run"])
        check(
            {name: column[at - len(stall) : at] for name, column in shown.items()}, stall, *wanted
        )


def one_launch(rng, code, parameters, *, stalls=0.2, **names):
    stall = rng.random(LIMIT) < stalls
    ids = {"core_id": int(rng.integers(4)), "cores": 4} | names
    return launch(code, parameters, stall, **ids), stall, *expected(code, parameters, **ids)


def test_random_programs(sim, rng, monkeypatch):
    """Rows, cycles, halts and faults of programs that follow each other, with random stalls."""
    monkeypatch.setattr(control, "WATCHDOG_STEPS", LIMIT)
    seen = {}
    for _block in range(12):
        launches = []
        for _ in range(40):
            words = [random_word(rng) for _ in range(int(rng.integers(1, 40)))]
            parameters = rng.integers(-(1 << 31), 1 << 31, 11).tolist()
            stalls = float(rng.choice([0, 0.2, 0.7]))
            launches.append(one_launch(rng, encode([*words, HALT]), parameters, stalls=stalls))
            _, _, rows, fault, tail = launches[-1]
            kind = fault[0] if fault else "halt" if tail else "long"
            seen[kind] = seen.get(kind, 0) + 1
            seen["rows"] = seen.get("rows", 0) + len(rows)
        outcomes(sim, launches)
    assert set(seen) >= {1, 8, 9, "halt", "long"}
    assert min(seen.values()) > 5, seen
    assert seen["rows"] > 3000


@pytest.mark.parametrize(
    "text",
    [
        "loop 3 2\nloop 2 1\nlsync\nhalt",  # both bodies end at one instruction
        "loop 2 4\nloop 2 3\nloop 2 2\nloop 2 1\nlsync\nhalt",
        "loop 2 5\nloop 2 4\nloop 2 3\nloop 2 2\nloop 2 1\nlsync\nhalt",  # a fifth level
        "loop 3 3\nlsync\nloop 0 1\nssync\nhalt",  # the skipped body ends the outer one
        "loop 2 2\nlsync\nloop 2 2\nssync\nmsync\nvsync\nhalt",  # LOOP is a body's last
        "loop 0 9\nlsync\nhalt",  # skips past the end
        "li r9 0x7fffffff\nloop 0 r9\nlsync\nhalt",  # farther than a pc has bits
        "li r9 0x7fffffff\nloop 2 r9\nlsync\nhalt",
        "loop 2 0\nhalt",
        "li r9 -1\nloop r9 r9\nhalt",
        "li r0 7\nadd r5 r0 3\nvcfg r5 r1 r2 4 5 6 7\nvew r5 r0 r1 r2 4 5 6 7\nhalt",
        "li r1 7\nvew r1 r2 r3 1 1 1 1 1\nhalt",
        "ldp r5 2047\nhalt",
        "ldp r5 2\nldp r6 3\nhalt",
        "lsync",
        "halt",
    ],
)
def test_corners(sim, rng, text):
    outcomes(sim, [one_launch(rng, assemble(text), [5, -6, 7], stalls=s) for s in (0, 0.5)])


def test_every_instruction_of_control(sim, rng):
    """Each ALU operation on corner values, immediates and registers."""
    corner = [0, 1, -1, 31, 32, 2047, -(1 << 31), (1 << 31) - 1, 0x1234_5678]
    names = ("add", "sub", "mul", "min", "max", "shr", "and", "shl")
    lines = [f"{name} r{6 + i} r4 r5\n{name} r{14 + i} r4 33" for i, name in enumerate(names)]
    lines += ["vew r6 r7 r8 r9 r10 r11 r12 r13", "vew r14 r15 r16 r17 r18 r19 r20 r21"]
    text = ["\n".join([f"li r4 {a}", f"li r5 {b}", *lines]) for a in corner for b in corner]
    launches = []
    for at in range(0, len(text), 20):
        code = assemble("\n".join(text[at : at + 20]) + "\nhalt")
        assert len(code) < IMEM_WORDS
        launches.append(one_launch(rng, code, [], stalls=0))
    outcomes(sim, launches)


def test_parameters_end_with_their_memory(sim, rng):
    values = rng.integers(-(1 << 31), 1 << 31, PARAMETERS).tolist()
    code = assemble("ldp r5 r1\nvew r5 1 2 3 4 5 6 7\nhalt")
    for core_id in (0, PARAMETERS - 1, PARAMETERS):
        outcomes(sim, [one_launch(rng, code, values, core_id=core_id)])
    short = one_launch(rng, code, values[:6], core_id=6)
    assert short[3] == (9, 0)
    outcomes(sim, [short])
    # A count past the memory's size is the memory's size.
    rows, stall, *wanted = one_launch(rng, code, values, core_id=PARAMETERS)
    rows["parameter_count"][:] = PARAMETERS + 5
    outcomes(sim, [(rows, stall, *wanted)])


def test_a_doorbell_begins_anew(sim, rng):
    """One cycle without `run` is enough, wherever the program was."""
    code = assemble("li r3 5\nloop 9 3\nadd r4 r4 r3\nlcfg r4 r3 1 2 3 4 0\nlsync\nhalt")
    rows, _, *wanted = one_launch(rng, code, [])
    first = int(np.argmax(rows["run"]))
    for cut in (1, 2, 7, 8, 20, 200):
        run = {name: column[: first + cut + 1 + LIMIT].copy() for name, column in rows.items()}
        run = {name: np.concatenate([column, np.repeat(column[-1:], cut + 1, axis=0)])
               for name, column in rows.items()}  # fmt: skip
        run["stall"] = np.arange(len(run["run"])) < first
        run["run"][first + cut] = 0
        shown = sim.run(**run)
        tail = {name: column[first + cut + 1 :] for name, column in shown.items()}
        check(tail, np.zeros(LIMIT), *wanted)
