"""Bitwuzla as a program that reads SMT-LIB: its wheel has the library alone.

    python -m mellivora.rtl.bitwuzla_shell < commands.smt2

Commands are carried out as they come; `--help` names `--lang`, by which smtbmc knows its version.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator


def commands(lines: Iterable[str]) -> Iterator[str]:
    """Each command of SMT-LIB text, as soon as its last bracket has come.

    A bracket in |a quoted symbol| or "a string" is none, and a comment ends with its line.
    """
    text, depth, quote = "", 0, ""
    for line in lines:
        for char in line:
            if quote:
                quote = "" if char == quote else quote
            elif char == ";":
                break
            elif char in '|"':
                quote = char
            else:
                depth += (char == "(") - (char == ")")
            text += char
            if char == ")" and depth == 0 and not quote:
                yield text.strip()
                text = ""
        if text:
            text += "\n"


def main() -> int:
    """Answers on standard output; status 0."""
    if "--help" in sys.argv:
        print("--lang smt2")
        return 0
    from bitwuzla import Option, Options, Parser, TermManager  # type: ignore[import-not-found]

    options = Options()
    options.set(Option.PRODUCE_MODELS, True)
    parser, library = Parser(TermManager(), options), ctypes.CDLL(None)
    for command in commands(sys.stdin):
        if command == "(exit)":
            break
        parser.parse(command, False, False)
        library.fflush(None)  # C++ wrote the answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
