"""The checker: a small broken program for each rule with its message, and programs that are right.

check_cases/NAME.asm has the text of each core, divided by `===`; NAME.txt is the whole message, or
"proven". After a change that is meant: `UPDATE_SNAPSHOTS=1 python -m pytest tests/unit/isa`, then
read the difference.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from mellivora.errors import IsaError
from mellivora.isa import assemble, resolve
from mellivora.isa.check import CheckReport, check, check_program
from mellivora.isa.encoding import R_POST0, R_POST1, R_WAIT0, R_WAIT1, SEMAPHORE_MAX
from mellivora.isa.program import Entry, Program, Window
from mellivora.spec import load_chip

NANO = load_chip("nano")
WINDOWS = [Window("weights", 4096, False, "weights"), Window("io", 4096, True, "io")]
CASES = sorted((Path(__file__).parent / "check_cases").glob("*.asm"))
ALL_CODES = {f"MV06{number}" for number in range(11, 28) if number != 25}


def prove(text: str, **changes: int) -> CheckReport:
    """Check the text of each core."""
    texts = text.split("===")
    rows = []
    for core, one in enumerate(texts):
        lines = one.splitlines()[1:] if core else one.splitlines()
        rows.append(resolve(assemble("\n".join(lines)), [], core_id=core, cores=len(texts)))
    return check(rows, NANO.replace(cores=len(texts), **changes), WINDOWS)


def verdict(text: str) -> str:
    try:
        prove(text)
    except IsaError as error:
        return str(error)
    return "proven"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_message(path: Path) -> None:
    found = verdict(path.read_text("utf-8")) + "\n"
    expected = path.with_suffix(".txt")
    if os.environ.get("UPDATE_SNAPSHOTS"):
        expected.write_text(found, "utf-8")
    assert found == expected.read_text("utf-8")
    assert (found == "proven\n") == path.stem.startswith("good")


def test_every_rule_has_a_case() -> None:
    texts = "".join(path.with_suffix(".txt").read_text("utf-8") for path in CASES)
    assert {code for code in ALL_CODES if code not in texts} == set()


def test_labels_are_in_the_message() -> None:
    rows = resolve(assemble("vsync ?1\nhalt"), [])
    with pytest.raises(IsaError) as caught:
        check([rows], NANO, WINDOWS, labels=lambda pc: f"layer 3, pc {pc}")
    assert "(layer 3, pc 0)" in str(caught.value)


def test_rows_must_be_rows() -> None:
    with pytest.raises(IsaError, match="not resolved rows") as caught:
        check([np.zeros((3, 5), np.int64)], NANO, WINDOWS)
    assert caught.value.code == "MV0610"


@pytest.mark.parametrize(("posts", "good"), [(SEMAPHORE_MAX, True), (SEMAPHORE_MAX + 1, False)])
def test_overflow_is_exact(posts: int, good: bool) -> None:
    text = f"li r5 {posts}\nloop r5 1\nlsync !1\nloop r5 1\nvsync ?1\nhalt"
    assert (verdict(text) == "proven") == good


def test_overflow_counts_any_schedule() -> None:
    """The waits come early in program order, but nothing makes VECTOR keep up with LOAD."""
    text = "li r5 300\nloop r5 2\nlsync !1\nvsync ?1\nhalt"
    assert "can overflow" in verdict(text)
    credit = "vsync !2\nli r5 300\nloop r5 2\nlsync ?2 !1\nvsync ?1 !2\nlsync ?2\nhalt"
    report = prove(credit)
    assert report.semaphores[0, 1].bound == 1
    assert (report.semaphores[0, 1].producer, report.semaphores[0, 1].consumer) == (
        "LOAD",
        "VECTOR",
    )


def test_report() -> None:
    report = prove((Path(__file__).parent / "check_cases" / "good_matmul.asm").read_text("utf-8"))
    assert report.rows == 7
    assert report.scratchpad_bytes == 1536 + 128
    assert report.accumulator_bytes == 4 * 8 * 4


GOOD = [path for path in CASES if path.stem.startswith("good")]


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_no_link_can_be_left_out(path: Path) -> None:
    """Without any one wait, or any one post, the program is refused: each has a reason."""
    lines = path.read_text("utf-8").splitlines()
    left_out = 0
    for at, line in enumerate(lines):
        parts = line.split(";")[0].split()
        for part in parts:
            if part[0] not in "?!":
                continue
            less = " ".join(p for p in parts if p is not part)
            assert verdict("\n".join([*lines[:at], less, *lines[at + 1 :]])) != "proven", (at, part)
            left_out += 1
    assert left_out


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_wait_and_its_post_left_out_together_race(path: Path) -> None:
    """The counts still match, so only the race can show. Credits given ahead may go without one."""
    text = path.read_text("utf-8")
    for semaphore in {
        p for line in text.splitlines() for p in line.split(";")[0].split() if p[0] == "?"
    }:
        without = text.replace(semaphore, "").replace("!" + semaphore[1:], "")
        assert any(code in verdict(without) for code in ("MV0622", "MV0623", "MV0624")), semaphore


def test_check_program() -> None:
    code = assemble("ldp r5 1\nloop r5 1\nload 0 0 0 0 64 1 1 1\nhalt")
    entry = Entry(
        code, [(0, 4, "all", "test")], {"tiles": 1}, np.array([[7]], np.int32), [{"tiles": 3}]
    )
    program = Program("p", NANO, {"run": entry}, WINDOWS)
    assert [report.rows for report in check_program(program)["run"]] == [3]
    entry.code = assemble("ldp r5 2\nhalt")
    with pytest.raises(IsaError, match="CONTROL faults") as caught:
        check_program(program)
    assert caught.value.code == "MV0625"


# --------------------------------------------- random programs, against a brute-force oracle


def _random_program(pick: random.Random) -> str:
    """A random legal text: operations on eight slots of 32 bytes, joined by enough semaphores.

    One semaphore for each pair of engines: before an operation that clashes with an earlier one of
    another engine, that engine posts and this one waits.
    """
    count = pick.randint(4, 14)
    operations: list[tuple[str, str, set[int], set[int]]] = []
    written: set[int] = set()
    for _ in range(count):
        kind = pick.choice(["l", "v", "s"]) if written else "l"
        if kind == "l":
            slot = pick.randrange(8)
            operations.append(("l", f"load 0 0 0 {32 * slot} 32 1 1 1", set(), {slot}))
            written.add(slot)
        elif kind == "v":
            a, slot = pick.choice(sorted(written)), pick.randrange(8)
            operations.append(("v", f"vew {32 * slot} {32 * a} 0 0 1 8 0 0", {a}, {slot}))
            written.add(slot)
        else:
            a = pick.choice(sorted(written))
            operations.append(("s", f"store 1 0 0 {32 * a} 32 1 1 1", {a}, set()))
    lines: list[str] = []
    pairs = {pair: i + 1 for i, pair in enumerate(["lv", "vl", "ls", "sl", "vs", "sv"])}
    for at, (engine, text, reads, writes) in enumerate(operations):
        for other in "lvs":
            for before in range(at - 1, -1, -1):
                name, _, their_reads, their_writes = operations[before]
                clash = writes & (their_reads | their_writes) or reads & their_writes
                if name == other != engine and clash:
                    sync = {"l": "lsync", "v": "vsync", "s": "ssync"}
                    semaphore = pairs[other + engine]
                    lines += [f"{sync[other]} !{semaphore}", f"{sync[engine]} ?{semaphore}"]
                    break
        lines.append(text)
    return "vcfg 32 32 32 32 0 0 0\n" + "\n".join(lines) + "\nhalt"


def _races_by_closure(text: str) -> bool:
    """The oracle: closure of order in an engine and k-th post before k-th wait; then all pairs."""
    rows = resolve(assemble(text), []).tolist()
    count = len(rows)
    after = np.zeros((count, count), bool)
    engines = [row[0] >> 4 for row in rows]
    for semaphore in range(1, 64):
        posts = [i for i, r in enumerate(rows) for s in r[R_POST0 : R_POST1 + 1] if s == semaphore]
        waits = [i for i, r in enumerate(rows) for s in r[R_WAIT0 : R_WAIT1 + 1] if s == semaphore]
        for post, wait in zip(posts, waits, strict=True):
            after[post, wait] = True
    for i in range(count):
        for j in range(i):
            after[j, i] |= engines[i] == engines[j]
    for k in range(count):
        after |= after[:, k : k + 1] & after[k : k + 1, :]
    touched = [_slots_of(row) for row in rows]
    for i in range(count):
        for j in range(i):
            (ri, wi), (rj, wj) = touched[i], touched[j]
            if (wi & (rj | wj) or ri & wj) and not after[j, i]:
                return True
    return False


def _slots_of(row: list[int]) -> tuple[set[int], set[int]]:
    opcode, slots = row[0], row[7:15]
    if opcode == 0x20:
        return set(), {slots[3] // 32}
    if opcode == 0x30:
        return {slots[3] // 32}, set()
    return ({slots[1] // 32}, {slots[0] // 32}) if opcode == 0x50 else (set(), set())


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_and_their_mutants(seed: int) -> None:
    text = _random_program(random.Random(seed))
    assert verdict(text) == "proven", text
    assert not _races_by_closure(text)
    lines = text.splitlines()
    for at in range(len(lines) - 1):
        if "!" in lines[at]:  # the post and the wait after it are left out together
            mutant = "\n".join(lines[:at] + lines[at + 2 :])
            assert (verdict(mutant) != "proven") == _races_by_closure(mutant), mutant


def test_speed() -> None:
    """Ten thousand rows a second is what compiling needs; measured 90 thousand."""
    import time

    text = (Path(__file__).parent / "check_cases" / "good_double_buffer.asm").read_text("utf-8")
    rows = resolve(
        assemble(text.replace("li r5 8", "li r5 2000").replace("load 0 r6", "load 0 0")), []
    )
    start = time.process_time()
    check([rows], NANO, WINDOWS)
    assert len(rows) / (time.process_time() - start) > 10_000
