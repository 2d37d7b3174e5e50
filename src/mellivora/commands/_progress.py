"""Words on stderr while something takes long: at once on a terminal, else every few seconds."""

from __future__ import annotations

import sys
import time

QUIET_S = 3.0
"""Without a terminal, what is said within this time of the last word is dropped."""


class Progress:
    """`say` shows a sentence; `clear` removes it from a terminal when the work is done."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.last_s = time.monotonic()
        self.shown = 0

    def say(self, text: str) -> None:
        if self.terminal:
            print("\r" + text[:100].ljust(self.shown), end="", file=sys.stderr, flush=True)
            self.shown = min(len(text), 100)
        elif time.monotonic() - self.last_s >= QUIET_S:
            print(text, file=sys.stderr, flush=True)
            self.last_s = time.monotonic()

    def clear(self) -> None:
        if self.terminal and self.shown:
            print("\r" + " " * self.shown + "\r", end="", file=sys.stderr, flush=True)
            self.shown = 0
