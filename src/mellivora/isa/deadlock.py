"""Why a program stands still: free execution of tokens, and the circle of engines that wait."""

from __future__ import annotations

from collections.abc import Sequence

from mellivora.errors import IsaError
from mellivora.isa.encoding import ENGINES, LOAD, SEMAPHORES
from mellivora.isa.listing import ENGINES_A_CORE, JOINT, Listing


class Standstill:
    """Runs every engine as far as its tokens let it, with endless queues: the most progress."""

    def __init__(self, listings: Sequence[Listing]) -> None:
        self.listings = listings
        self.queues = [[ls.of_engine(e) for e in range(ENGINES_A_CORE)] for ls in listings]
        self.at = [[0] * ENGINES_A_CORE for _ in listings]
        self.tokens = [[0] * SEMAPHORES for _ in listings]
        while self._round():
            pass

    @property
    def finished(self) -> bool:
        return all(self.head(c, e) is None for c in range(len(self.queues)) for e in range(4))

    def head(self, core: int, engine: int) -> int | None:
        """Row at which an engine stands, None if it is done."""
        queue, at = self.queues[core][engine], self.at[core][engine]
        return queue[at] if at < len(queue) else None

    def missing(self, core: int, row: int) -> int | None:
        """The first semaphore a row waits for in vain, None if it has its tokens."""
        have = self.tokens[core][:]
        for semaphore in self.listings[core].waits[row]:
            have[semaphore] -= 1
            if have[semaphore] < 0:
                return semaphore
        return None

    def _joint(self, core: int, engine: int) -> bool:
        row = self.head(core, engine)
        return (
            row is not None
            and self.listings[core].opcode[row] in JOINT
            and self.missing(core, row) is None
        )

    def _pass(self, core: int, engine: int, row: int) -> None:
        for semaphore in self.listings[core].waits[row]:
            self.tokens[core][semaphore] -= 1
        for semaphore in self.listings[core].posts[row]:
            self.tokens[core][semaphore] += 1
        self.at[core][engine] += 1

    def _round(self) -> bool:
        moved = False
        for engine in range(ENGINES_A_CORE):
            for core, listing in enumerate(self.listings):
                while (row := self.head(core, engine)) is not None:
                    if listing.opcode[row] in JOINT or self.missing(core, row) is not None:
                        break
                    self._pass(core, engine, row)
                    moved = True
            while all(self._joint(core, engine) for core in range(len(self.listings))):
                for core in range(len(self.listings)):
                    row = self.head(core, engine)
                    assert row is not None
                    self._pass(core, engine, row)
                moved = True
        return moved

    def _blocked_by(self, core: int, engine: int, row: int) -> tuple[str, tuple[int, int] | None]:
        """(why a row cannot go on, the engine it waits for or None if nothing will ever help)."""
        semaphore = self.missing(core, row)
        if semaphore is None:  # a collective that some core does not come to
            for other in range(len(self.listings)):
                if not self._joint(other, engine):
                    name = f"core {other} {ENGINES[engine + LOAD]}"
                    if self.head(other, engine) is None:
                        return f"waits for {name}, which has ended", None
                    return f"waits for {name}", (other, engine)
        for other in range(ENGINES_A_CORE):
            rest = self.queues[core][other][self.at[core][other] :]
            for later in rest:
                if semaphore in self.listings[core].posts[later]:
                    post = self.listings[core].text(later)
                    return f"waits for semaphore {semaphore}, which comes from {post}", (
                        core,
                        other,
                    )
        return f"waits for semaphore {semaphore}, which nothing posts any more", None

    def circle(self) -> list[str]:
        """A line for each engine of the circle, or of the chain to a post that never comes."""
        start = next(
            (c, e) for c in range(len(self.queues)) for e in range(4) if self.head(c, e) is not None
        )
        seen: list[tuple[int, int]] = []
        lines: list[str] = []
        node: tuple[int, int] | None = start
        while node is not None and node not in seen:
            seen.append(node)
            row = self.head(*node)
            assert row is not None
            why, after = self._blocked_by(*node, row)
            lines.append(f"{self.listings[node[0]].text(row)} {why}")
            node = after
        return lines[seen.index(node) :] if node is not None else lines


def standstill(listings: Sequence[Listing], core: int, row: int, semaphore: int | None) -> IsaError:
    """Error of a row that cannot go on in dispatch order: deadlock, or a wait before its post."""
    free = Standstill(listings)
    if not free.finished:
        lines = free.circle()
        return IsaError(
            "MV0612",
            "the program deadlocks",
            where=lines[0],
            given="".join(f"\n           {line}" for line in lines[1:]).strip(),
            allowed="every wait has a post that does not itself wait for it",
            hint="remove one wait of the circle, or post its semaphore earlier",
        )
    if semaphore is None:
        return IsaError(
            "MV0613",
            "the cores come to their collectives in different orders",
            where=listings[core].text(row),
            allowed="the same sequence of LOADM, EXCH and BARRIER in every core's program",
            hint="dispatch collectives in one order on all cores",
        )
    later = next(i for i in range(row, len(listings[core])) if semaphore in listings[core].posts[i])
    return IsaError(
        "MV0611",
        "a wait comes before its post in program order: full queues would deadlock",
        where=listings[core].text(row),
        given=f"semaphore {semaphore} is posted by {listings[core].text(later)}",
        allowed="in dispatch order every wait finds its token",
        hint="move the post before the wait in the program text",
    )
