"""The trace parses back to the run it was made from."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

from mellivora.errors import HostError
from mellivora.isa import assemble, resolve
from mellivora.isa.modes import BFormat, matmul_mode
from mellivora.sim.result import TimingResult
from mellivora.sim.timing import simulate
from mellivora.sim.trace import data_begin, dram_bytes_by_bin, write_trace
from mellivora.spec import load_chip

MICRO = load_chip("micro")
TEXT = f"""loop 10 5
load 0 0 0 0 640 1 1 1 !1
loadm 0 0 0 0 640 1 1 1 !3
matmul 0 0 0 0 20 4 16 {matmul_mode(BFormat.MX8)} ?1 ?3 !2
vew 0 0 0 0 8 8 1 2 ?2
store 0 0 0 0 128 1 1 1
barrier
halt"""
SYMBOLS = [(1, 4, "layer 0", "linear")]


@pytest.fixture(scope="module")
def result() -> TimingResult:
    return simulate([resolve(assemble(TEXT), [], core_id=i, cores=2) for i in range(2)], MICRO)


def parse(
    path: Path,
) -> tuple[dict[str, list[tuple[str, int, int, dict[str, int]]]], list[float], list[str]]:
    """(slices by track, counter values, process names) of a trace; slices are checked to nest."""
    trace = Trace()
    trace.ParseFromString(path.read_bytes())
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    tracks: dict[int, str] = {}
    processes: list[str] = []
    slices: dict[str, list[tuple[str, int, int, dict[str, int]]]] = defaultdict(list)
    opened: dict[int, tuple[str, int, dict[str, int]]] = {}
    counter: list[float] = []
    for packet in trace.packet:
        names |= {entry.iid: entry.name for entry in packet.interned_data.event_names}
        arguments |= {e.iid: e.name for e in packet.interned_data.debug_annotation_names}
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            if track.HasField("process"):
                processes.append(track.process.process_name)
            tracks[track.uuid] = f"{track.parent_uuid // 16}/{track.name}"
        elif packet.HasField("track_event"):
            event, uuid = packet.track_event, packet.track_event.track_uuid
            if event.type == event.TYPE_COUNTER:
                counter.append(event.double_counter_value)
            elif event.type == event.TYPE_SLICE_BEGIN:
                assert uuid not in opened
                known = {arguments[a.name_iid]: a.int_value for a in event.debug_annotations}
                opened[uuid] = (names[event.name_iid], packet.timestamp, known)
            else:
                name, begin, known = opened.pop(uuid)
                slices[tracks[uuid]].append((name, begin, packet.timestamp, known))
    assert not opened
    return slices, counter, processes


def test_trace_round_trip(tmp_path: Path, result: TimingResult) -> None:
    report = write_trace(tmp_path / "a.pftrace", result, symbols=SYMBOLS)
    slices, counter, processes = parse(tmp_path / "a.pftrace")
    assert processes == ["core 0", "core 1"]
    assert report.note == ""
    assert report.slices == sum(map(len, slices.values()))
    for core in range(2):
        mine = np.flatnonzero(result.operations[core]["engine"] == 2)
        drawn = [(begin, end, args["row"]) for _, begin, end, args in slices[f"{core}/MATRIX"]]
        times = zip(result.start[core][mine], result.end[core][mine], mine, strict=True)
        assert drawn == [tuple(map(int, one)) for one in times]  # a cycle of micro is a nanosecond
        assert {name for name, *_ in slices[f"{core}/MATRIX"]} == {"matmul layer 0"}
        assert {name for name, *_ in slices[f"{core}/STORE"]} == {"store", "barrier"}
        waited = sum(end - begin for _, begin, end, _ in slices[f"{core}/MATRIX waits"])
        assert waited == result.stall_cycles[core, 2, :-1].sum()
    for track in slices.values():
        times = [edge for _, begin, end, _ in track for edge in (begin, end)]
        assert times == sorted(times)
    bins = len(counter) - 1  # the last value closes the counter
    # float sums of a few hundred terms
    mean = result.work.bursts * 64 / result.cycles  # bytes a nanosecond: micro runs at 1 GHz
    assert np.isclose(sum(counter[:bins]) / bins, mean, rtol=1e-9, atol=0)


def test_dram_counter_keeps_every_byte(result: TimingResult) -> None:
    moved = dram_bytes_by_bin(result, np.linspace(0.0, result.cycles, 101))
    # differences of running sums below 2^24 with 53 bits
    assert np.isclose(moved.sum(), result.work.bursts * 64, rtol=1e-9, atol=0)


def test_data_phases_do_not_overlap(result: TimingResult) -> None:
    for core in range(2):
        mine = result.operations[core]["engine"] == 0
        begin, end = data_begin(result, core)[mine], result.end[core][mine]
        assert (begin[1:] >= end[:-1]).all()


def test_trace_limits_itself_and_says_so(tmp_path: Path, result: TimingResult) -> None:
    whole = write_trace(tmp_path / "a.pftrace", result)
    one_core = write_trace(tmp_path / "b.pftrace", result, max_slices=whole.slices - 1)
    assert one_core.cores == 1
    assert "1 of 2 cores" in one_core.note
    short = write_trace(tmp_path / "c.pftrace", result, max_slices=20)
    assert short.cores == 1
    assert 10 <= short.slices <= 20
    assert short.cycles < result.cycles
    _, _, processes = parse(tmp_path / "c.pftrace")
    assert processes == [f"core 0 ({short.note})"]


def test_no_partial_file(tmp_path: Path, result: TimingResult) -> None:
    with pytest.raises(HostError) as caught:
        write_trace(tmp_path / "missing" / "a.pftrace", result)
    assert caught.value.code == "MV0970"
    assert list(tmp_path.iterdir()) == []
