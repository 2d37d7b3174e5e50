"""Pass `sync`: place semaphores so that every conflict between engines is ordered, in loops too.

Each engine is in order, so only conflicts between different engines need a token. For an ordered
pair of engines and one nesting level, tokens are anonymous and first-in-first-out: the k-th wait
takes the k-th post. Dependences are found in program order and dropped when already implied (vector
clocks), hence sources and targets both rise and the matching is exact.

A loop is analysed as body;body. Dependences inside the first copy are ordinary tokens of the loop's
level; dependences from the first copy into the second are *carried*: the source engine posts one
token for each before the loop (priming), the target engine takes them back after it (draining).
Towards the code around it a loop looks like one SYNC an engine before, and one after, that touch
all that the body's operations of that engine touch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mellivora.compiler.ir import EngineOp, Item, Loop, Region
from mellivora.errors import CompileError
from mellivora.isa.encoding import SEMAPHORES
from mellivora.isa.table import BY_OPCODE, SYNC_OPCODE

SYNC_NAME = {engine: BY_OPCODE[opcode].name for engine, opcode in SYNC_OPCODE.items()}
Edge = tuple[EngineOp, EngineOp]


@dataclass
class _Record:
    start: int
    end: int
    engine: int
    sequence: int
    write: bool


@dataclass
class _Tracker:
    """Vector clocks and the last accesses of every root."""

    records: dict[str, list[_Record]] = field(default_factory=dict)
    known: list[list[int]] = field(default_factory=lambda: [[0] * 5 for _ in range(5)])
    count: list[int] = field(default_factory=lambda: [0] * 5)
    ops: dict[tuple[int, int], EngineOp] = field(default_factory=dict)
    clocks: dict[tuple[int, int], list[int]] = field(default_factory=dict)

    def visit(self, op: EngineOp) -> list[tuple[int, int]]:
        """(engine, sequence) of the operations that this one must wait for, given all before it."""
        engine = op.engine
        known = self.known[engine]
        need = [0] * 5
        for region in op.reads:
            self._conflicts(region, engine, False, known, need)
        for region in op.writes:
            self._conflicts(region, engine, True, known, need)
        wanted = [f for f in range(5) if need[f]]
        sources: list[tuple[int, int]] = []
        for f in wanted:
            others = (self.clocks[g, need[g]][f] for g in wanted if g != f)
            if not any(clock >= need[f] for clock in others):
                sources.append((f, need[f]))
        for f in wanted:
            clock = self.clocks[f, need[f]]
            known[:] = [max(a, b) for a, b in zip(known, clock, strict=True)]
            known[f] = max(known[f], need[f])
        self.count[engine] += 1
        at = (engine, self.count[engine])
        self.ops[at], self.clocks[at] = op, list(known)
        self.clocks[at][engine] = self.count[engine] - 1
        for region in op.reads:
            self._record(region, engine, False)
        for region in op.writes:
            self._record(region, engine, True)
        return sources

    def _conflicts(
        self, region: Region, engine: int, write: bool, known: list[int], need: list[int]
    ) -> None:
        for r in self.records.get(region.root, ()):
            if r.engine == engine or not (write or r.write):
                continue
            overlap = r.start < region.end and region.start < r.end
            if overlap and r.sequence > known[r.engine]:
                need[r.engine] = max(need[r.engine], r.sequence)

    def _record(self, region: Region, engine: int, write: bool) -> None:
        """A write hides what it covers (later conflicts go through it); a read hides own reads."""
        kept: list[_Record] = []
        for r in self.records.get(region.root, []):
            hidden = write or (r.engine == engine and not r.write)
            if not hidden or r.end <= region.start or region.end <= r.start:
                kept.append(r)
                continue
            if r.start < region.start:
                kept.append(_Record(r.start, region.start, r.engine, r.sequence, r.write))
            if region.end < r.end:
                kept.append(_Record(region.end, r.end, r.engine, r.sequence, r.write))
        kept.append(_Record(region.start, region.end, engine, self.count[engine], write))
        self.records[region.root] = kept


class Semaphores:
    """Numbers for (level, carried, producer, consumer), given out as they are needed."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[int, bool, int, int], int] = {}

    def get(self, level: int, carried: bool, source: int, target: int) -> int:
        key = (level, carried, source, target)
        if key not in self.numbers:
            if len(self.numbers) + 1 >= SEMAPHORES:
                raise CompileError(
                    "MV0401",
                    "the program needs more semaphores than a core has",
                    given=str(len(self.numbers) + 2),
                    allowed=str(SEMAPHORES - 1),
                    hint="nest fewer loops in the kernel",
                )
            self.numbers[key] = len(self.numbers) + 1
        return self.numbers[key]


def sync(items: list[Item]) -> list[Item]:
    """The same items with tokens placed and SYNC operations around loops."""
    return _block(items, 0, Semaphores())


def engine_ops(items: list[Item]) -> list[EngineOp]:
    """All engine operations below, in order."""
    found: list[EngineOp] = []
    for item in items:
        if isinstance(item, EngineOp):
            found.append(item)
        elif isinstance(item, Loop):
            found.extend(engine_ops(item.body))
    return found


def merge(regions: list[Region]) -> tuple[Region, ...]:
    """The union, one list of disjoint ranges a root."""
    out: list[Region] = []
    for region in sorted(regions):
        if out and out[-1].root == region.root and region.start <= out[-1].end:
            out[-1] = Region(region.root, out[-1].start, max(out[-1].end, region.end))
        else:
            out.append(region)
    return tuple(out)


def _block(items: list[Item], level: int, semaphores: Semaphores) -> list[Item]:
    """Expand loops, then place this level's tokens."""
    flat: list[Item] = []
    for item in items:
        flat.extend(_loop(item, level + 1, semaphores) if isinstance(item, Loop) else [item])
    tracker = _Tracker()
    for item in flat:
        if isinstance(item, EngineOp):
            for engine, sequence in tracker.visit(item):
                token = semaphores.get(level, False, engine, item.engine)
                _token(token, tracker.ops[engine, sequence], item)
    return flat


def _token(semaphore: int, source: EngineOp, target: EngineOp) -> None:
    source.posts.append(semaphore)
    target.waits.append(semaphore)


def _loop(loop: Loop, level: int, semaphores: Semaphores) -> list[Item]:
    """Entry SYNCs, the loop with its tokens, exit SYNCs."""
    ops = engine_ops(loop.body)
    if not ops:
        return [loop]
    touched: dict[int, tuple[tuple[Region, ...], tuple[Region, ...]]] = {}
    for engine in sorted({op.engine for op in ops}):
        mine = [op for op in ops if op.engine == engine]
        reads = merge([r for op in mine for r in op.reads])
        touched[engine] = (reads, merge([r for op in mine for r in op.writes]))
    label = ops[0].label

    def pseudo(engine: int) -> EngineOp:
        reads, writes = touched[engine]
        return EngineOp(SYNC_NAME[engine], [], None, reads, writes, label)

    entry = {engine: pseudo(engine) for engine in touched}
    leave = {engine: pseudo(engine) for engine in touched}
    body = _block(loop.body, level, semaphores)
    for source, target in _carried(body):
        token = semaphores.get(level, True, source.engine, target.engine)
        _token(token, source, target)
        entry[source.engine].posts.append(token)
        leave[target.engine].waits.append(token)
    return [*entry.values(), Loop(loop.count, body), *leave.values()]


def _carried(body: list[Item]) -> list[Edge]:
    """Dependences from one iteration into the next, by walking the body twice."""
    tracker = _Tracker()
    mine = [item for item in body if isinstance(item, EngineOp)]
    for op in mine:
        tracker.visit(op)
    boundary = list(tracker.count)
    edges: list[Edge] = []
    for op in mine:
        for engine, sequence in tracker.visit(op):
            if sequence <= boundary[engine]:
                edges.append((tracker.ops[engine, sequence], op))
    return edges
