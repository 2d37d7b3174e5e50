"""Resolved rows as the checker reads them: engines, semaphores, and a name for every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mellivora.errors import IsaError
from mellivora.isa.encoding import (
    ENGINES,
    LOAD,
    R_OPCODE,
    R_PC,
    R_POST0,
    R_POST1,
    R_SLOT,
    R_WAIT0,
    R_WAIT1,
    RESOLVED_FIELDS,
    SEMAPHORES,
)
from mellivora.isa.table import BY_NAME, BY_OPCODE, COLLECTIVES

Labels = Callable[[int], str]
Rows = npt.NDArray[np.int64]

ENGINES_A_CORE = 4
LOADM = BY_NAME["loadm"].opcode
JOINT = frozenset((*COLLECTIVES, LOADM))
"""Operations that must match on all cores."""

_ENGINE = np.full(256, -1, np.int64)
for _row in BY_OPCODE.values():
    _ENGINE[_row.opcode] = _row.engine - LOAD


class Listing:
    """One core's rows in dispatch order.

    engine: 0..3 a row (LOAD, STORE, MATRIX, VECTOR); waits, posts: semaphores a row, without zeros.
    Raises IsaError MV0610 for rows that no CONTROL can have made.
    """

    def __init__(self, core: int, rows: Rows, labels: Labels | None) -> None:
        self.core, self.rows, self.labels = core, rows, labels
        good = rows.ndim == 2 and rows.shape[1] == RESOLVED_FIELDS and rows.dtype == np.int64
        if good and len(rows):
            opcodes, links = rows[:, R_OPCODE], rows[:, R_WAIT0 : R_POST1 + 1]
            good = bool(((opcodes >= 0) & (opcodes < 256)).all())
            good = good and bool((_ENGINE[opcodes] >= 0).all())
            good = good and bool(((links >= 0) & (links < SEMAPHORES)).all())
        if not good:
            raise IsaError(
                "MV0610",
                "these are not resolved rows",
                where=f"core {core}",
                given=f"{rows.dtype} {list(rows.shape)}",
                allowed=f"int64 [n, {RESOLVED_FIELDS}] with engine opcodes, semaphores 0..63",
                hint="give what `isa.resolve` returns",
            )
        self.engine: list[int] = _ENGINE[rows[:, R_OPCODE]].tolist()
        self.opcode: list[int] = rows[:, R_OPCODE].tolist()
        self.waits = _links(rows, R_WAIT0, R_WAIT1)
        self.posts = _links(rows, R_POST0, R_POST1)

    def __len__(self) -> int:
        return len(self.opcode)

    def of_engine(self, engine: int) -> list[int]:
        """Rows of one engine, in order."""
        return [at for at, one in enumerate(self.engine) if one == engine]

    def engine_name(self, at: int) -> str:
        return ENGINES[self.engine[at] + LOAD]

    def text(self, at: int) -> str:
        """A row as a person reads it: core, engine, pc, assembly with register values, label."""
        row = self.rows[at].tolist()
        pc = row[R_PC]
        name = f"core {self.core} {self.engine_name(at)} pc {pc}: {assembly(row)}"
        label = self.labels(pc) if self.labels else ""
        return f"{name} ({label})" if label else name


def assembly(row: Sequence[int]) -> str:
    """Assembly text of a resolved row; registers appear as their values."""
    known = BY_OPCODE[row[R_OPCODE]]
    parts = [known.name, *map(str, row[R_SLOT : R_SLOT + len(known.slots)])]
    parts += [f"?{s}" for s in row[R_WAIT0 : R_WAIT1 + 1] if s]
    parts += [f"!{s}" for s in row[R_POST0 : R_POST1 + 1] if s]
    return " ".join(parts)


def _links(rows: Rows, first: int, last: int) -> list[tuple[int, ...]]:
    pairs: list[list[int]] = rows[:, first : last + 1].tolist()
    some: dict[tuple[int, int], tuple[int, ...]] = {}
    return [
        some.setdefault((a, b), tuple(s for s in (a, b) if s)) for a, b in pairs
    ]  # shared tuples: few pairs, many rows
