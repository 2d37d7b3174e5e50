"""Compiled models on disk: round trips, keys, damage, forgetting; all in a folder of the test's
own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.tiny import IDS, tiny

from mellivora.errors import HostError, ProgramError
from mellivora.runtime import cache, device
from mellivora.runtime.cache import Executable
from mellivora.runtime.engine import Engine
from mellivora.runtime.llm import LLM


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path


def test_a_saved_program_computes_the_same_bits(tmp_path: Path) -> None:
    files = tiny().executable.save(tmp_path / "t.mvp")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.mvp", "t.safetensors"]
    assert files == [tmp_path / "t.mvp", tmp_path / "t.safetensors"]
    loaded = Executable.load(tmp_path / "t.mvp")
    assert np.array_equal(Engine(loaded).prefill(0, IDS), tiny().engine.prefill(0, IDS))
    for name in (
        "kv",
        "slots",
        "chunk",
        "rows_per_core",
        "logits_pitch",
        "vocab",
        "notes",
        "formats",
    ):
        assert json.dumps(getattr(loaded, name), default=vars) == json.dumps(
            getattr(tiny().executable, name), default=vars
        ), name


def test_safetensors_reads_the_weights(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    tiny().executable.save(tmp_path / "t.mvp")
    found = load_file(tmp_path / "t.safetensors")
    images = tiny().executable.images
    assert found.keys() == images.keys()
    assert all(np.array_equal(found[name], image) for name, image in images.items())


def test_nothing_is_left_where_saving_fails(tmp_path: Path) -> None:
    with pytest.raises(ProgramError) as caught:
        tiny().executable.save(tmp_path / "absent" / "t.mvp")
    assert caught.value.code == "MV0515"
    (tmp_path / "t.mvp").mkdir()  # the program cannot take this name, the weights could
    with pytest.raises(ProgramError):
        tiny().executable.save(tmp_path / "t.mvp")
    assert [path.name for path in tmp_path.iterdir()] == ["t.mvp"]


@pytest.mark.parametrize("size", [0, 7, 8, 100, 100_000])
def test_cut_weights_are_refused(tmp_path: Path, size: int) -> None:
    tiny().executable.save(tmp_path / "t.mvp")
    os.truncate(tmp_path / "t.safetensors", size)
    with pytest.raises(ProgramError) as caught:
        Executable.load(tmp_path / "t.mvp", verify=False)
    assert caught.value.code == "MV0521"


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    tiny().executable.save(tmp_path / "t.mvp")
    with (tmp_path / "t.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    with pytest.raises(ProgramError) as caught:
        Executable.load(tmp_path / "t.mvp")
    assert caught.value.code == "MV0522"


def test_the_second_start_compiles_nothing(folder: Path) -> None:
    options = {"max_batch": 2, "context": 256}
    first = LLM("tiny", **options)
    second = LLM("tiny", **options)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert not LLM("tiny", max_batch=1, context=256).from_cache
    assert not LLM("tiny", activations="x2", **options).from_cache
    assert not LLM("tiny", "micro", **options).from_cache
    assert np.array_equal(second.engine.prefill(0, IDS), first.engine.prefill(0, IDS))
    image = second.executable.images["decode"]
    assert not image.flags.writeable  # the file itself, mapped


def test_a_damaged_entry_is_made_again(folder: Path) -> None:
    LLM("tiny", max_batch=1, context=256)
    (program,) = (folder / "cache").rglob("*.mvp")
    program.write_bytes(program.read_bytes()[:-1])
    assert not LLM("tiny", max_batch=1, context=256).from_cache
    assert LLM("tiny", max_batch=1, context=256).from_cache


def test_a_cache_that_cannot_be_written_costs_time_only(folder: Path) -> None:
    (folder / "cache").write_text("a file where the folder should be")
    assert not LLM("tiny", max_batch=1, context=256).from_cache


def test_contents_make_the_key_not_times(folder: Path) -> None:
    path = folder / "model.gguf"
    path.write_bytes(b"one")
    first = cache.content_hash(path)
    os.utime(path, ns=(1, 1))
    assert cache.content_hash(path) == first
    path.write_bytes(b"two")  # as long, later
    assert cache.content_hash(path) != first
    with pytest.raises(HostError) as caught:
        cache.content_hash(folder / "absent.gguf")
    assert caught.value.code == "MV0912"


def test_what_was_unused_longest_is_forgotten_first(tmp_path: Path) -> None:
    entries = [tmp_path / name for name in ("old", "middle", "new")]
    for age, entry in enumerate(reversed(entries)):
        entry.mkdir()
        (entry / "file").write_bytes(bytes(100))
        os.utime(entry, (1000 - age, 1000 - age))
    cache._forget_oldest(entries[0], keep_bytes=200)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]  # old is in use


def test_notes_that_say_the_same_become_one() -> None:
    notes = ["a: float32 kept as x2", "alone", "b: float32 kept as x2", "c: other"]
    assert cache.condensed(notes) == ["a and 1 more: float32 kept as x2", "alone", "c: other"]


def test_memory_is_checked_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_available_bytes", lambda: 1 << 20)
    engine = Engine(tiny().executable)
    with pytest.raises(HostError) as caught:
        engine.prefill(0, IDS)
    assert caught.value.code == "MV0910"
    assert measure_works(engine)  # timing needs none of it


def measure_works(engine: Engine) -> bool:
    return engine.device.timing("decode", engine.decode_settings([(0, 0, 0)])).cycles > 0
