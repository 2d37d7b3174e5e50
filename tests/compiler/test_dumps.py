"""`dump_after`: every pass shows its result as text; graph and assembly parse back."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mellivora.compiler import PASSES, compile_model
from mellivora.errors import CompileError
from mellivora.frontends.llm import load_model
from mellivora.graph.text import parse_text
from mellivora.isa import assemble
from mellivora.spec import load_chip

TINY, MICRO = load_model("tiny"), load_chip("micro")


def dump_after(name: str) -> str:
    shown: list[str] = []
    compile_model(TINY.graph, MICRO, max_batch=2, context=256, dump_after=name, dump=shown.append)
    assert len(shown) == 1
    return shown[0]


@pytest.mark.parametrize("name", PASSES)
def test_each_pass_shows_itself_once_and_always_alike(name: str) -> None:
    text = dump_after(name)
    assert text.strip()
    assert text == dump_after(name)
    assert " at 0x" not in text  # no object without a text of its own


def test_the_graph_parses_back() -> None:
    text = dump_after("verify")
    assert str(parse_text(text, params=TINY.graph.params)) == text


def test_formats_and_layers_are_named() -> None:
    quantised, fused = dump_after("quantise"), dump_after("fuse")
    matrices = [name for name, tensor in TINY.graph.params.items() if len(tensor.shape) == 2]
    assert [line.split(":")[0] for line in quantised.splitlines()] == matrices
    assert [line.split(":")[0] for line in fused.splitlines()[1:-1]] == [
        f"layer {i}" for i in range(TINY.config.layers)
    ]


def test_hoisting_moves_operations_and_sync_adds_tokens_and_nothing_else() -> None:
    def operations(text: str) -> list[str]:
        lines = (re.sub(r" [?!]\d+", "", line).strip() for line in text.splitlines())
        return [line for line in lines if line and line[0] != "#" and "sync" not in line]

    tiled, hoisted, synced = (dump_after(name) for name in ("tile", "hoist", "sync"))
    assert not re.search(r" [?!]\d", tiled + hoisted)
    assert re.search(r" \?\d+.* !\d+", synced)
    assert operations(tiled) != operations(hoisted) == operations(synced)
    assert sorted(operations(tiled)) == sorted(operations(hoisted))


def test_the_assembly_parses_back() -> None:
    program = compile_model(TINY.graph, MICRO, max_batch=2, context=256).program
    _, *parts = re.split(r"^; (\w+)$", dump_after("emit"), flags=re.MULTILINE)
    texts = dict(zip(parts[::2], parts[1::2], strict=True))
    assert texts.keys() == program.entries.keys()
    for name, entry in program.entries.items():
        assert np.array_equal(assemble(texts[name]), entry.code)


def test_no_such_pass() -> None:
    with pytest.raises(CompileError) as caught:
        dump_after("optimise")
    assert caught.value.code == "MV0422"
    assert all(name in caught.value.allowed for name in PASSES)
