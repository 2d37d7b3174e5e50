"""Smoke test, seconds: from a checkpoint to tokens through every layer of the house once.

Run it first, on a new machine or after a deep change: `python -m pytest tests/test_tiny.py`.
"""

from __future__ import annotations

import numpy as np

import mellivora
from mellivora.compiler import compile_model
from mellivora.frontends.llm import load_model
from mellivora.graph.interpret import Interpreter
from mellivora.isa import assemble, disassemble
from mellivora.isa.check import check_program
from mellivora.isa.control import words_of
from mellivora.runtime.cache import Executable
from mellivora.runtime.engine import Engine
from mellivora.runtime.llm import LLM
from mellivora.sim.expand import expand
from mellivora.spec import load_chip

PROMPT = "KING RICHARD III:\n"
TOKENS = 8


def test_eight_tokens_through_the_whole_stack() -> None:
    """Load, compile, prove, compute, time; the tokens are those of the graph's definition."""
    model = load_model("tiny")
    assert model.tokenizer is not None
    compiled = compile_model(
        model.graph, load_chip("nano"), activations="x2", max_batch=1, context=256
    )
    for name, reports in check_program(compiled.program, resolver=expand).items():
        assert len(reports) == len(compiled.program.entries[name].check_points)
        code = compiled.program.entries[name].code
        assert np.array_equal(assemble("\n".join(map(disassemble, words_of(code)))), code)

    engine = Engine(Executable.of(compiled))
    ids = model.tokenizer.encode(PROMPT)
    logits, prompt_tokens = engine.prefill(0, ids), len(ids)
    for _ in range(TOKENS):
        ids.append(int(logits.argmax()))
        logits = engine.decode([(0, ids[-1], len(ids) - 1)])[0]
    inputs = {"ids": np.array(ids, np.int32), "positions": np.arange(len(ids), dtype=np.int32)}
    defined = Interpreter(model.graph).run(inputs)["logits"]
    assert defined.argmax(axis=1)[prompt_tokens - 1 : -1].tolist() == ids[prompt_tokens:]
    # An operand of two slices errs by 2^-16 of its block's largest, and logits reach 16: 2^-12,
    # times 2^6 for some twenty products that follow each other.
    assert np.abs(logits - defined[-1]).max() < 2**-6

    timing = engine.device.timing("decode", engine.decode_settings([(0, 1, 100)]))
    assert 0 < timing.roofs().fraction <= 1


def test_the_front_door() -> None:
    assert mellivora.__version__
    llm = LLM("tiny", "m1", max_batch=1, context=128, cache=False)
    pieces = list(llm.generate(PROMPT, max_new_tokens=TOKENS, ignore_eos=True))
    assert len([piece for piece in pieces if piece.id is not None]) == TOKENS
    assert "".join(piece.text for piece in pieces)
