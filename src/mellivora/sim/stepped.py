"""The timing machine one cycle at a time: the definition that the event-driven engine must equal.

Slow (microseconds a cycle and core) and plain on purpose. Times are clock edges: an operation
with start s and cost c is busy in the cycles s .. s+c-1 and ends at edge s+c, where its posts can
be seen. In every cycle t:

    1. ends      what was busy last in cycle t-1 ends at t and posts; transfers in queue order
    2. feed      transfers whose first word has come join the data phase of their queue
    3. dispatch  CONTROL puts its next row into a queue that had room in cycle t-1
    4. start     an idle engine starts the head of its queue if its semaphores allow
    5. grant     DRAM grants the bursts of this cycle
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mellivora.isa.encoding import ENGINES, LOAD, SEMAPHORES, STORE
from mellivora.sim.timing import ChipNumbers, Role

Table = npt.NDArray[np.void]


@dataclass
class Transfer:
    """A DMA operation in flight."""

    row: int
    role: int
    ready: int  # edge at which its first word is there
    left: int
    number: int = -1  # of a multicast, counting from 0 on each core
    fed: bool = False


@dataclass
class _Core:
    operations: Table
    dispatch: list[int]
    start: list[int]
    end: list[int]
    next_row: int = 0
    dispatched_at: int = 0
    queues: list[deque[int]] = field(default_factory=lambda: [deque() for _ in ENGINES])
    running: list[int | None] = field(default_factory=lambda: [None] * len(ENGINES))
    free_at: list[int] = field(default_factory=lambda: [0] * len(ENGINES))
    semaphores: list[int] = field(default_factory=lambda: [0] * SEMAPHORES)
    flight: dict[int, list[Transfer]] = field(default_factory=lambda: {LOAD: [], STORE: []})
    multicasts: int = 0


class Stepped:
    """Runs operations of each core (arrays of sim.timing.OPERATION) to the end, or until `limit`
    cycles."""

    def __init__(self, operations: list[Table], numbers: ChipNumbers) -> None:
        self.numbers = numbers
        self.cores = [
            _Core(table, *([-1] * len(table) for _ in range(3)))  # type: ignore[arg-type]
            for table in operations
        ]
        self.shared: list[
            Transfer
        ] = []  # all multicasts; `row` counts the cores that have issued it
        self.pointer = 0  # of the DRAM arbiter
        self.now = 0

    def run(self, limit: int) -> bool:
        """True if all rows have ended within `limit` cycles."""
        while self.now < limit:
            self._ends()
            if all(-1 not in core.end for core in self.cores):
                return True
            self._feed()
            full = [[len(q) >= self.numbers.queue_depth for q in c.queues] for c in self.cores]
            for core, is_full in zip(self.cores, full):
                self._dispatch(core, is_full)
            for core in self.cores:
                for engine in range(LOAD, len(ENGINES)):
                    self._start(core, engine)
            self._collectives()
            self._grant()
            self.now += 1
        return False

    def _ends(self) -> None:
        for core in self.cores:
            for engine, row in enumerate(core.running):
                if row is not None and core.free_at[engine] == self.now:
                    self._post(core, row)
                    core.running[engine] = None
            for flight in core.flight.values():
                while flight and self._done(flight[0]):
                    self._post(core, flight.pop(0).row)

    def _done(self, head: Transfer) -> bool:
        if head.role == Role.ORDER:
            return head.ready <= self.now
        left = self.shared[head.number].left if head.role == Role.MULTICAST else head.left
        return head.fed and left == 0

    def _post(self, core: _Core, row: int) -> None:
        core.end[row] = self.now
        for name in ("post0", "post1"):
            core.semaphores[int(core.operations[row][name])] += 1

    def _feed(self) -> None:
        for core in self.cores:
            for flight in core.flight.values():
                for transfer in flight:
                    if transfer.role == Role.ORDER or transfer.fed:
                        if transfer.role == Role.MULTICAST:
                            break  # a core's own data waits until the multicast has ended
                        continue
                    if transfer.role == Role.MULTICAST or transfer.ready > self.now:
                        break
                    transfer.fed = True
        while (heads := self._multicast_heads()) is not None:
            for head in heads:
                head.fed = True
            self.shared[heads[0].number].fed = True

    def _multicast_heads(self) -> list[Transfer] | None:
        """The next multicast's entry in every core, if nothing of their own is before it and it
        is ready."""
        heads: list[Transfer] = []
        for core in self.cores:
            rest = [t for t in core.flight[LOAD] if t.role != Role.ORDER]
            rest = [t for t in rest if not (t.role == Role.MULTICAST and t.fed)]
            if not rest or rest[0].role != Role.MULTICAST:
                return None
            one = self.shared[rest[0].number]
            if one.row < len(self.cores) or one.ready > self.now:
                return None
            heads.append(rest[0])
        return heads

    def _dispatch(self, core: _Core, is_full: list[bool]) -> None:
        if core.next_row == len(core.operations):
            return
        operation = core.operations[core.next_row]
        engine = int(operation["engine"]) + 1
        if self.now >= core.dispatched_at + int(operation["gap"]) and not is_full[engine]:
            core.queues[engine].append(core.next_row)
            core.dispatch[core.next_row] = core.dispatched_at = self.now
            core.next_row += 1

    def _start(self, core: _Core, engine: int) -> None:
        queue = core.queues[engine]
        if not queue or core.running[engine] is not None or core.free_at[engine] > self.now:
            return
        row = queue[0]
        operation = core.operations[row]
        role, cost, bursts = (int(operation[name]) for name in ("role", "cost", "bursts"))
        counts = list(core.semaphores)
        for name in ("wait0", "wait1"):
            if semaphore := int(operation[name]):
                if counts[semaphore] == 0:
                    return
                counts[semaphore] -= 1
        if (role == Role.COLLECTIVE or operation["after"]) and core.flight[engine]:
            return
        if role in (Role.ORDER, Role.TRANSFER, Role.MULTICAST):
            if len(core.flight[engine]) >= self.numbers.outstanding:
                return
            self._issue(core, engine, row, role if bursts else Role.ORDER, cost, bursts)
        else:
            core.running[engine] = row
        core.semaphores = counts
        core.start[row] = self.now
        core.free_at[engine] = self.now + cost if role != Role.COLLECTIVE else -1
        queue.popleft()

    def _issue(self, core: _Core, engine: int, row: int, role: int, cost: int, bursts: int) -> None:
        ready = self.now + cost + (self.numbers.latency if role != Role.ORDER else 0)
        transfer = Transfer(row, role, ready, bursts)
        if role == Role.MULTICAST:
            transfer.number = core.multicasts
            core.multicasts += 1
            if transfer.number == len(self.shared):
                self.shared.append(Transfer(0, Role.TRANSFER, 0, bursts))
            one = self.shared[transfer.number]
            one.row, one.ready = one.row + 1, max(one.ready, ready)
        core.flight[engine].append(transfer)

    def _collectives(self) -> None:
        """When every core has come, all end `cost` later."""
        rows = [core.running[STORE] for core in self.cores]
        waiting = [core.free_at[STORE] == -1 for core in self.cores]
        if all(waiting):
            for core, row in zip(self.cores, rows):
                assert row is not None
                core.free_at[STORE] = self.now + int(core.operations[row]["cost"])

    def _grant(self) -> None:
        """Round robin, one burst at a time, at most `port` to a requester; the last one is the
        multicast."""
        n = self.numbers
        budget = n.num * (self.now + 1) // n.den - n.num * self.now // n.den
        streams = [
            [t for t in core.flight[q] if t.fed and t.role == Role.TRANSFER]
            for core in self.cores
            for q in (LOAD, STORE)
        ]
        streams.append([t for t in self.shared if t.fed])
        taken = [0] * len(streams)
        asked_in_vain = 0
        at = self.pointer
        while budget and asked_in_vain < len(streams):
            at %= len(streams)
            transfer = next((t for t in streams[at] if t.left), None)
            if transfer is None or taken[at] == n.port:
                asked_in_vain += 1
            else:
                transfer.left -= 1
                taken[at] += 1
                budget -= 1
                asked_in_vain = 0
                self.pointer = at + 1
            at += 1
