"""Places semaphores in a random program so that it has neither race nor deadlock.

One rule: before an operation starts, everything that clashes with it on another engine has ended.
A post is set on the clashing operation or a later one of its engine, a wait on the operation or a
SYNC before it; a wait always comes after its post in program order. What an engine knows of the
others is kept as a clock, so that nothing is waited for twice. The posts of a pair of engines and
their waits are in the same order, so one semaphore a pair is enough; a loop's body has others than
what is around it, and every turn leaves them empty.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from mellivora.isa.encoding import LOOP_LEVELS, SEMAPHORES
from mellivora.isa.random_programs.operation import Box, Item, Loop, Operation, Raw, sync

ENGINES = 4
_PAIRS = ENGINES * (ENGINES - 1)
SPARE = tuple(range(1 + (1 + LOOP_LEVELS) * _PAIRS, SEMAPHORES))
"""Semaphores that no program uses for its order."""


class _Entry:
    """An operation that has been placed; `op` None: inside a loop, where no post can be added."""

    __slots__ = ("knows", "op", "reads", "writes")

    def __init__(
        self, op: Operation | None, reads: Sequence[Box], writes: Sequence[Box], knows: list[int]
    ) -> None:
        self.op, self.reads, self.writes, self.knows = op, reads, writes, knows


class _Block:
    """A sequence without loops around it, or the body of one."""

    def __init__(self, pick: random.Random, depth: int) -> None:
        self.pick, self.depth = pick, depth
        self.out: list[Item] = []
        self.history: list[list[_Entry]] = [[] for _ in range(ENGINES)]
        self.know = [[0] * ENGINES for _ in range(ENGINES)]

    def run(self, items: Sequence[Item]) -> None:
        for item in items:
            if isinstance(item, Loop):
                self._loop(item)
            elif isinstance(item, Raw):
                self.out.append(item)
            else:
                self._wait(item.engine, item.reads, item.writes, item)
                self._append(item)

    def _append(self, op: Operation) -> None:
        engine = op.engine
        self.out.append(op)
        self.history[engine].append(_Entry(op, op.reads, op.writes, list(self.know[engine])))

    def _wait(
        self, engine: int, reads: Sequence[Box], writes: Sequence[Box], op: Operation | None
    ) -> None:
        """Let `engine` wait for all that clashes, by `op` while it has room, else by SYNCs."""
        semaphores = list[int]()
        for other in range(ENGINES):
            if other != engine and (last := self._last_clash(other, engine, reads, writes)) >= 0:
                semaphores.append(self._post(other, engine, last))
        if op is not None and self.pick.random() < 0.9:
            op.waits, semaphores = semaphores[:2], semaphores[2:]
        while semaphores:
            one = sync(engine)
            one.waits, semaphores = semaphores[:2], semaphores[2:]
            self._append(one)

    def _last_clash(
        self, other: int, engine: int, reads: Sequence[Box], writes: Sequence[Box]
    ) -> int:
        """Place of the last operation of `other` that clashes and may still run, or -1."""
        entries = self.history[other]
        for at in range(len(entries) - 1, self.know[engine][other] - 1, -1):
            entry = entries[at]
            if _meet(writes, entry.writes) or _meet(writes, entry.reads):
                return at
            if _meet(reads, entry.writes):
                return at
        return -1

    def _post(self, other: int, engine: int, last: int) -> int:
        """A semaphore that `other` posts when its operation `last`, or a later one, has ended."""
        entries = self.history[other]
        for at in range(last, len(entries)):
            op = entries[at].op
            if op is not None and len(op.posts) < 2 and self.pick.random() < 0.8:
                break
        else:
            at, op = len(entries), sync(other)
            self._append(op)
        pair = other * (ENGINES - 1) + engine - (engine > other)
        semaphore = 1 + self.depth * _PAIRS + pair
        assert op is not None
        op.posts.append(semaphore)
        mine, theirs = self.know[engine], entries[at].knows
        for one in range(ENGINES):
            mine[one] = max(mine[one], theirs[one])
        mine[other] = max(mine[other], at + 1)
        return semaphore

    def _loop(self, loop: Loop) -> None:
        if loop.count is None or loop.count <= 0:  # its operations have no links
            self.out.append(loop)
            return
        inner = _Block(self.pick, self.depth + 1)
        inner.run(loop.body)
        parts = [_union(entries) for entries in inner.history]
        for engine, (reads, writes) in enumerate(parts):
            self._wait(engine, reads, writes, None)
            inner._wait(engine, reads, writes, None)  # what this turn does, before the next one
        loop.body = inner.out
        self.out.append(loop)
        for engine, entries in enumerate(inner.history):
            self.history[engine] += [
                _Entry(None, one.reads, one.writes, list(self.know[engine])) for one in entries
            ]


def _meet(one: Sequence[Box], two: Sequence[Box]) -> bool:
    return any(a < d and c < b for a, b in one for c, d in two)


def _union(entries: Sequence[_Entry]) -> tuple[list[Box], list[Box]]:
    reads = {box for entry in entries for box in entry.reads}
    writes = {box for entry in entries for box in entry.writes}
    return sorted(reads), sorted(writes)


def order(items: Sequence[Item], pick: random.Random) -> list[Item]:
    """The items with semaphores set and SYNCs between."""
    block = _Block(pick, 0)
    block.run(items)
    return block.out
