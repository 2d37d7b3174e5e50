"""The program round Bitwuzla: commands are found in text, and answered one by one."""

import subprocess
import sys

from mellivora.rtl.bitwuzla_shell import commands

TEXT = """(set-logic QF_BV) ; (a comment
(declare-fun |a ) b| () (_ BitVec 8))
(assert (= |a ) b|
  #x05)) (check-sat)
(get-value (|a ) b|))
(push 1)
(assert (= |a ) b| #x06))
(check-sat)
(pop 1)
(exit)
(check-sat)
"""


def test_a_command_ends_with_its_last_bracket():
    found = list(commands(TEXT.splitlines(keepends=True)))
    assert found[0] == "(set-logic QF_BV)"
    assert found[1] == "(declare-fun |a ) b| () (_ BitVec 8))"
    assert found[2].split() == ["(assert", "(=", "|a", ")", "b|", "#x05))"]
    assert found[3] == "(check-sat)"
    assert len(found) == 11


def test_it_answers():
    words = [sys.executable, "-m", "mellivora.rtl.bitwuzla_shell"]
    done = subprocess.run(words, input=TEXT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["sat", "((|a ) b| #b00000101))", "unsat", ""]
