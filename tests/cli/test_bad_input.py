"""Bad input: a coded error with a next step, status 2, no traceback, and no file left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.unit.frontends.gguf_samples import write_small

import onnx
from mellivora import cli
from mellivora.runtime import cache
from mellivora.spec import load_chip
from onnx import TensorProto, helper

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "src" / "mellivora" / "models" / "tiny"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gguf(name: str, *, keep: float = 1.0, architecture: str = "llama") -> Callable[[], None]:
    def make() -> None:
        path = write_small(Path(name), architecture=architecture)
        os.truncate(path, int(path.stat().st_size * keep))

    return make


def tiny_folder(name: str, change: Callable[[Path], None]) -> Callable[[], None]:
    def make() -> None:
        shutil.copytree(TINY, name)
        change(Path(name))

    return make


def of_integers(path: Path) -> None:
    save_file(
        {"model.embed_tokens.weight": np.zeros((512, 96), np.int32)}, path / "model.safetensors"
    )


def of_architecture(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    config |= {"model_type": "badger", "architectures": ["BadgerForCausalLM"]}
    (path / "config.json").write_text(json.dumps(config))


def chip(name: str, old: str, new: str) -> Callable[[], None]:
    def make() -> None:
        text = load_chip("nano").text()
        assert old in text
        Path(name).write_text(text.replace(old, new))

    return make


def relu_onnx() -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), "relu.onnx")


def text_file(name: str, content: bytes) -> Callable[[], None]:
    return lambda: Path(name).write_bytes(content) and None


NOTHING = lambda: None  # noqa: E731
SMALL_SRAM = chip("small.toml", "sram_bytes = 65536", "sram_bytes = 4096")

CASES: list[tuple[str, Callable[[], None], list[str], str]] = [
    ("gguf_cut_in_the_header", gguf("m.gguf", keep=0.05), ["run", "m.gguf", "hi"], "MV0204"),
    ("gguf_cut_in_the_data", gguf("m.gguf", keep=0.9), ["run", "m.gguf", "hi"], "MV0204"),
    ("gguf_that_is_none", text_file("m.gguf", b"no model " * 9), ["run", "m.gguf", "hi"], "MV0202"),
    (
        "unknown_architecture",
        gguf("m.gguf", architecture="badger"),
        ["run", "m.gguf", "hi"],
        "MV0253",
    ),
    ("unknown_hf_architecture", tiny_folder("m", of_architecture), ["run", "m", "hi"], "MV0253"),
    ("weights_of_integers", tiny_folder("m", of_integers), ["run", "m", "hi"], "MV0222"),
    ("heads_that_fit_no_block", gguf("m.gguf"), ["run", "m.gguf", "a"], "MV0423"),
    ("missing_model", NOTHING, ["run", "absent.gguf", "hi"], "MV0258"),
    ("model_without_weights", NOTHING, ["run", "qwen3-8b", "hi"], "MV0258"),
    ("onnx_graph", relu_onnx, ["bench", "relu.onnx"], "MV0490"),
    ("onnx_graph_with_a_prompt", relu_onnx, ["run", "relu.onnx", "hi"], "MV0837"),
    ("no_such_input", relu_onnx, ["run", "relu.onnx", "--input", "z=x.npy"], "MV0841"),
    ("input_without_a_name", relu_onnx, ["run", "relu.onnx", "--input", "x.npy"], "MV0839"),
    ("dim_of_letters", relu_onnx, ["run", "relu.onnx", "--dim", "n=two"], "MV0840"),
    ("graph_without_floats", relu_onnx, ["run", "relu.onnx", "--chip", "predecessor"], "MV0441"),
    ("damaged_onnx", text_file("m.onnx", b"\x08"), ["run", "m.onnx", "hi"], "MV0280"),
    ("missing_onnx", NOTHING, ["compile", "absent.onnx", "-o", "out.mvp"], "MV0288"),
    (
        "scratchpad_too_small",
        SMALL_SRAM,
        ["compile", "tiny", "-o", "out.mvp", "--chip", "small.toml"],
        "MV0403",
    ),
    (
        "batch_too_large_for_the_chip",
        NOTHING,
        ["compile", "tiny", "-o", "out.mvp", "--chip", "nano", "--batch", "64"],
        "MV0403",
    ),
    (
        "chip_without_floating_point",
        NOTHING,
        ["run", "tiny", "hi", "--chip", "predecessor"],
        "MV0424",
    ),
    (
        "toml_typo",
        chip("typo.toml", "columns =", "colums ="),
        ["run", "tiny", "hi", "--chip", "typo.toml"],
        "MV0103",
    ),
    (
        "toml_that_is_none",
        text_file("bad.toml", b"cores = = 1"),
        ["run", "tiny", "hi", "--chip", "bad.toml"],
        "MV0102",
    ),
    ("missing_chip", NOTHING, ["run", "tiny", "hi", "--chip", "absent.toml"], "MV0101"),
    ("prompt_past_the_maximum", NOTHING, ["run", "tiny", "word " * 2000], "MV0815"),
    ("empty_prompt", NOTHING, ["run", "tiny", ""], "MV0813"),
    ("more_cores_than_there_are", NOTHING, ["run", "tiny", "hi", "--cores", "99"], "MV0817"),
    ("batch_past_the_maximum", NOTHING, ["run", "tiny", "hi", "--batch", "65"], "MV0812"),
    (
        "top_p_of_zero",
        NOTHING,
        ["run", "tiny", "hi", "--temperature", "1", "--top-p", "0"],
        "MV0811",
    ),
    ("unknown_flag", NOTHING, ["run", "tiny", "hi", "--frobnicate"], "MV0801"),
    ("unknown_activations", NOTHING, ["run", "tiny", "hi", "--activations", "x4"], "MV0801"),
    ("unknown_pass", NOTHING, ["run", "tiny", "hi", "--dump-after", "magic"], "MV0422"),
    (
        "report_in_no_folder",
        NOTHING,
        ["run", "tiny", "hi", "--report", "absent/out.html"],
        "MV0830",
    ),
    ("trace_in_no_folder", NOTHING, ["run", "tiny", "hi", "--trace", "absent/out.pf"], "MV0830"),
    ("program_in_no_folder", NOTHING, ["compile", "tiny", "-o", "absent/out.mvp"], "MV0830"),
    ("missing_text", NOTHING, ["eval", "tiny", "--text", "absent.txt"], "MV0831"),
    (
        "text_that_is_none",
        text_file("t.txt", b"\xff\xfe\x00\xd8"),
        ["eval", "tiny", "--text", "t.txt"],
        "MV0831",
    ),
    (
        "text_too_short",
        text_file("t.txt", b"a few words"),
        ["eval", "tiny", "--text", "t.txt", "--length", "64"],
        "MV0816",
    ),
    (
        "windows_past_the_context",
        text_file("t.txt", b"a few words " * 5000),
        ["eval", "tiny", "--text", "t.txt", "--length", "513"],
        "MV0816",
    ),
    (
        "context_past_the_model",
        NOTHING,
        ["bench", "tiny", "--context", "600", "--timing"],
        "MV0812",
    ),
    ("unknown_weight_format", NOTHING, ["bench", "qwen3-0.6b", "--weights", "q9"], "MV0256"),
]


@pytest.mark.parametrize(
    ("make", "words", "code"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_bad_input_is_a_coded_error(
    make: Callable[[], None],
    words: list[str],
    code: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make()
    before = {path.name for path in folder.iterdir()} | {"cache"}
    assert cli.main([*words, "--json"]) == 2
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["code"] == code
    assert error["what"]
    assert error["hint"], "no next step"
    assert error.get("given") or error.get("allowed") or error.get("where")
    assert err.startswith(f"error {code}: ")
    assert "Traceback" not in err
    assert {path.name for path in folder.iterdir()} <= before
    models = folder / "cache" / "models"
    assert not models.exists() or list(models.iterdir()) == []


def test_the_program_itself_ends_with_status_2_and_without_a_traceback(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    words = [sys.executable, "-m", "mellivora.cli", "run", str(tmp_path / "absent.gguf"), "hi"]
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error MV0258: ")
    assert "Traceback" not in done.stderr


def test_an_interrupted_write_leaves_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert cli.main(["compile", "tiny", "-o", "out.mvp", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "MV0515"
    assert list(folder.iterdir()) == []
