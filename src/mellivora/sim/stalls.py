"""Why an engine did not work: every idle cycle before an operation's start has one cause.

From when the engine was free until the operation starts, in this order: the row was not yet
dispatched ("dispatch"); then the token that came last was not yet posted, charged to what its
producer was doing: for MATRIX and VECTOR the engine ("matrix", "vector"), for a transfer its
issue ("load", "store"), its "latency", the other cores ("rendezvous") or its data ("bandwidth");
then, for LOAD and STORE, too many transfers in flight, charged in the same way to the one that
must end first. After the last operation the engine is "finished".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mellivora.isa.encoding import LOAD, MATRIX
from mellivora.sim.timing import ChipNumbers, Role

if TYPE_CHECKING:
    from mellivora.sim.result import TimingResult

Rows = npt.NDArray[np.int64]

CAUSES = (
    "dispatch",
    "load",
    "store",
    "matrix",
    "vector",
    "latency",
    "rendezvous",
    "bandwidth",
    "finished",
)
_AT = {cause: index for index, cause in enumerate(CAUSES)}


def tokens(operations: npt.NDArray[np.void], start: Rows, end: Rows) -> Rows:
    """For each row the row whose post it waited for longest, -1 if it waits for none.

    The k-th wait on a semaphore takes the k-th token posted to it.
    """
    rows = np.arange(len(operations))

    def events(names: tuple[str, str], times: Rows) -> tuple[Rows, Rows]:
        both = [(operations[name].astype(np.int64), name) for name in names]
        semaphore = np.concatenate([values[values > 0] for values, _ in both])
        row = np.concatenate([rows[values > 0] for values, _ in both])
        order = np.lexsort((row, times[row], semaphore))
        return semaphore[order], row[order]

    taken, taker = events(("wait0", "wait1"), start)
    posted, poster = events(("post0", "post1"), end)
    rank = np.arange(len(taken)) - np.searchsorted(taken, taken)
    producer = poster[np.searchsorted(posted, taken) + rank] if len(taken) else taken
    out = np.full(len(operations), -1, np.int64)
    when = end[producer] if len(taken) else taken
    order = np.argsort(when, kind="stable")  # the latest is written last
    out[taker[order]] = producer[order]
    return out


def engine_stalls(result: TimingResult, core: int, engine: int, token: Rows) -> Rows:
    """[len(CAUSES)] cycles of one engine (0 is LOAD); see the module's text."""
    pieces = stall_pieces(result, core, engine, token)
    out = np.zeros(len(CAUSES), np.int64)
    for cause, _, low, high in pieces:
        out[_AT[cause]] += int((high - low).sum())
    return out


def stall_pieces(
    result: TimingResult, core: int, engine: int, token: Rows
) -> list[tuple[str, Rows, Rows, Rows]]:
    """(cause, rows, from, to): disjoint intervals of waiting to start these rows."""
    table, start, end = result.operations[core], result.start[core], result.end[core]
    mine = np.flatnonzero(table["engine"] == engine)
    left = result.released[core][mine]
    free = np.concatenate([np.zeros(1, np.int64), left])
    out: list[tuple[str, Rows, Rows, Rows]] = []
    begin, stop = free[:-1], start[mine]
    ready = np.maximum(begin, result.dispatch[core][mine])
    out.append(("dispatch", mine, begin, ready))

    producer = token[mine]
    waits = producer >= 0
    posted = np.where(waits, np.maximum(ready, end[producer]), ready)
    out += _blame(result, core, producer[waits], mine[waits], ready[waits], posted[waits])

    if engine + LOAD < MATRIX:
        blocker = _in_flight_blocker(table, mine, ChipNumbers.of(result.chip).outstanding)
        held = blocker >= 0
        out += _blame(result, core, blocker[held], mine[held], posted[held], stop[held])
        together = table["role"][mine] == Role.COLLECTIVE
        cost = table["cost"][mine]
        out.append(("rendezvous", mine[together], stop[together], (left - cost)[together]))
    last = np.array([result.cycles], np.int64)
    out.append(("finished", np.array([-1]), free[-1:], last))
    return out


def _in_flight_blocker(table: npt.NDArray[np.void], mine: Rows, outstanding: int) -> Rows:
    """The transfer that must end before each operation of a DMA queue may start; -1: none."""
    flies = table["role"][mine] != Role.COLLECTIVE
    flying = np.flatnonzero(flies)
    before = np.cumsum(flies) - flies - 1  # place of the last one before
    at = np.where(flies & (table["after"][mine] == 0), before + 1 - outstanding, before)
    return (
        np.where(at >= 0, mine[flying[np.maximum(at, 0)]], -1)
        if len(flying)
        else np.full(len(mine), -1)
    )


def _blame(
    result: TimingResult, core: int, row: Rows, waiter: Rows, low: Rows, high: Rows
) -> list[tuple[str, Rows, Rows, Rows]]:
    """Splits [low, high), spent until `row` ended, by what that row was doing."""
    table, start = result.operations[core], result.start[core]
    row = _last_transfer(table)[row]
    engine = table["engine"][row]
    out: list[tuple[str, Rows, Rows, Rows]] = []
    moves = np.isin(table["role"][row], (Role.TRANSFER, Role.MULTICAST, Role.ORDER))
    for number, name in enumerate(("load", "store", "matrix", "vector")):
        pick = (engine == number) & ~moves
        out.append((name, waiter[pick], low[pick], high[pick]))
    issued = start[row] + table["cost"][row]
    own = issued + np.where(table["bursts"][row] > 0, ChipNumbers.of(result.chip).latency, 0)
    shared = np.maximum(own, result.data_ready[core][row])
    edges = [np.clip(edge, low, high) for edge in (issued, own, shared)]
    edges = [low, *edges, high]
    for number, name in enumerate(("load", "store")):
        pick = (engine == number) & moves
        out.append((name, waiter[pick], edges[0][pick], edges[1][pick]))
    for name, a, b in zip(("latency", "rendezvous", "bandwidth"), edges[1:], edges[2:]):
        out.append((name, waiter[moves], a[moves], b[moves]))
    return out


def _last_transfer(table: npt.NDArray[np.void]) -> Rows:
    """Each row itself; for LSYNC and SSYNC the transfer before it in the queue, which it waits
    behind."""
    out = np.arange(len(table))
    for engine in (0, 1):
        mine = np.flatnonzero(table["engine"] == engine)
        if len(mine):
            moving = np.isin(table["role"][mine], (Role.TRANSFER, Role.MULTICAST))
            before = np.maximum.accumulate(np.where(moving, np.arange(len(mine)), -1))
            order = (table["role"][mine] == Role.ORDER) & (before >= 0)
            out[mine[order]] = mine[before[order]]
    return out
