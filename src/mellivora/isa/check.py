"""Proof that a program has no deadlock, overflow or race, by executing tokens and footprints.

In-order queues and semaphores with one producer and one consumer make a program determinate: which
post a wait takes does not depend on the schedule. So one execution, in dispatch order, with a
vector clock for each engine, decides for all schedules. Order comes from three things only: an
engine runs its operations in order, the k-th wait on a semaphore is after the k-th post, and EXCH
and BARRIER end after every core has come to them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from mellivora.errors import IsaError
from mellivora.isa.accesses import STORE_OPCODE, Accesses, refuse
from mellivora.isa.control import resolve
from mellivora.isa.deadlock import standstill
from mellivora.isa.encoding import (
    ACCUMULATOR_BASE,
    ENGINES,
    LOAD,
    R_OPCODE,
    R_SLOT,
    SEMAPHORE_MAX,
    SEMAPHORES,
)
from mellivora.isa.listing import ENGINES_A_CORE, JOINT, LOADM, Labels, Listing
from mellivora.isa.program import Program, Window
from mellivora.isa.races import (
    WRITERS,
    Conflict,
    Memory,
)
from mellivora.isa.state import Fault
from mellivora.isa.table import BY_NAME
from mellivora.spec import ChipSpec

Rows = npt.NDArray[np.int64]
_EXCH = BY_NAME["exch"].opcode
_DRAM_SIDE = (0, 1, 2, 4, 5, 6, 7, 8, 9, 10)
"""Slots and configuration of a LOADM that all cores must agree on: not its scratchpad side."""


@dataclass(frozen=True)
class SemaphoreUse:
    """One semaphore of one core. bound: the most tokens it can hold under any schedule."""

    producer: str
    consumer: str
    posts: int
    bound: int


@dataclass
class CheckReport:
    """What was proven. rows: operations of all cores; semaphores: by (core, number).

    scratchpad_bytes, accumulator_bytes: the highest byte that any core touches, plus one.
    """

    rows: int = 0
    semaphores: dict[tuple[int, int], SemaphoreUse] = field(
        default_factory=dict[tuple[int, int], SemaphoreUse]
    )
    scratchpad_bytes: int = 0
    accumulator_bytes: int = 0


def check(
    rows_per_core: Sequence[Rows],
    chip: ChipSpec,
    windows: Sequence[Window],
    *,
    labels: Labels | None = None,
) -> CheckReport:
    """Prove the resolved rows of one launch, one array [n, RESOLVED_FIELDS] a core.

    labels: gives a name for a pc, for messages. Raises IsaError MV0610 to MV0627.
    """
    listings = [Listing(core, rows, labels) for core, rows in enumerate(rows_per_core)]
    _check_links(listings)
    accesses = Accesses(listings, chip, windows)
    run = _Run(listings, accesses)
    run.execute()
    return run.report()


def check_program(
    program: Program, *, resolver: Callable[..., Rows] = resolve, points: int | None = None
) -> dict[str, list[CheckReport]]:
    """Prove every entry of a program at each of its check points (all parameters 0 if it has none).

    resolver: a function like `isa.resolve`. points: only the first so many of each entry. Raises
    IsaError MV0610 to MV0627.
    """
    reports: dict[str, list[CheckReport]] = {}
    for name, entry in program.entries.items():
        reports[name] = []
        for point in (entry.check_points or [{}])[:points]:
            rows: list[Rows] = []
            for core in range(program.chip.cores):
                memory = entry.parameter_memory(core, point)
                try:
                    rows.append(
                        resolver(entry.code, memory, core_id=core, cores=program.chip.cores)
                    )
                except Fault as fault:
                    raise IsaError(
                        "MV0625",
                        f"CONTROL faults: {fault.what}",
                        where=f"entry {name}, core {core}, parameters {point}",
                        given=fault.given,
                        allowed="a program that reaches HALT",
                        hint="correct the program text",
                    ) from None
            reports[name].append(check(rows, program.chip, program.windows, labels=entry.label))
    return reports


def _check_links(listings: Sequence[Listing]) -> None:
    """One producer and one consumer engine for each semaphore."""
    for listing in listings:
        allowed = "one producer engine and one consumer engine for each semaphore"
        hint = "give the second engine a semaphore of its own"
        if two := _two_engines(listing, listing.posts):
            semaphore, row, other = two
            what, given = f"two engines post semaphore {semaphore}", f"and {listing.text(other)}"
            refuse("MV0614", what, listing.text(row), given, allowed, hint)
        if two := _two_engines(listing, listing.waits):
            semaphore, row, other = two
            what, given = (
                f"two engines wait for semaphore {semaphore}",
                f"and {listing.text(other)}",
            )
            refuse("MV0615", what, listing.text(row), given, allowed, hint)


def _two_engines(listing: Listing, links: Sequence[tuple[int, ...]]) -> tuple[int, int, int] | None:
    """(semaphore, a row, an earlier row of another engine) if two engines use one semaphore."""
    first: dict[int, int] = {}
    for row, used in enumerate(links):
        for semaphore in used:
            other = first.setdefault(semaphore, row)
            if listing.engine[other] != listing.engine[row]:
                return semaphore, row, other
    return None


class _Run:
    """Execution in dispatch order. Clock entry 4 * core + engine counts operations that ended."""

    def __init__(self, listings: Sequence[Listing], accesses: Accesses) -> None:
        self.listings, self.accesses = listings, accesses
        cores = range(len(listings))
        entries = ENGINES_A_CORE * len(listings)
        self.clocks = np.zeros((entries, entries), np.int32)
        self.history: list[list[int]] = [[] for _ in range(entries)]
        self.tokens = [[deque[npt.NDArray[np.int32]]() for _ in range(SEMAPHORES)] for _ in cores]
        self.posted = [[0] * SEMAPHORES for _ in cores]
        self.known = [[0] * SEMAPHORES for _ in cores]
        self.bound = [[0] * SEMAPHORES for _ in cores]
        self.waited: list[list[list[int]]] = [[[] for _ in range(SEMAPHORES)] for _ in cores]
        self.consumer = [[-1] * SEMAPHORES for _ in cores]
        self.producer = [[-1] * SEMAPHORES for _ in cores]
        own = [range(ENGINES_A_CORE * c, ENGINES_A_CORE * (c + 1)) for c in cores]
        self.pads = [Memory(accesses.pad, own[c], own[c]) for c in cores]
        loads = [ENGINES_A_CORE * c for c in cores]
        self.dram = Memory(accesses.dram, [entry + 1 for entry in loads], loads)

    def execute(self) -> None:
        at = [0] * len(self.listings)
        while True:
            for core, listing in enumerate(self.listings):
                while at[core] < len(listing) and listing.opcode[at[core]] not in JOINT:
                    self._start(core, at[core])
                    self._memory(core, at[core])
                    self._end(core, at[core])
                    at[core] += 1
            waiting = [
                core for core, listing in enumerate(self.listings) if at[core] < len(listing)
            ]
            if not waiting:
                break
            self._joint(at, waiting)
            at = [one + 1 for one in at]
        self._check_rest()

    def _start(self, core: int, row: int) -> None:
        """Take the tokens the row waits for; its engine's clock learns what their posts knew."""
        listing = self.listings[core]
        entry = ENGINES_A_CORE * core + listing.engine[row]
        number = len(self.history[entry]) + 1
        for semaphore in listing.waits[row]:
            queue = self.tokens[core][semaphore]
            if not queue:
                raise standstill(self.listings, core, row, semaphore)
            clock = self.clocks[entry]
            np.maximum(clock, queue.popleft(), out=clock)
            self.consumer[core][semaphore] = entry
            self.waited[core][semaphore].append(number)
        self.history[entry].append(row)
        self.clocks[entry, entry] = number  # an operation is in order with itself

    def _end(self, core: int, row: int) -> None:
        """The operation has ended: its posts tell what its engine knows."""
        listing = self.listings[core]
        entry = ENGINES_A_CORE * core + listing.engine[row]
        clock = self.clocks[entry]
        if not listing.posts[row]:
            return
        token = clock.copy()
        for semaphore in listing.posts[row]:
            self.tokens[core][semaphore].append(token)
            self.producer[core][semaphore] = entry
            self.posted[core][semaphore] += 1
            waited, known = self.waited[core][semaphore], self.known[core][semaphore]
            ended = clock[self.consumer[core][semaphore]] if waited else 0
            while known < len(waited) and waited[known] <= ended:
                known += 1
            self.known[core][semaphore] = known
            most = self.posted[core][semaphore] - known
            self.bound[core][semaphore] = max(most, self.bound[core][semaphore])
            if most > SEMAPHORE_MAX:
                refuse(
                    "MV0618",
                    f"semaphore {semaphore} can overflow",
                    listing.text(row),
                    f"{most} posts that no wait need have taken yet",
                    f"at most {SEMAPHORE_MAX}",
                    "let the producer wait for its consumer, by a semaphore the other way",
                )

    def _memory(self, core: int, row: int) -> None:
        near = self.accesses.near[core][row]
        reads, writes = self.accesses.reads[near], self.accesses.writes[near]
        entry = ENGINES_A_CORE * core + self.listings[core].engine[row]
        clock, number = self.clocks[entry], len(self.history[entry])
        if reads is not None and (c := self.pads[core].read(reads, clock, entry, number)):
            self._race(core, row, "reads", c)
        far = self.accesses.far[core].get(row)
        if far is not None:
            index = self.accesses.far_index[far]
            if self.listings[core].opcode[row] == STORE_OPCODE:
                conflict, verb = self.dram.write(index, clock, entry, number), "writes"
            else:
                conflict = self.dram.read(index, clock, entry, number, defined=False)
                verb = "reads"
            if conflict:
                self._race(core, row, verb, conflict, in_dram=True)
        if writes is not None and (c := self.pads[core].write(writes, clock, entry, number)):
            self._race(core, row, "writes", c)

    def _joint(self, at: list[int], waiting: Sequence[int]) -> None:
        """All cores are at a collective, or it is an error; EXCH and BARRIER join the clocks."""
        first = waiting[0]
        leader = self.listings[first]
        for core, listing in enumerate(self.listings):
            if at[core] >= len(listing):
                refuse(
                    "MV0619",
                    "a core does not come to a collective",
                    leader.text(at[first]),
                    f"core {core} has ended",
                    "the same collectives on every core",
                    f"give core {core} the same instruction",
                )
            mine, theirs = listing.rows[at[core]], leader.rows[at[first]]
            fields = {_EXCH: (2, 4), LOADM: _DRAM_SIDE}.get(leader.opcode[at[first]], ())
            if mine[R_OPCODE] != theirs[R_OPCODE] or any(
                mine[R_SLOT + f] != theirs[R_SLOT + f] for f in fields
            ):
                if leader.engine[at[first]] != listing.engine[at[core]]:
                    raise standstill(self.listings, core, at[core], None)
                refuse(
                    "MV0620",
                    "cores come to different collectives",
                    leader.text(at[first]),
                    listing.text(at[core]),
                    "the same kind, size and DRAM bytes on every core",
                    "dispatch the same collective on all cores",
                )
        for core in range(len(self.listings)):
            self._start(core, at[core])
        joins = leader.opcode[at[first]] != LOADM  # LOADM ends on each core by itself
        entries = [ENGINES_A_CORE * c + ls.engine[at[c]] for c, ls in enumerate(self.listings)]
        if joins:
            self.clocks[entries] = self.clocks[entries].max(0)
        for core in range(len(self.listings)):
            self._memory(core, at[core])
        for core in range(len(self.listings)):
            self._end(core, at[core])
        if joins:
            self.clocks[entries] = self.clocks[entries].max(0)

    def _race(
        self, core: int, row: int, verb: str, found: Conflict, *, in_dram: bool = False
    ) -> NoReturn:
        listing = self.listings[core]
        if in_dram:
            first = self.accesses.place(found.first_byte)
            place = f"{found.past_byte - found.first_byte} bytes of DRAM at window {first}"
        else:
            place = _pad_place(found.first_byte, found.past_byte)
        if found.engine < 0:
            refuse(
                "MV0621",
                f"{listing.engine_name(row)} reads bytes that nothing has written",
                listing.text(row),
                place,
                "bytes written earlier in this launch",
                "write them first, or correct the address, size or stride",
            )
        other_core, engine = divmod(found.engine, ENGINES_A_CORE)
        other = self.listings[other_core].text(self.history[found.engine][found.number - 1])
        name = ENGINES[engine + LOAD]
        me = listing.engine_name(row)
        hint = f"let {name} post a semaphore at or after that instruction, and {me} wait for it"
        if other_core != core:
            hint = "put a BARRIER between them, and order it with both by semaphores"
        given = f"{place}, {'written' if found.kind == WRITERS else 'read'} by {other}"
        allowed = f"the earlier {found.kind[:-1]} has ended before this {verb[:-1]} begins"
        if in_dram:
            refuse(
                "MV0624",
                f"{me} {verb} DRAM that {name} may still be "
                f"{'writing' if found.kind == WRITERS else 'reading'}",
                listing.text(row),
                given,
                allowed,
                hint,
            )
        if verb == "reads":
            refuse(
                "MV0622",
                f"{me} reads bytes that {name} may not have written yet",
                listing.text(row),
                given,
                allowed,
                hint,
            )
        refuse(
            "MV0623",
            f"{me} overwrites bytes that {name} may still be "
            f"{'writing' if found.kind == WRITERS else 'reading'}",
            listing.text(row),
            given,
            allowed,
            hint,
        )

    def _check_rest(self) -> None:
        for core, queues in enumerate(self.tokens):
            for semaphore, queue in enumerate(queues):
                if queue:
                    entry = self.producer[core][semaphore]
                    posts = [
                        row
                        for row in self.history[entry]
                        if semaphore in self.listings[core].posts[row]
                    ]
                    refuse(
                        "MV0626",
                        f"semaphore {semaphore} is left with {len(queue)} tokens",
                        self.listings[core].text(posts[-1]),
                        f"{len(posts)} posts",
                        "as many waits as posts when the program ends",
                        "remove the post, or let an engine wait for it",
                    )

    def report(self) -> CheckReport:
        cuts = self.accesses.pad.cuts
        in_pad = cuts[cuts < ACCUMULATOR_BASE]
        report = CheckReport(
            rows=sum(map(len, self.listings)),
            scratchpad_bytes=int(in_pad[-1]) if len(in_pad) else 0,
            accumulator_bytes=int(cuts[-1]) - ACCUMULATOR_BASE if len(cuts) > len(in_pad) else 0,
        )
        for core, posts in enumerate(self.posted):
            for semaphore, count in enumerate(posts):
                if count:
                    ends = (self.producer[core][semaphore], self.consumer[core][semaphore])
                    producer, consumer = (ENGINES[e % ENGINES_A_CORE + LOAD] for e in ends)
                    report.semaphores[core, semaphore] = SemaphoreUse(
                        producer, consumer, count, self.bound[core][semaphore]
                    )
        return report


def _pad_place(first: int, past: int) -> str:
    if first >= ACCUMULATOR_BASE:
        first, past = first - ACCUMULATOR_BASE, past - ACCUMULATOR_BASE
        return f"accumulator bytes {first:#x}..{past:#x}"
    return f"scratchpad bytes {first:#x}..{past:#x}"
