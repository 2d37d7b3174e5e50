"""Native CONTROL == isa.control.resolve: random programs, nested loops, every fault, watchdog."""

from __future__ import annotations

import numpy as np
import pytest

from mellivora.isa import BY_NAME, TABLE, Fault, Word, assemble, control, encode, resolve
from mellivora.isa.encoding import PARAMETERS, wide_slots
from mellivora.sim.expand import expand

ENGINE_OPCODES = [row.opcode for row in TABLE if row.engine]
ARITHMETIC = [
    BY_NAME[name].opcode for name in ("add", "sub", "mul", "min", "max", "shr", "and", "shl")
]


def random_word(rng: np.random.Generator) -> Word:
    """CONTROL instructions mostly; loops short and small; now and then something illegal."""
    raw = rng.integers(0, 1 << 12, 8)
    slots = tuple(int(slot) for slot in raw)
    links = tuple(int(s) for s in rng.integers(0, 64, 4))
    kind = rng.random()
    if kind < 0.35:
        return Word(int(rng.choice(ARITHMETIC)), *links, slots)
    if kind < 0.5:
        value = (
            int(rng.integers(-(1 << 31), 1 << 31))
            if rng.random() < 0.5
            else int(rng.integers(-2, 9))
        )
        return Word(BY_NAME["li"].opcode, *links, wide_slots(int(rng.integers(64)), value))
    if kind < 0.57:
        index = int(rng.integers(0, 12))
        return Word(BY_NAME["ldp"].opcode, *links, (slots[0], index, *slots[2:]))
    if kind < 0.72:
        length = int(rng.integers(1, 9)) if rng.random() < 0.95 else 0
        count = int(rng.integers(0, 4)) if rng.random() < 0.9 else slots[0]
        return Word(BY_NAME["loop"].opcode, *links, (count, length, *slots[2:]))
    if kind < 0.8:
        name = str(rng.choice(["lcfg", "scfg", "mcfg", "vcfg", "nop"]))
        return Word(BY_NAME[name].opcode, *links, slots)
    if kind < 0.995:
        return Word(int(rng.choice(ENGINE_OPCODES)), *links, slots)
    return Word(int(rng.integers(256)), *links, slots)


def outcome(run: object, *args: object, **names: object) -> object:
    try:
        return run(*args, **names)  # type: ignore[operator]
    except Fault as fault:
        return fault.code, fault.given


def test_random_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "WATCHDOG_STEPS", 3000)
    rng = np.random.default_rng(5)
    seen: dict[str, int] = {}
    for _ in range(400):
        words = [random_word(rng) for _ in range(int(rng.integers(1, 40)))]
        code = encode([*words, Word(0, 0, 0, 0, 0, (0,) * 8)])
        parameters = rng.integers(-(1 << 31), 1 << 31, 11).astype(np.int32)
        names = {"core_id": int(rng.integers(4)), "cores": 4}
        wanted = outcome(resolve, code, parameters.tolist(), **names)
        given = outcome(expand, code, parameters, **names)
        if isinstance(wanted, tuple):
            assert given == wanted
            seen[wanted[0]] = seen.get(wanted[0], 0) + 1
        else:
            assert isinstance(given, np.ndarray)
            assert given.dtype == np.int64
            np.testing.assert_array_equal(given, wanted)
            seen["rows"] = seen.get("rows", 0) + (len(given) > 0)
    assert seen["rows"] > 100
    assert set(seen) >= {"MV0701", "MV0707", "MV0708", "MV0709"}


@pytest.mark.parametrize(
    "text",
    [
        "loop 3 2\nloop 2 1\nlsync\nhalt",  # both bodies end at one instruction
        "loop 2 4\nloop 2 3\nloop 2 2\nloop 2 1\nlsync\nhalt",
        "loop 2 5\nloop 2 4\nloop 2 3\nloop 2 2\nloop 2 1\nlsync\nhalt",  # a fifth level
        "loop 3 3\nlsync\nloop 0 1\nssync\nhalt",  # the skipped body ends the outer one
        "loop 0 9\nlsync\nhalt",  # skips past the end
        "loop 2 0\nhalt",
        "li r0 7\nadd r5 r0 3\nvcfg r5 r1 r2 4 5 6 7\nvew r5 r0 r1 r2 4 5 6 7\nhalt",
        "ldp r5 2047\nhalt",
        "lsync",
    ],
)
def test_corners(text: str) -> None:
    code = assemble(text)
    wanted = outcome(resolve, code, [], core_id=1, cores=3)
    given = outcome(expand, code, [], core_id=1, cores=3)
    if isinstance(wanted, tuple):
        assert given == wanted
    else:
        np.testing.assert_array_equal(given, wanted)


def test_parameters_end_with_their_memory() -> None:
    code = assemble("ldp r5 r1\nhalt")
    values = np.zeros(PARAMETERS + 5, np.int32)
    assert len(expand(code, values, core_id=PARAMETERS - 1)) == 0
    assert outcome(expand, code, values, core_id=PARAMETERS) == ("MV0709", str(PARAMETERS))
