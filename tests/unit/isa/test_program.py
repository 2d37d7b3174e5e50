"""Program files: what is saved comes back, what is wrong is refused with a reason."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mellivora.errors import ProgramError
from mellivora.isa import TABLE, assemble, encode, unpack
from mellivora.isa.legal import check_code
from mellivora.isa.program import Entry, Program, WeightsReference, Window
from mellivora.isa.program_file import MAGIC, PREFIX_BYTES, from_bytes, to_bytes
from mellivora.spec import load_chip

NANO, MICRO = load_chip("nano"), load_chip("micro")
CRASHERS = Path(__file__).parents[2] / "crashers"


def sample(**changes: Any) -> Program:
    code = assemble("li r5 -4\nldp r6 1\nloop r6 2\nload 0 r5 0 0 64 1 1 1 !3\nmsync ?3\nhalt")
    entries = {
        "prefill": Entry(
            code,
            [(0, 6, "layer 0", "layer"), (3, 4, "weights", "load")],
            {"rows": 1, "position": 2},
            np.array([[-7]], np.int32),
            [{"rows": 1}, {"rows": 512, "position": -3}],
        ),
        "decode": Entry(assemble("halt")),
    }
    windows = [
        Window("weights", 8192, False, "weights", (("a.weight", 0), ("b.weight", 4096))),
        Window("kv", 5000, True, "kv"),
        Window("io", 64, True, "io"),
    ]
    weights = WeightsReference("model.safetensors", "0" * 64, 123)
    program = Program(
        "tiny", NANO, entries, windows, {"model": "tiny", "layers": [1, 2.5, None]}, weights
    )
    for name, value in changes.items():
        setattr(program, name, value)
    return program


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.mvp"
    sample().save(path)
    assert Program.load(path) == sample()
    assert Program.load(path, chip=NANO.replace(name="renamed")) == sample()
    assert [p.name for p in tmp_path.iterdir()] == ["a.mvp"]
    assert to_bytes(Program.load(path)) == path.read_bytes()


def test_equality_sees_every_part() -> None:
    base = sample()
    different: list[Callable[[Program], Any]] = [
        lambda p: setattr(p, "name", "other"),
        lambda p: setattr(p, "chip", MICRO),
        lambda p: setattr(p, "weights", None),
        lambda p: p.windows.pop(),
        lambda p: p.meta.pop("model"),
        lambda p: p.entries.pop("decode"),
        lambda p: p.entries["prefill"].symbols.pop(),
        lambda p: p.entries["prefill"].parameters.pop("rows"),
        lambda p: p.entries["prefill"].check_points.pop(),
        lambda p: p.entries["prefill"].code.__setitem__((0, 0), 1),
        lambda p: p.entries["prefill"].core_constants.__setitem__((0, 0), 1),
    ]
    for change in different:
        other = sample()
        assert other == base
        change(other)
        assert other != base


def test_parameter_memory() -> None:
    entry = sample().entries["prefill"]
    assert entry.parameter_memory(0, {}) == [-7, 0, 0]
    assert entry.parameter_memory(0, {"position": 1 << 31}) == [-7, 0, -(1 << 31)]
    with pytest.raises(ProgramError) as caught:
        entry.parameter_memory(0, {"positon": 1})
    assert (caught.value.code, caught.value.allowed) == ("MV0530", "rows, position")


def test_labels_are_of_the_innermost_symbol() -> None:
    entry = sample().entries["prefill"]
    assert [entry.label(pc) for pc in (0, 3, 4, 6)] == ["layer 0", "weights", "layer 0", ""]


def test_placement_is_aligned() -> None:
    assert sample().placement() == [(0, 8192), (8192, 5000), (16384, 64)]


def _entry(**changes: Any) -> dict[str, Entry]:
    entry = sample().entries["prefill"]
    for name, value in changes.items():
        setattr(entry, name, value)
    return {"prefill": entry}


def _windows(**changes: Any) -> list[Window]:
    facts = {"name": "w", "bytes": 64, "writable": True, "role": "io"} | changes
    return [Window(**facts)]


CODE = assemble("halt")
UNLAWFUL: dict[str, tuple[str, dict[str, Any]]] = {
    "no name": ("MV0508", {"name": ""}),
    "name with a newline": ("MV0508", {"name": "a\nb"}),
    "no entries": ("MV0508", {"entries": {}}),
    "role": ("MV0508", {"windows": _windows(role="code")}),
    "negative window": ("MV0508", {"windows": _windows(bytes=-1)}),
    "window twice": ("MV0508", {"windows": _windows() * 2}),
    "tensor past the window": ("MV0508", {"windows": _windows(tensors=(("t", 64),))}),
    "tensors without weights": (
        "MV0508",
        {"windows": _windows(tensors=(("t", 0),)), "weights": None},
    ),
    "weights in another folder": ("MV0508", {"weights": WeightsReference("../w", "0" * 64, 1)}),
    "weights with a bad hash": ("MV0508", {"weights": WeightsReference("w", "0" * 63, 1)}),
    "windows larger than DRAM": ("MV0512", {"windows": _windows(bytes=NANO.dram_bytes + 1)}),
    "too many windows": (
        "MV0512",
        {"windows": [Window(str(i), 1, True, "io") for i in range(NANO.windows + 1)]},
    ),
    "float constants": ("MV0513", {"entries": _entry(core_constants=np.zeros((1, 1)))}),
    "constants of two cores": (
        "MV0513",
        {"entries": _entry(core_constants=np.zeros((2, 1), np.int32))},
    ),
    "parameter in the constants": ("MV0513", {"entries": _entry(parameters={"rows": 0})}),
    "parameter past the memory": ("MV0513", {"entries": _entry(parameters={"rows": 2048})}),
    "parameters at one index": (
        "MV0513",
        {"entries": _entry(parameters={"rows": 1, "position": 1})},
    ),
    "check point of no parameter": ("MV0513", {"entries": _entry(check_points=[{"x": 1}])}),
    "check point of 33 bits": ("MV0513", {"entries": _entry(check_points=[{"rows": 1 << 31}])}),
    "symbol past the code": ("MV0513", {"entries": _entry(symbols=[(0, 7, "a", "b")])}),
    "code of one column": ("MV0523", {"entries": {"e": Entry(np.zeros((3, 1), np.uint64))}}),
    "signed code": ("MV0523", {"entries": {"e": Entry(CODE.astype(np.int64))}}),  # type: ignore[arg-type]
    "meta that JSON has not": ("MV0519", {"meta": {"x": {1, 2}}}),
}


@pytest.mark.parametrize("name", UNLAWFUL)
def test_unlawful_programs_are_not_written(name: str, tmp_path: Path) -> None:
    code, changes = UNLAWFUL[name]
    with pytest.raises(ProgramError) as caught:
        sample(**changes).save(tmp_path / "a.mvp")
    assert caught.value.code == code
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "word",
    [
        0x7F,  # no such opcode
        0x40 | 0xC00 << 116,  # slot 7 of matmul: a register with a stray bit
        0x01 | 1 << 32,  # nop has no slots
        0x04 | 1 << 32,  # the destination of add is not a register
        0x20 | (0x800 | 64) << 32,  # register 64
        0x00 | 1 << 8,  # halt waits
        0x02 | (0x800 | 5) << 32 | 0x100 << 68,  # li of 33 bits
    ],
)
def test_words_that_are_no_instruction(word: int) -> None:
    with pytest.raises(ProgramError) as caught:
        check_code(np.concatenate([CODE, encode([unpack(word)])]), NANO)
    assert caught.value.code == "MV0511"
    assert "pc 1" in caught.value.where


def test_small_chips_have_fewer_registers_and_semaphores() -> None:
    check_code(
        assemble("lsync ?7 !6\nli r7 1\nadd r7 r6 r5"),
        NANO.replace(semaphores=8, scalar_registers=8),
    )
    for text in ("lsync ?8", "lsync !8", "add r1 r2 r8", "li r8 0"):
        with pytest.raises(ProgramError):
            check_code(assemble(text), NANO.replace(semaphores=8, scalar_registers=8))


def test_every_instruction_is_legal() -> None:
    for row in TABLE:
        slots = ["r9" if s == "rd" else "7" for s in row.slots]
        links = "" if row.engine == 0 else " ?1 ?2 !3 !4"
        check_code(assemble(" ".join([row.name, *slots]) + links), NANO)


# ---------------------------------------------------------------------- damaged files


def _rehashed(header: bytes, sections: bytes) -> bytes:
    """A file whose header hash is right, as a hostile writer would make it."""
    size = len(header).to_bytes(4, "little")
    return (
        MAGIC
        + (1).to_bytes(4, "little")
        + size
        + hashlib.sha256(header).digest()
        + header
        + sections
    )


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    end = PREFIX_BYTES + int.from_bytes(data[12:16], "little")
    return json.loads(data[PREFIX_BYTES:end]), data[end:]


def _edited(edit: Callable[[dict[str, Any]], Any]) -> bytes:
    header, sections = _parts(to_bytes(sample()))
    edit(header)
    return _rehashed(json.dumps(header).encode(), sections)


GOOD = to_bytes(sample())
DAMAGED: dict[str, tuple[str, bytes]] = {
    "empty": ("MV0502", b""),
    "another kind of file": ("MV0502", b"GGUF" + b"\0" * 100),
    "newer version": ("MV0503", GOOD[:8] + (2).to_bytes(4, "little") + GOOD[12:]),
    "cut in the prefix": ("MV0504", GOOD[:40]),
    "cut in the header": ("MV0504", GOOD[:200]),
    "cut in the last section": ("MV0504", GOOD[:-1]),
    "longer": ("MV0504", GOOD + b"\0"),
    "header of four gigabytes": ("MV0504", GOOD[:12] + b"\xff" * 4 + GOOD[16:]),
    "one bit of the header": ("MV0505", GOOD[:100] + bytes([GOOD[100] ^ 1]) + GOOD[101:]),
    "one bit of the code": ("MV0505", GOOD[:-1] + bytes([GOOD[-1] ^ 1])),
    "header without length": ("MV0506", GOOD[:12] + b"\0" * 4 + GOOD[16:]),
    "not JSON": ("MV0506", _rehashed(b"{]", b"")),
    "a key twice": ("MV0506", _rehashed(b'{"name":1,"name":2}', b"")),
    "infinity": ("MV0506", _rehashed(b'{"name":1e999}', b"")),
    "nested without end": ("MV0506", _rehashed(b"[" * 100_000, b"")),
    "a number without end": ("MV0506", _rehashed(b"9" * 10_000, b"")),
    "a list": ("MV0507", _rehashed(b"[]", b"")),
    "unknown key": ("MV0507", _edited(lambda h: h.update(extra=1))),
    "key missing": ("MV0507", _edited(lambda h: h.pop("windows"))),
    "text for a number": ("MV0507", _edited(lambda h: h["windows"][0].update(bytes="1"))),
    "true for a number": ("MV0507", _edited(lambda h: h["windows"][0].update(bytes=True))),
    "number for a flag": ("MV0507", _edited(lambda h: h["windows"][0].update(writable=1))),
    "huge number": ("MV0518", _edited(lambda h: h["windows"][0].update(bytes=1 << 70))),
    "negative shape": (
        "MV0518",
        _edited(lambda h: h["entries"]["decode"]["code"].update(shape=[-1, 2])),
    ),
    "shape of exabytes": (
        "MV0504",
        _edited(lambda h: h["entries"]["decode"]["code"].update(shape=[1 << 60, 2])),
    ),
    "rows of nothing": (
        "MV0518",
        _edited(lambda h: h["entries"]["decode"]["core_constants"].update(shape=[1 << 60, 0])),
    ),
    "chip key": ("MV0509", _edited(lambda h: h["chip"].update(cpus=1))),
    "chip value": ("MV0509", _edited(lambda h: h["chip"].update(columns=7))),
    "fingerprint": ("MV0509", _edited(lambda h: h.update(fingerprint="0" * 64))),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    code, data = DAMAGED[name]
    path = tmp_path / "a.mvp"
    path.write_bytes(data)
    with pytest.raises(ProgramError) as caught:
        Program.load(path)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.hint


def test_for_another_chip(tmp_path: Path) -> None:
    sample().save(tmp_path / "a.mvp")
    with pytest.raises(ProgramError) as caught:
        Program.load(tmp_path / "a.mvp", chip=MICRO)
    assert (caught.value.code, caught.value.hint) == ("MV0510", "compile it for micro")


def test_unreadable_and_unwritable(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.mvp"):
        with pytest.raises(ProgramError) as caught:
            Program.load(path)
        assert caught.value.code == "MV0501"
    with pytest.raises(ProgramError) as caught:
        sample().save(tmp_path / "absent" / "a.mvp")
    assert caught.value.code == "MV0514"
    (tmp_path / "taken").mkdir()
    with pytest.raises(ProgramError):
        sample().save(tmp_path / "taken")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_weights_beside(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"1234")
    reference, program = WeightsReference.of(file), tmp_path / "a.mvp"
    assert reference.beside(program) == file
    file.write_bytes(b"1235")
    assert reference.beside(program, verify=False) == file
    for code, contents in (("MV0522", b"1235"), ("MV0521", b"12345"), ("MV0520", None)):
        file.unlink() if contents is None else file.write_bytes(contents)
        with pytest.raises(ProgramError) as caught:
            reference.beside(program)
        assert caught.value.code == code
    with pytest.raises(ProgramError):
        WeightsReference.of(file)


# ---------------------------------------------------------------------- fuzzing

HOSTILE: list[Any] = [
    *(None, True, -1, 0, 1, 2048, 1 << 31, 1 << 63, 10**30, 0.5, 1e300, "", "x", "/", "\ud800"),
    *("\0", "a" * 300, [], {}, [[]], [0, 1, "a", "b"], {"a": 1}, [-1, 2], [1 << 40, 1 << 40]),
]


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [at] * bool(at) + [p for key, v in inner for p in _paths(v, (*at, key))]


def _json_edit(pick: random.Random, data: bytes) -> bytes:
    """One to three values of the header replaced, removed, moved or doubled; hashes renewed."""
    header, sections = _parts(data)
    for _ in range(pick.randint(1, 3)):
        paths = _paths(header)
        if not paths:
            break
        *way, last = pick.choice(paths)
        place: Any = header
        for key in way:
            place = place[key]
        action = pick.randrange(4)
        if action == 0:
            del place[last]
        elif action == 1 and isinstance(place, dict):
            place[pick.choice(["", "x", "bytes", "rows"])] = copy.deepcopy(place[last])
        elif action == 2 and isinstance(place[last], int):
            place[last] += pick.choice([-1, 1, 8, -4096])
        else:
            place[last] = copy.deepcopy(pick.choice(HOSTILE))
    if pick.random() < 0.3:
        sections = bytes(b ^ (pick.random() < 0.1) << pick.randrange(8) for b in sections)
        sections = sections[: pick.choice([len(sections), pick.randint(0, len(sections))])]
        at = 0
        for entry in header["entries"].values() if isinstance(header.get("entries"), dict) else ():
            for kind, item in (("code", 8), ("core_constants", 4)):
                try:
                    rows, columns = entry[kind]["shape"]
                    size = rows * columns * item
                    entry[kind]["sha256"] = hashlib.sha256(sections[at : at + size]).hexdigest()
                    at += size
                except (TypeError, KeyError, ValueError, OverflowError):
                    pass
    return _rehashed(json.dumps(header).encode(), sections)


def _mutant(pick: random.Random) -> tuple[bytes, bool]:
    """(bytes, whether their hashes were renewed: only such a file may be another program)."""
    data = bytearray(GOOD)
    kind = pick.randrange(5)
    if kind == 0:
        for _ in range(pick.randint(1, 8)):
            data[pick.randrange(len(data))] ^= 1 << pick.randrange(8)
    elif kind == 1:
        del data[pick.randrange(len(data)) :]
    elif kind == 2:  # a piece of the file, or of nothing, put somewhere else
        a, b, size = pick.randrange(len(data)), pick.randrange(len(data)), pick.randint(1, 64)
        piece = data[a : a + size] if pick.random() < 0.7 else pick.randbytes(size)
        data[b : b + pick.choice([0, size])] = piece
    else:
        return _json_edit(pick, GOOD), True
    return bytes(data), False


def _examine(data: bytes, *, original: bool) -> None:
    """Refused with a coded reason, or a lawful program that survives saving."""
    program = _loaded(data)
    if isinstance(program, ProgramError):
        assert program.code.startswith("MV05")
        assert program.hint
        assert str(program)
        return
    assert from_bytes(to_bytes(program)) == program
    assert not original or program == sample()


def _loaded(data: bytes) -> Program | ProgramError:
    try:
        return from_bytes(data)
    except ProgramError as error:
        return error


@pytest.mark.parametrize("shard", range(4))
def test_ten_thousand_mutants(shard: int) -> None:
    """2,500 a shard. What crashes is kept: `tests/crashers` only grows."""
    pick, start, renewed_loads = random.Random(shard), time.process_time(), 0
    for _ in range(2500):
        data, renewed = _mutant(pick)
        try:
            _examine(data, original=not renewed)
        except Exception:
            name = f"program-{hashlib.sha256(data).hexdigest()[:12]}.mvp"
            (CRASHERS / name).write_bytes(data)
            raise
        renewed_loads += renewed and isinstance(_loaded(data), Program)
    assert renewed_loads > 20, "the mutants never get past the first checks"
    assert time.process_time() - start < 30


@pytest.mark.parametrize("path", sorted(CRASHERS.glob("program-*.mvp")), ids=lambda path: path.stem)
def test_crashers(path: Path) -> None:
    _examine(path.read_bytes(), original=False)
