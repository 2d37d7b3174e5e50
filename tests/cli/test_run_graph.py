"""`mellivora run MODEL.onnx`: tensors in, tensors out, cycles on the chip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.onnx import models

import onnx
from mellivora import cli


@pytest.fixture(autouse=True)
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with dense.onnx: ids and x of any number of rows -> table[ids] + x @ w."""
    n = models.Net(1)
    picked = n.op("Gather", n.const(np.arange(30, dtype=np.float32).reshape(10, 3)), "ids")
    y = n.op("Add", n.op("MatMul", "x", n.const(np.ones((4, 3), np.float32))), picked)
    built = n.model([models.f32("x", ["rows", 4]), models.i64("ids", ["rows"])], [y])
    monkeypatch.chdir(tmp_path)
    onnx.save(built, "dense.onnx")


def facts_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.main(["run", "dense.onnx", "--chip", "nano", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_given_inputs_give_their_own_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    x, ids = np.arange(8, dtype=np.float32).reshape(2, 4), np.array([9, 0], np.int32)
    np.save("x.npy", x)
    np.save("ids.npy", ids)
    facts = facts_of(
        capsys, "--input", "x=x.npy", "--input", "ids=ids.npy", "--save", "y.npz",
        "--trace", "t.pftrace",
    )  # fmt: skip
    (name,) = facts["outputs"]
    want = np.arange(30).reshape(10, 3)[ids] + x.sum(1, keepdims=True)
    np.testing.assert_array_equal(np.load("y.npz")[name], want)  # all of it is exact in FP32
    assert facts["outputs"][name]["values"] == want.reshape(-1)[:4].tolist()
    assert facts["outputs"][name]["max"] == want.max()
    assert facts["inputs"]["x"] == {"dtype": "f32", "shape": [2, 4], "from": "file"}
    assert facts["cycles"] > 100
    assert facts["seconds"] == facts["cycles"] / 1e9
    assert facts["off_chip_operators"] == []
    assert Path("t.pftrace").stat().st_size > 1000


def test_random_inputs_follow_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    first = facts_of(capsys, "--dim", "rows=7", "--seed", "3")
    again = facts_of(capsys, "--dim", "rows=7", "--seed", "3")
    other = facts_of(capsys, "--dim", "rows=7", "--seed", "4")
    assert first["outputs"] == again["outputs"] != other["outputs"]
    assert first["inputs"]["ids"] == {"dtype": "int64", "shape": [7], "from": "random"}


def test_what_people_read(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "dense.onnx", "--dim", "rows=2", "--chip", "micro"]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    for word in ("all on the chip", "x: f32[2, 4]  random", "cycles", "micro, 2 cores, 3 slices"):
        assert word in shown, word


@pytest.mark.parametrize(
    ("words", "code"),
    [([], "MV0429"), (["--dim", "rows=2", "--report", "r.html"], "MV0837"),
     (["--dim", "rows=2", "--input", "z=x.npy"], "MV0838")],
)  # fmt: skip
def test_bad_use(capsys: pytest.CaptureFixture[str], words: list[str], code: str) -> None:
    np.save("x.npy", np.zeros((2, 4), np.float32))
    assert cli.main(["run", "dense.onnx", *words, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
