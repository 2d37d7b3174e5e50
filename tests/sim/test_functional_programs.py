"""Programs: native with 1, 2, 3 threads == reference; collectives, semaphores, fault records."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mellivora.errors import HostError, UsageError
from mellivora.isa import Fault, assemble, control
from mellivora.isa.modes import BFormat, Func, Op, Store, matmul_mode, vew_fn, vew_mode, vquant_mode
from mellivora.native import build
from mellivora.sim.functional import FaultRecord, Machine
from mellivora.spec import ChipSpec, load_chip

CORES = 3
DRAM_BYTES = 1 << 16
WINDOWS = [(0, 1 << 15), (1 << 15, 1 << 15)]
WAYS = [("reference", 1), ("native", 1), ("native", 2), ("native", 3)]


@pytest.fixture(scope="module")
def chip() -> ChipSpec:
    return load_chip("micro").replace(cores=CORES, sram_bytes=1 << 15)


def machines(chip: ChipSpec, seed: int) -> list[Machine]:
    """One machine for each way, all with the same memories of sane FP32 numbers."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=DRAM_BYTES // 4).astype(np.float32).view(np.uint8)
    pads = rng.normal(size=(CORES, chip.sram_bytes // 4)).astype(np.float32).view(np.uint8)
    out = []
    for backend, threads in WAYS:
        machine = Machine(
            chip, dram=start.copy(), windows=WINDOWS, threads=threads, backend=backend
        )
        for core, pad in zip(machine.cores, pads, strict=True):
            core.scratchpad[...] = pad
        out.append(machine)
    return out


def run_all(chip: ChipSpec, text: str, *, seed: int = 0, parameters: object = (5, 6)) -> object:
    """Run on every way; all memories and outcomes must be equal. Gives the outcome."""
    code = assemble(text)
    outcomes, ran = [], machines(chip, seed)
    for machine in ran:
        machine.load(code)
        try:
            stats = machine.run(np.asarray(parameters, np.int32))
            outcomes.append((stats.engine_ops, stats.instructions, stats.macs))
        except Fault as fault:
            outcomes.append(fault.record)  # type: ignore[attr-defined]
    for machine, outcome in zip(ran[1:], outcomes[1:], strict=True):
        assert outcome == outcomes[0]
        np.testing.assert_array_equal(machine.dram, ran[0].dram)
        for one, other in zip(machine.cores, ran[0].cores, strict=True):
            np.testing.assert_array_equal(one.scratchpad, other.scratchpad)
            np.testing.assert_array_equal(one.accumulators, other.accumulators)
    return outcomes[0]


def random_line(rng: np.random.Generator) -> str:
    """One instruction; r3 is the core's own DRAM offset, r1 the core, r10 the accumulators."""
    src, dst, other = (int(at) * 64 for at in rng.integers(0, 30, 3))
    kind = int(rng.integers(8))
    if kind == 0:
        return f"load 0 {int(rng.integers(500))} 0 {dst} 64 2 1 1"
    if kind == 1:
        return f"store 1 r3 0 {src} 64 3 1 1"
    if kind == 2:
        fn = vew_fn(
            Op(int(rng.integers(1, 8))), Op(int(rng.integers(8))), Func(int(rng.integers(9)))
        )
        return f"vew {dst} {src} {other} {src} 3 8 {fn} {vew_mode()}"
    if kind == 3:
        return f"vquant {dst} {other} {src} 0 2 32 {vquant_mode(Store.MX2)}"
    if kind == 4:
        return (
            f"matmul {int(rng.integers(8))} {dst} {other} {src} 3 1 16 {matmul_mode(BFormat.MX8)}"
        )
    if kind == 5:
        return f"vred {dst} {src} 3 8 {int(rng.integers(3))} 0"
    if kind == 6:
        return f"exch {dst} {src} {int(rng.integers(1, 90))} 96 2 300 40"
    return str(
        rng.choice(["barrier", "loadm 0 r4 0 64 32 1 1 1", "msync", "vew 64 r10 128 0 2 4 4 0"])
    )


@pytest.mark.parametrize("seed", range(12))
def test_random_programs(chip: ChipSpec, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = [random_line(rng) for _ in range(40)]
    text = "\n".join([
        "mul r3 r1 256", "ldp r4 1", "li r10 0x40000000",
        "lcfg 64 0 0 64 0 0 0", "scfg 64 0 0 64 0 0", "mcfg 32 96 1 16 0 512 0 0",
        "vcfg 64 64 64 64 64 0 0",
        "loop 2 40", *lines, "halt",
    ])  # fmt: skip
    assert not isinstance(run_all(chip, text, seed=seed), FaultRecord)


def test_exchange_gathers_in_place(chip: ChipSpec) -> None:
    """Destination and source may be the same memory: part i of every core is what core i had."""
    text = "mul r3 r1 64\nadd r4 r3 256\nli r5 256\nexch r5 r4 64 64 1 0 0\nhalt"
    machine = machines(chip, 3)[2]
    wanted = np.concatenate(
        [machine.cores[i].scratchpad[256 + 64 * i :][:64] for i in range(CORES)]
    )
    machine.load(assemble(text))
    machine.run()
    for core in machine.cores:
        np.testing.assert_array_equal(core.scratchpad[256 : 256 + 64 * CORES], wanted)
    run_all(chip, text)


def test_parameters_for_each_core(chip: ChipSpec) -> None:
    machine = Machine(chip, dram=4096, windows=[(0, 4096)])
    machine.load(
        assemble("ldp r5 0\nvew 0 0 r5 0 1 1 3 2\nhalt")
    )  # RSUB of a constant: it, less zero
    floats = np.array([[1.5], [2.5], [-3.5]], np.float32)
    machine.run(floats.view(np.int32))
    assert [core.scratchpad[:4].view(np.float32)[0] for core in machine.cores] == [1.5, 2.5, -3.5]


def test_poison_shows_stale_data(chip: ChipSpec) -> None:
    machine = Machine(chip, dram=4096, windows=[(0, 4096)])
    machine.load(assemble("vew 0 0 0 0 1 1 1 0\nhalt"))
    machine.run()
    assert machine.cores[1].scratchpad[:4].view(np.float32)[0] == 0
    machine.run(poison=True)
    assert np.isnan(machine.cores[1].scratchpad[:4].view(np.float32)[0])


FAULTS = {
    "wait on nothing": ("msync !3\nmsync ?3 ?3\nhalt", (0, "MATRIX", 1, 7)),
    "post too many": ("li r5 256\nloop r5 1\nlsync !9\nhalt", (0, "LOAD", 2, 6)),
    "opcode": (".word 0xEE\nhalt", (0, "CONTROL", 0, 1)),
    "past the end": ("nop", (0, "CONTROL", 1, 1)),
    "loop length": ("loop 1 0\nhalt", (0, "CONTROL", 0, 8)),
    "parameter": ("ldp r5 2\nhalt", (0, "CONTROL", 0, 9)),
    "window": ("loop r1 1\nload 0 2047 0 0 32 1 1 1\nhalt", (1, "LOAD", 1, 2)),
    "scratchpad": ("li r5 32760\nvew r5 0 0 0 1 3 1 0\nhalt", (0, "VECTOR", 1, 3)),
    "alignment": ("vew 2 0 0 0 1 3 1 0\nhalt", (0, "VECTOR", 0, 4)),
    "shape": ("matmul 0 0 0 0 1 1 17 80\nhalt", (0, "MATRIX", 0, 5)),
    "one core halts": ("loop r1 1\nbarrier\nhalt", (1, "STORE", 1, 7)),
    "different collectives": ("loop r1 1\nbarrier\nexch 0 64 8 8 1 0 0\nhalt", (0, "STORE", 2, 7)),
    "different sizes": ("add r5 r1 8\nexch 0 64 r5 16 1 0 0\nhalt", (1, "STORE", 1, 5)),
    "exchange leaves": ("mul r5 r1 20000\nli r6 20000\nmul r5 r1 r6\nexch r5 64 8 16 1 0 0\nhalt",
                        (2, "STORE", 3, 3)),
    "last part leaves": ("li r5 32700\nexch r5 64 8 40 1 0 0\nhalt", (0, "STORE", 1, 3)),
    "window by a byte": ("load 1 1023 1 0 32 1 1 1\nhalt", (0, "LOAD", 0, 2)),
    "scratchpad by a byte": ("li r5 32737\nstore 1 0 0 r5 32 1 1 1\nhalt", (0, "STORE", 1, 3)),
    "a middle block leaves": (
        "li r5 0x20000000\nmcfg 96 0 3 8 0 r5 0 0\nmatmul 0 0 0 0 1 3 8 80\nhalt",
        (0, "MATRIX", 2, 3)),
    "matmul reads accumulators": (
        "li r5 0x40000000\nmatmul 0 r5 0 0 1 1 8 80\nhalt", (0, "MATRIX", 1, 3)),
    "scales in accumulators": (
        "li r5 0x40000000\nmatmul 0 0 r5 0 1 1 8 80\nhalt", (0, "MATRIX", 1, 3)),
    "exchange from accumulators": (
        "li r5 0x40000000\nexch 0 r5 8 8 1 0 0\nhalt", (0, "STORE", 1, 3)),
    "exchange into accumulators": (
        "li r5 0x40000000\nexch r5 0 8 8 1 0 0\nhalt", (0, "STORE", 1, 3)),
    "load into accumulators": (
        "li r5 0x40000000\nload 0 0 0 r5 32 1 1 1\nhalt", (0, "LOAD", 1, 3)),
    "sources before the destination": (
        "li r5 32760\nvdeq 2 r5 0 1 32 8\nhalt", (0, "VECTOR", 1, 3)),
    "a before b": ("li r5 32760\nvew 0 2 r5 0 1 3 1 0\nhalt", (0, "VECTOR", 1, 4)),
    "shape before all": ("vew 0 2 0 0 1 3 576 0\nhalt", (0, "VECTOR", 0, 5)),
    "window before scratchpad": (
        "li r5 32760\nload 0 2047 0 r5 32 1 1 1\nhalt", (0, "LOAD", 1, 2)),
    "two cores, the lower first": ("loop r1 1\nvew 2 0 0 0 1 3 1 0\nhalt", (1, "VECTOR", 1, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_fault_records(chip: ChipSpec, name: str) -> None:
    text, wanted = FAULTS[name]
    record = run_all(chip, text.replace("mul r5 r1 20000\n", "nop\n"))
    assert isinstance(record, FaultRecord)
    assert (record.core, record.engine, record.pc, record.cause) == wanted


def test_the_last_bytes_are_legal(chip: ChipSpec) -> None:
    text = "li r5 32736\nload 1 1023 0 r5 32 1 1 1\nstore 1 1023 0 r5 32 1 1 1\nhalt"
    assert not isinstance(run_all(chip, text), FaultRecord)


def test_watchdog(chip: ChipSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "WATCHDOG_STEPS", 500)
    record = run_all(chip, "li r5 100000\nloop r5 1\nnop\nhalt")
    assert isinstance(record, FaultRecord)
    assert (record.engine, record.cause) == ("CONTROL", 7)


def test_fault_names_its_place(chip: ChipSpec) -> None:
    machine = Machine(chip, dram=64, windows=[(0, 64)])
    machine.load(assemble("loop r1 1\nload 0 9 0 0 32 1 1 1\nhalt"))
    with pytest.raises(Fault) as caught:
        machine.run()
    assert caught.value.code == "MV0702"
    assert caught.value.where == "core 1, LOAD, pc 1"


def test_bad_memory_is_refused(chip: ChipSpec) -> None:
    with pytest.raises(UsageError) as dram:
        Machine(chip, dram=np.zeros((2, 2), np.uint8), windows=[])
    with pytest.raises(UsageError) as window:
        Machine(chip, dram=64, windows=[(32, 33)])
    assert (dram.value.code, window.value.code) == ("MV0851", "MV0852")


def test_host_rounding_mode_does_not_matter(chip: ChipSpec) -> None:
    """A host library that flushes subnormals changes nothing: the native code sets its own mode."""
    import torch

    text = "li r5 0x3f000000\nvew 0 0 r5 0 1 1 4 2\nhalt"
    machine = Machine(chip, dram=64, windows=[(0, 64)], threads=2)
    for core in machine.cores:
        core.scratchpad[:4] = np.array([1e-40], np.float32).view(np.uint8)
    machine.load(assemble(text))
    torch.set_flush_denormal(True)
    try:
        machine.run()
    finally:
        torch.set_flush_denormal(False)
    wanted = (np.array([1e-40], np.float32) * np.float32(0.5)).view(np.uint32)[0]
    assert [core.scratchpad[:4].view(np.uint32)[0] for core in machine.cores] == [wanted] * CORES


def test_no_compiler_is_a_coded_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("MELLIVORA_CACHE", str(tmp_path))
    with pytest.raises(HostError) as caught:
        build.load("control")
    assert caught.value.code == "MV0901"


def test_failed_compilation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MELLIVORA_CACHE", str(tmp_path))
    with pytest.raises(HostError) as caught:
        build.load("control", flags=["-no-such-flag"])
    assert caught.value.code == "MV0902"
    assert not list(tmp_path.rglob("*.so"))


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("MELLIVORA_CACHE", str(blocked))
    with pytest.raises(HostError) as caught:
        build.load("control")
    assert caught.value.code == "MV0903"


def test_two_processes_build_at_once(tmp_path: Path) -> None:
    """Both get the library, one compiles, nothing temporary stays."""
    environment = {**os.environ, "MELLIVORA_CACHE": str(tmp_path)}
    script = "from mellivora.native import build; print(build.load('control')._name)"
    command = [sys.executable, "-c", script]
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    names = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert names[0] == names[1]
    assert sorted(path.suffix for path in (tmp_path / "native").iterdir()) == [".lock", ".so"]
