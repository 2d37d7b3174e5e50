"""Sequences in slots: prefill, decode and score on a device. What continuous batching drives.

A slot is a place for one sequence's keys and values. The engine keeps no list of sequences: whoever
calls it says which slot, which token, which position. A slot can be taken again at any time;
attention never looks past a sequence's own position, so nothing has to be cleared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from mellivora.compiler.layout import DecodeParam, PrefillParam
from mellivora.errors import UsageError
from mellivora.runtime.cache import Executable
from mellivora.runtime.device import Device

Logits = npt.NDArray[np.float32]


class Engine:
    """Launches of one compiled language model. Raises UsageError MV0821 for ids, slots or positions
    it lacks.
    """

    def __init__(self, executable: Executable, *, threads: int = 2) -> None:
        self.executable = executable
        self.device = Device(executable, threads=threads)

    def prefill(self, slot: int, ids: Sequence[int], *, start: int = 0) -> Logits:
        """Append ids at positions start, start + 1, ... of a slot. Returns the last row's logits
        [vocab].
        """
        *_, last = self._chunks(slot, ids, start, scored=False)
        return last[0]

    def score(self, slot: int, ids: Sequence[int], *, start: int = 0) -> Iterator[Logits]:
        """The same, but yields the logits of all rows, float32 [rows of a launch, vocab] each."""
        return self._chunks(slot, ids, start, scored=True)

    def decode(self, batch: Sequence[tuple[int, int, int]]) -> Logits:
        """One step of (slot, token, position) for each of 1 to `slots` sequences. Logits [batch,
        vocab].

        Each slot at most once; positions below `position` hold what earlier calls wrote.
        """
        self.device.launch("decode", self.decode_settings(batch))
        return self.device.read_logits(len(batch))

    # ------------------------------------------------------------------------------------- settings

    def prefill_settings(
        self, slot: int, ids: Sequence[int], start: int, *, head_first: int, head_rows: int
    ) -> npt.NDArray[np.int32]:
        """Parameter memory of one prefill launch."""
        self._check(ids, slot, start, start + len(ids))
        p, e = PrefillParam, self.executable
        memory = np.zeros(p.TOKEN + e.chunk, np.int32)
        memory[p.ROWS], memory[p.POSITION], memory[p.KV_BASE] = (
            len(ids),
            start,
            slot * e.kv.slot_units,
        )
        memory[p.HEAD_FIRST], memory[p.HEAD_ROWS] = head_first, head_rows
        memory[p.TOKEN : p.TOKEN + len(ids)] = ids
        return memory

    def decode_settings(self, batch: Sequence[tuple[int, int, int]]) -> npt.NDArray[np.int32]:
        """Parameter memory of one decode launch."""
        p, e = DecodeParam, self.executable
        slots = [slot for slot, _, _ in batch]
        if not 1 <= len(batch) <= e.slots or len(set(slots)) != len(batch):
            raise _refused("sequences in a step", slots, f"1 to {e.slots}, each slot once")
        memory = np.zeros(p.TOKEN + e.slots, np.int32)
        memory[p.BATCH] = len(batch)
        for b, (slot, token, position) in enumerate(batch):
            self._check([token], slot, position, position + 1)
            memory[p.POSITION + b], memory[p.KV_BASE + b] = position, slot * e.kv.slot_units
            memory[p.TOKEN + b] = token
        return memory

    def _chunks(
        self, slot: int, ids: Sequence[int], start: int, *, scored: bool
    ) -> Iterator[Logits]:
        if not len(ids):
            raise _refused("tokens to prefill", 0, "1 or more")
        self._check(ids, slot, start, start + len(ids))
        rows = (
            min(self.executable.chunk, self.device.logits_rows) if scored else self.executable.chunk
        )
        for first in range(0, len(ids), rows):
            part = ids[first : first + rows]
            last = first + rows >= len(ids)
            heads = (0, len(part)) if scored else (len(part) - 1, 1 if last else 0)
            settings = self.prefill_settings(
                slot, part, start + first, head_first=heads[0], head_rows=heads[1]
            )
            self.device.launch("prefill", settings)
            if scored or last:
                yield self.device.read_logits(heads[1])

    def _check(self, ids: Sequence[int], slot: int, first: int, end: int) -> None:
        e = self.executable
        if not 0 <= slot < e.slots:
            raise _refused("the slot", slot, f"0 to {e.slots - 1}")
        if not 0 <= first <= end <= e.context:
            raise _refused("the positions", f"{first}..{end - 1}", f"0 to {e.context - 1}")
        if min(ids) < 0 or max(ids) >= e.vocab:
            raise _refused(
                "a token id", min(ids) if min(ids) < 0 else max(ids), f"0 to {e.vocab - 1}"
            )


def _refused(what: str, given: object, allowed: str) -> UsageError:
    return UsageError(
        "MV0821",
        "the compiled model cannot take this",
        where=what,
        given=str(given),
        allowed=allowed,
        hint="compile with a larger context or batch, or correct the request",
    )
