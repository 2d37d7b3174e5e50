"""run, bench, eval, compile on the small model: what they print, what they return, what they
write.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from mellivora import cli
from mellivora.runtime import cache
from mellivora.runtime.cache import Executable

HELD_OUT = Path(__file__).parents[1] / "torch" / "data" / "tiny_held_out.txt"
SHORT = ["--max-new-tokens", "12"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(cache, "cache_dir", lambda: folder)


def facts_of(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> dict[str, Any]:
    """The object that --json prints, alone on stdout."""
    assert cli.main([*words, "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_run_streams_text_then_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "tiny", "ROMEO:\n", *SHORT]) == 0
    shown = capsys.readouterr().out
    facts = facts_of(capsys, "run", "tiny", "ROMEO:\n", *SHORT)
    assert shown.startswith(facts["text"] + "\n")
    for word in ("on the chip", "first token after", "energy a token", "roof", "MATRIX", "linear"):
        assert word in shown, word
    assert facts["tokens"] == 12
    assert facts["off_chip_operators"] == []
    assert facts["tokens_per_s"] == facts["phases"]["decode"]["tokens_per_s"] > 0
    assert facts["first_token_seconds"] == facts["phases"]["prefill"]["seconds"] > 0
    assert 0 < facts["phases"]["decode"]["roof"]["fraction"] <= 1


def test_run_reads_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    want = facts_of(capsys, "run", "tiny", "My lord", *SHORT)["text"]
    monkeypatch.setattr("sys.stdin", io.StringIO("My lord"))
    assert facts_of(capsys, "run", "tiny", *SHORT)["text"] == want


def test_the_chip_and_the_batch_do_not_change_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    want = facts_of(capsys, "run", "tiny", "My lord", *SHORT)["text"]
    assert facts_of(capsys, "run", "tiny", "My lord", *SHORT, "--chip", "nano")["text"] == want
    assert facts_of(capsys, "run", "tiny", "My lord", *SHORT, "--cores", "3")["text"] == want
    batch = facts_of(capsys, "run", "tiny", "My lord", *SHORT, "--batch", "3")
    assert batch["texts"] == [want] * 3


def test_a_seed_gives_the_same_text_again(capsys: pytest.CaptureFixture[str]) -> None:
    drawn = ["run", "tiny", "My lord", *SHORT, "--temperature", "1", "--seed"]
    one, again, other = (facts_of(capsys, *drawn, seed)["text"] for seed in ("5", "5", "6"))
    assert one == again != other


def test_run_stops_at_a_stop_text(capsys: pytest.CaptureFixture[str]) -> None:
    whole = facts_of(capsys, "run", "tiny", "My lord", *SHORT)["text"]
    facts = facts_of(capsys, "run", "tiny", "My lord", *SHORT, "--stop", whole[4:7])
    assert facts["text"] == whole[: whole.index(whole[4:7])]
    assert facts["finish"] == "stop"


def test_run_writes_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts_of(capsys, "run", "tiny", "x", *SHORT, "--trace", str(tmp_path / "t.pftrace"))
    assert (tmp_path / "t.pftrace").stat().st_size > 1000


@pytest.mark.parametrize("name", ["fuse", "tile", "sync", "emit"])
def test_dump_after_shows_the_pass(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "tiny", "x", "--max-new-tokens", "1", "--dump-after", name]) == 0
    assert len(capsys.readouterr().out) > 500


def test_eval_scores_the_last_characters(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "tiny", "--text", str(HELD_OUT), "--windows", "2", "--length", "64"]
    facts = facts_of(capsys, *words, "--last-chars", "1000")
    assert facts["tokens"] == 2 * 63
    assert 1 < facts["perplexity"] < 512  # better than knowing nothing of 512 tokens
    two = facts_of(capsys, *words, "--last-chars", "1000", "--activations", "x2")["perplexity"]
    assert two != facts["perplexity"]
    assert facts_of(capsys, *words)["perplexity"] != facts["perplexity"]  # another part of the text


def test_compile_writes_what_computes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "tiny.mvp"
    facts = facts_of(capsys, "compile", "tiny", "-o", str(output), "--chip", "nano", "--batch", "1")
    assert sorted(facts["files"]) == [str(output), str(tmp_path / "tiny.safetensors")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny.mvp", "tiny.safetensors"]
    loaded = Executable.load(output)
    assert (loaded.slots, loaded.context) == (1, 512)


def test_compile_takes_shapes_without_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "q.mvp"
    words = ["compile", "qwen3-0.6b", "-o", str(output), "--context", "256", "--batch", "1"]
    facts_of(capsys, *words)
    assert [p.name for p in tmp_path.iterdir()] == ["q.mvp"]
    assert Executable.load(output).images == {}


def test_bench_says_what_the_chip_and_the_host_need(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "tiny", "--prompt", "40", "--generate", "3", "--context", "100"]
    facts = facts_of(capsys, *words, "--batch", "2")
    assert facts["phases"]["prefill"]["tokens"] == 40
    assert facts["phases"]["decode"]["tokens"] == 6
    assert facts["host"]["decode_tokens_per_s"] > 0
    timed = facts_of(capsys, *words, "--timing", "--weights", "x2")
    assert "decode_tokens_per_s" not in timed["host"]
    alone = facts_of(capsys, *words)
    assert timed["phases"]["decode"]["cycles"] == alone["phases"]["decode"]["cycles"]


def test_bench_of_a_prefill_alone(capsys: pytest.CaptureFixture[str]) -> None:
    facts = facts_of(capsys, "bench", "tiny", "--prompt", "9", "--generate", "0", "--timing")
    assert list(facts["phases"]) == ["prefill"]


def test_a_prompt_that_is_no_text_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xff"), "utf-8"))
    assert facts_of(capsys, "run", "tiny", status=2)["error"]["code"] == "MV0835"
