"""Bad ONNX files: each gets one ModelError with its code; nothing else is ever raised."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnx
from mellivora.errors import ModelError
from mellivora.frontends.onnx import load_onnx
from onnx import TensorProto, helper, numpy_helper

from . import models


def small() -> Any:
    """x [rows, 8] -> MatMul, Reshape by a constant, Add."""
    n = models.Net(1)
    y = n.op("MatMul", "x", n.const(np.ones((8, 6), np.float32), "w"))
    y = n.op("Reshape", y, n.const(np.array([-1, 2, 3], np.int64), "target"))
    return n.model([models.f32("x", [4, 8])], [n.op("Add", y, n.normal(3))])


def refused(model: Any, **dims: int) -> ModelError:
    data = model if isinstance(model, bytes | Path) else model.SerializeToString()
    with pytest.raises(ModelError) as caught:
        load_onnx(data, dims=dims)
    assert caught.value.hint
    return caught.value


def weight(model: Any, name: str) -> Any:
    return next(t for t in model.graph.initializer if t.name == name)


def change(edit: Callable[[Any], object]) -> Any:
    model = small()
    edit(model)
    return model


def external(location: str, **entries: str) -> Any:
    model = small()
    tensor = weight(model, "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return model


def test_unknown_operator_names_node_operator_opset_and_next_step() -> None:
    model = small()
    model.graph.node[2].op_type = "Einsum"
    error = refused(model)
    assert error.code == "MV0282"
    assert "node 2 'n2'" in error.where
    assert error.given == "Einsum, opset 17"
    assert "onnx_ops.py" in error.hint


def _huge(model: Any) -> None:
    node = model.graph.node
    node[1].CopyFrom(helper.make_node("ConstantOfShape", ["target"], ["v1_0"], "n1"))
    weight(model, "target").CopyFrom(numpy_helper.from_array(np.array([10**6, 10**6]), "target"))


def _loop(model: Any) -> None:
    model.graph.node[0].input[0] = "v2_0"


EDITS: list[tuple[str, Callable[[Any], object]]] = [
    ("MV0281", lambda m: setattr(m.opset_import[0], "version", 6)),
    ("MV0281", lambda m: setattr(m.opset_import[0], "version", 99)),
    ("MV0281", lambda m: m.ClearField("opset_import")),
    ("MV0280", lambda m: m.graph.ClearField("output")),
    ("MV0280", lambda m: m.ClearField("ir_version")),
    ("MV0282", lambda m: setattr(m.graph.node[0], "domain", "com.example")),
    ("MV0284", lambda m: setattr(weight(m, "w"), "raw_data", b"123")),
    ("MV0284", lambda m: weight(m, "w").dims.append(10**12)),
    ("MV0284", lambda m: weight(m, "w").dims.append(-1)),
    ("MV0284", lambda m: weight(m, "w").ClearField("raw_data")),
    ("MV0285", lambda m: setattr(weight(m, "w"), "data_type", TensorProto.STRING)),
    ("MV0285", lambda m: setattr(weight(m, "w"), "data_type", 77)),
    ("MV0269", lambda m: m.graph.input[0].type.Clear()),
    ("MV0268", lambda m: m.graph.sparse_initializer.add()),
    ("MV0286", _loop),
    ("MV0286", lambda m: m.graph.node[0].input.__setitem__(0, "nowhere")),
    ("MV0274", lambda m: m.graph.node[1].output.__setitem__(0, "v0_0")),
    ("MV0275", lambda m: setattr(m.graph.output[0], "name", "nowhere")),
    ("MV0287", lambda m: weight(m, "target").CopyFrom(
        numpy_helper.from_array(np.array([5, 2, 3]), "target"))),
    ("MV0270", lambda m: m.graph.node[1].input.__setitem__(1, "x")),
    ("MV0271", lambda m: m.graph.node[0].input.pop()),
    ("MV0271", lambda m: m.graph.node[0].input.__setitem__(1, "")),
    ("MV0272", lambda m: m.graph.node[1].CopyFrom(
        helper.make_node("Concat", ["v0_0", "v0_0"], ["v1_0"]))),
    ("MV0272", lambda m: m.graph.node[1].CopyFrom(
        helper.make_node("Concat", ["v0_0", "v0_0"], ["v1_0"], axis="one"))),
    ("MV0273", lambda m: m.graph.node[1].CopyFrom(
        helper.make_node("Dropout", ["v0_0", "", "yes"], ["v1_0"])) or
        m.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))),
    ("MV0276", _huge),
    ("MV0277", lambda m: m.graph.node[1].CopyFrom(
        helper.make_node("Gather", ["target", "far"], ["v1_0"])) or
        m.graph.initializer.append(numpy_helper.from_array(np.array(9), "far"))),
]  # fmt: skip


@pytest.mark.parametrize(("code", "edit"), EDITS)
def test_one_thing_wrong(code: str, edit: Callable[[Any], object]) -> None:
    load_onnx(small().SerializeToString())
    assert refused(change(edit)).code == code


def test_symbolic_arithmetic_asks_for_dims() -> None:
    n = models.Net(1)
    rows = n.op("Gather", n.op("Shape", "x"), n.const(np.array([0], np.int64)))
    twice = n.op("Mul", rows, n.const(np.array([2], np.int64)))
    y = n.op("Reshape", "x", n.op("Concat", twice, n.ints(4), axis=0))
    model = n.model([models.f32("x", ["rows", 8])], [y])
    assert refused(model).code == "MV0278"
    assert refused(model, columns=3).code == "MV0289"
    assert refused(model, rows=-3).code == "MV0289"
    graph = load_onnx(model.SerializeToString(), dims={"rows": 3})
    assert graph.values[graph.outputs[0]].shape == (6, 4)


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"GGUF" + b"\1" * 50, bytes(range(256)) * 9])
def test_garbage(data: bytes) -> None:
    assert refused(data).code == "MV0280"


def test_missing_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.onnx").code == "MV0288"
    assert refused(tmp_path).code == "MV0288"


def test_external_data(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    data = np.arange(48, dtype=np.float32).tobytes()
    (folder / "data.bin").write_bytes(b"1234" + data)
    (tmp_path / "secret.bin").write_bytes(data)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    path = folder / "m.onnx"

    def save(model: Any) -> Path:
        path.write_bytes(model.SerializeToString())
        return path

    graph = load_onnx(save(external("data.bin", offset="4", length="192")))
    assert np.array_equal(next(iter(graph.params.values())).ravel()[:2], [0, 6])  # transposed
    wrong = [
        ("../secret.bin", {}),
        (str(tmp_path / "secret.bin"), {}),
        ("link.bin", {}),
        ("missing.bin", {}),
        (".", {}),
        ("", {}),
        ("data.bin", {"offset": "5"}),
        ("data.bin", {"offset": "-4"}),
        ("data.bin", {"length": "100"}),
        ("data.bin", {"offset": "many"}),
        ("data.bin\0", {}),
        ("a" * 5000, {}),
    ]
    for location, entries in wrong:
        assert refused(save(external(location, **entries))).code == "MV0283", location
    assert refused(external("data.bin", offset="4")).code == "MV0283"  # bytes have no folder


def test_truncated_and_mutated_files_are_refused_or_lawful() -> None:
    seed = 11
    chance = random.Random(seed)
    sources = [small().SerializeToString(), models.bert(layers=1).SerializeToString()]
    for trial in range(400):
        data = bytearray(chance.choice(sources))
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        for _ in range(chance.randint(0, 4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            load_onnx(bytes(data))
        except ModelError:
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}, trial {trial}: {error!r}") from error


def test_message_word_for_word() -> None:
    model = small()
    model.graph.node[1].op_type = "Loop"
    lines = str(refused(model)).splitlines()
    assert lines[0] == "error MV0282: the model uses an operator that is not supported"
    assert lines[1] == "  where:   node 1 'n1' (Loop, opset 17)"
    assert lines[2] == "  given:   Loop, opset 17"
    assert lines[-1].startswith("  next:    export the model without this operator")


def test_onnx_is_imported_only_when_needed() -> None:
    import subprocess
    import sys

    code = "import mellivora.frontends.onnx, sys; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert onnx.__name__ == "onnx"
