"""A timing run as a Perfetto trace: ui.perfetto.dev opens it.

One process a core; for each engine a track of what it did and one of why it waited; and the bytes
a second that DRAM moved. Transfers are drawn where their data moved (issue and latency are in
their arguments), so that slices of a track never overlap.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mellivora.errors import HostError
from mellivora.isa.encoding import R_OPCODE, R_PC
from mellivora.isa.table import BY_OPCODE
from mellivora.sim.result import UNNAMED, WORKERS, Symbol, TimingResult
from mellivora.sim.stalls import stall_pieces, tokens
from mellivora.sim.timing import Role

if TYPE_CHECKING:
    from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

Ints = npt.NDArray[np.int64]

MAX_SLICES = 300_000
BANDWIDTH_POINTS = 2000
BANDWIDTH_CYCLES = 64
"""Most points of the DRAM counter, and fewest cycles that one of them covers."""
_SEQUENCE = 1
_ARGUMENTS = ("pc", "row", "dispatched", "started")


@dataclass(frozen=True)
class TraceReport:
    """What was drawn: slices, cores 0 to cores-1, cycles from 0 to cycles-1; note says what was
    left out."""

    slices: int
    cores: int
    cycles: int
    note: str


@dataclass(frozen=True)
class _Slices:
    """Slices of one track in order of time: name numbers, begin and end edges, rows (-1: no
    arguments)."""

    name: Ints
    begin: Ints
    end: Ints
    row: Ints


def write_trace(
    path: str | os.PathLike[str],
    result: TimingResult,
    *,
    symbols: Sequence[Symbol] = (),
    max_slices: int = MAX_SLICES,
) -> TraceReport:
    """Write the trace of a run to `path`, whole or not at all. Raises HostError MV0970 if that
    fails.

    Past max_slices only the first cores, or the first cycles of core 0, are drawn; the report and
    the trace say so.
    """
    names: dict[str, int] = {}
    tracks = [_core_tracks(result, core, symbols, names) for core in range(len(result.rows))]
    counts = [sum(len(slices.name) for _, slices in one) for one in tracks]
    cores = max(1, int(np.searchsorted(np.cumsum(counts), max_slices, side="right")))
    cycles = result.cycles
    if counts[0] > max_slices:
        ends = np.sort(np.concatenate([slices.end for _, slices in tracks[0]]))
        cycles = int(ends[max_slices - 1])
        tracks = [[(name, _before(slices, cycles)) for name, slices in tracks[0]]]
    note = ""
    if cores < len(result.rows) or cycles < result.cycles:
        note = (
            f"drawn: {cores} of {len(result.rows)} cores, cycles 0 to {cycles} of {result.cycles}"
        )
    target = Path(path)
    partial = target.with_name(target.name + ".part")
    try:
        with partial.open("wb") as file:
            _write(file, result, tracks[:cores], list(names), cycles, note)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise HostError("MV0970", "the trace cannot be written", where=str(path), given=str(error),
                        hint="choose a folder that can be written") from error  # fmt: skip
    drawn = sum(len(slices.name) for one in tracks[:cores] for _, slices in one)
    return TraceReport(drawn, cores, cycles, note)


def data_begin(result: TimingResult, core: int) -> Ints:
    """For each row of a core the edge from which its slice is drawn."""
    table, end = result.operations[core], result.end[core]
    begin = result.start[core].copy()
    together = table["role"] == Role.COLLECTIVE
    begin[together] = end[together] - table["cost"][together]
    for engine in (0, 1):
        mine = np.flatnonzero((table["engine"] == engine) & ~together)
        before = np.concatenate([np.zeros(1, np.int64), end[mine][:-1]]) if len(mine) else mine
        begin[mine] = np.minimum(np.maximum(result.data_ready[core][mine], before), end[mine])
    return begin


def _core_tracks(
    result: TimingResult, core: int, symbols: Sequence[Symbol], names: dict[str, int]
) -> list[tuple[str, _Slices]]:
    """(track name, slices) of one core; numbers its slice names into `names`."""
    table, rows = result.operations[core], result.rows[core]
    labels, of_row = result.label_rows(symbols)
    pairs, inverse = np.unique(
        np.stack([rows[:, R_OPCODE], of_row[core]], axis=1), axis=0, return_inverse=True
    )
    numbers = np.zeros(len(pairs), np.int64)
    for i, (opcode, label) in enumerate(pairs.tolist()):
        text = BY_OPCODE[opcode].name
        if labels[label][0] != UNNAMED:
            text += " " + labels[label][0]
        numbers[i] = names.setdefault(text, len(names))
    begin, end = data_begin(result, core), result.end[core]
    token = tokens(table, result.start[core], end)
    out: list[tuple[str, _Slices]] = []
    for engine, name in enumerate(WORKERS):
        mine = np.flatnonzero((table["engine"] == engine) & (end > begin))
        out.append((name, _Slices(numbers[inverse.ravel()[mine]], begin[mine], end[mine], mine)))
        out.append((f"{name} waits", _waits(result, core, engine, token, names)))
    return out


def _waits(
    result: TimingResult, core: int, engine: int, token: Ints, names: dict[str, int]
) -> _Slices:
    parts: list[list[Ints]] = [[], [], [], []]
    for cause, row, low, high in stall_pieces(result, core, engine, token):
        pick = high > low
        if cause == "finished" or not pick.any():
            continue
        number = names.setdefault(f"waits: {cause}", len(names))
        for part, values in zip(
            parts, (np.full(int(pick.sum()), number), low[pick], high[pick], row[pick])
        ):
            part.append(values)
    if not parts[0]:
        return _Slices(*(np.zeros(0, np.int64) for _ in range(4)))
    name, low, high, row = (np.concatenate(part) for part in parts)
    order = np.argsort(low, kind="stable")
    return _Slices(name[order], low[order], high[order], row[order])


def _before(slices: _Slices, cycle: int) -> _Slices:
    keep = slices.end <= cycle
    return _Slices(slices.name[keep], slices.begin[keep], slices.end[keep], slices.row[keep])


def dram_bytes_by_bin(
    result: TimingResult, edges: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """DRAM bytes in each bin of cycle edges, every transfer spread evenly over its data phase."""
    total = np.zeros(len(edges))
    for core, table in enumerate(result.operations):
        pick = (table["bursts"] > 0) & ((core == 0) | (table["role"] != Role.MULTICAST))
        begin = data_begin(result, core)[pick].astype(np.float64)
        end = np.maximum(result.end[core][pick], begin + 1)
        size = table["bursts"][pick] * float(result.chip.dram_burst_bytes)
        slope = size / (end - begin)
        for time, sign in ((begin, 1.0), (end, -1.0)):
            order = np.argsort(time)
            at, rate = time[order], np.concatenate([[0.0], np.cumsum(slope[order])])
            area = np.concatenate([[0.0], np.cumsum((slope * time)[order])])
            index = np.searchsorted(at, edges, side="right")
            total += sign * (rate[index] * edges - area[index])
    return np.maximum(np.diff(total), 0.0)


def _write(
    file: Any,
    result: TimingResult,
    tracks: list[list[tuple[str, _Slices]]],
    names: list[str],
    cycles: int,
    note: str,
) -> None:
    from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

    builder = StreamingTraceProtoBuilder(file)
    ns_per_cycle = 1000 / result.chip.clock_mhz
    _intern(builder, names)
    for core, one in enumerate(tracks):
        process = 1 + core * 16
        title = f"core {core}" + (f" ({note})" if note and core == 0 else "")
        _describe(builder, process, title, pid=core + 1)
        for rank, (name, slices) in enumerate(one):
            _describe(builder, process + 1 + rank, name, parent=process, rank=rank)
            _slices(builder, process + 1 + rank, slices, result, core, ns_per_cycle)
    counter = 1 + len(tracks) * 16
    _describe(builder, counter, "DRAM", unit="GB/s")
    points = min(BANDWIDTH_POINTS, cycles // BANDWIDTH_CYCLES + 1)
    edges = np.linspace(0.0, float(cycles), points + 1)
    moved = dram_bytes_by_bin(result, edges) / np.maximum(np.diff(edges), 1e-9)
    for edge, rate in zip([*edges[:-1], edges[-1]], [*moved, 0.0]):
        packet = _event(builder, counter, round(edge * ns_per_cycle))
        packet.track_event.type = packet.track_event.TYPE_COUNTER
        packet.track_event.double_counter_value = rate / ns_per_cycle
        builder.write_packet(packet)


def _intern(builder: StreamingTraceProtoBuilder, names: list[str]) -> None:
    """The first packet: texts that slices refer to by number (from 1)."""
    packet = builder.create_packet()
    packet.trusted_packet_sequence_id = _SEQUENCE
    packet.sequence_flags = packet.SEQ_INCREMENTAL_STATE_CLEARED
    for number, text in enumerate(names, 1):
        entry = packet.interned_data.event_names.add()
        entry.iid, entry.name = number, text
    for number, text in enumerate(_ARGUMENTS, 1):
        entry = packet.interned_data.debug_annotation_names.add()
        entry.iid, entry.name = number, text
    builder.write_packet(packet)


def _describe(
    builder: StreamingTraceProtoBuilder,
    uuid: int,
    name: str,
    *,
    pid: int = 0,
    parent: int = 0,
    rank: int = 0,
    unit: str = "",
) -> None:
    packet = builder.create_packet()
    track = packet.track_descriptor
    track.uuid = uuid
    if pid:
        track.process.pid, track.process.process_name = pid, name
        track.child_ordering = track.EXPLICIT
    else:
        track.name = name
    if parent:
        track.parent_uuid, track.sibling_order_rank = parent, rank
    if unit:
        track.counter.unit_name = unit
    builder.write_packet(packet)


def _event(builder: StreamingTraceProtoBuilder, uuid: int, at_ns: int) -> Any:
    packet = builder.create_packet()
    packet.timestamp = at_ns
    packet.trusted_packet_sequence_id = _SEQUENCE
    packet.sequence_flags = packet.SEQ_NEEDS_INCREMENTAL_STATE
    packet.track_event.track_uuid = uuid
    return packet


def _slices(
    builder: StreamingTraceProtoBuilder,
    uuid: int,
    slices: _Slices,
    result: TimingResult,
    core: int,
    ns_per_cycle: float,
) -> None:
    rows = slices.row
    known = [
        result.rows[core][rows, R_PC],
        rows,
        result.dispatch[core][rows],
        result.start[core][rows],
    ]
    arguments = np.stack(known, axis=1).tolist()
    times = zip(
        slices.begin.tolist(), slices.end.tolist(), slices.name.tolist(), arguments, strict=True
    )
    for begin, end, name, values in times:
        packet = _event(builder, uuid, round(begin * ns_per_cycle))
        event = packet.track_event
        event.type, event.name_iid = event.TYPE_SLICE_BEGIN, name + 1
        for number, value in enumerate(values, 1):
            note = event.debug_annotations.add()
            note.name_iid, note.int_value = number, value
        builder.write_packet(packet)
        packet = _event(builder, uuid, round(end * ns_per_cycle))
        packet.track_event.type = packet.track_event.TYPE_SLICE_END
        builder.write_packet(packet)
