"""The small model writes on the RTL: prefill and decode, bits and cycles, two other ways."""

import pytest
from examples.tokens_on_rtl import write


def check(tokens: int, prompt: str) -> None:
    made = write(tokens, prompt)
    assert len(made.on_rtl) == tokens
    assert made.on_rtl == made.functional == made.interpreter
    assert len(made.launches) > tokens, "prefill and decode"
    for result in made.launches:
        assert result.equal, result.report()
        assert result.cycles == result.rtl_cycles > 10_000


def test_two_tokens():
    check(2, "O God")


@pytest.mark.nightly
def test_thirty_two_tokens():
    check(32, "KING RICHARD III:\nSay, I")
