"""`mellivora rtl`: what it writes, and bad input: a code, words, status 2, no file left behind."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from mellivora import cli
from mellivora.isa import assemble
from mellivora.isa.program import Entry, Program, Window
from mellivora.spec import load_chip

NANO = load_chip("nano")
TEXT = "load 0 0 0 64 32 1 1 1 !1\nstore 0 8 0 64 32 1 1 1 ?1\nhalt\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a program as text, one as a file, and files that are none."""
    monkeypatch.chdir(tmp_path)
    Path("good.mva").write_text(TEXT)
    Path("wrong.mva").write_text("lod 0\n")
    Path("noise.mva").write_bytes(bytes(range(128, 256)))
    Path("noise.mvp").write_bytes(bytes(range(256)))
    Path("chip.toml").write_text('name = "x"\n')
    preset = files("mellivora.spec").joinpath("presets/nano.toml").read_text("utf-8")
    near, count = re.subn(r"(?m)^dram_latency_cycles = \d+", "dram_latency_cycles = 7", preset)
    assert count == 1
    Path("near.toml").write_text(near)
    Path("sub").mkdir()
    program(4096).save("good.mvp")
    program(1 << 31, "micro").save("large.mvp")
    return tmp_path


def program(window_bytes: int, chip: str = "nano") -> Program:
    return Program(
        name="copy",
        chip=load_chip(chip),
        entries={"main": Entry(code=assemble(TEXT))},
        windows=[Window("all", window_bytes, True, "scratch")],
    )


BAD = {
    "no program": ("MV0893", "cosim none.mva"),
    "a folder": ("MV0893", "cosim sub"),
    "not text": ("MV0898", "cosim noise.mva"),
    "wrong text": ("MV0601", "cosim wrong.mva"),
    "not a program": ("MV0502", "cosim noise.mvp"),
    "another chip's": ("MV0510", "cosim good.mvp --chip micro"),
    "no such entry": ("MV0894", "cosim good.mvp --entry other"),
    "too much memory": ("MV0899", "cosim large.mvp"),
    "words for numbers": ("MV0892", "cosim good.mva --parameters 1,x"),
    "too large a number": ("MV0892", "cosim good.mva --parameters 2147483648"),
    "too many numbers": ("MV0892", "cosim good.mva --parameters " + ",".join(["1"] * 2049)),
    "two programs": ("MV0891", "cosim good.mva --random 3"),
    "flips without ECC": ("MV0897", "cosim good.mva --flips 3"),
    "no chip": ("MV0101", "cosim good.mva --chip other"),
    "memory that answers too soon": ("MV0120", "cosim good.mva --chip near.toml"),
    "no wave of nothing": ("MV0893", "wave none.mva -o x.vcd"),
    "no folder for a wave": ("MV0830", "wave good.mva -o none/x.vcd"),
    "a wave of a program for another chip": ("MV0510", "wave good.mvp -o x.vcd --chip micro"),
    "Verilog of such a chip": ("MV0120", "emit --chip near.toml -o x.v"),
    "Verilog of a half chip": ("MV0100", "emit --chip chip.toml -o x.v"),
    "no folder for Verilog": ("MV0830", "emit -o none/x.v"),
    "no block": ("MV0895", "synth --block other"),
    "no block to place": ("MV0895", "fpga --block other"),
}


@pytest.mark.parametrize(("code", "words"), BAD.values(), ids=BAD)
def test_bad_input(folder, code, words, capsys):
    before = sorted(folder.rglob("*"))
    assert cli.main(["rtl", *words.split(), "--json"]) == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out)["error"]["code"] == code
    assert f"error {code}: " in shown.err
    assert "Traceback" not in shown.err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(("output", "file"), [("a.v", "a.v"), ("sub", "sub/nano.v")])
def test_verilog_and_its_manifest(folder, output, file, monkeypatch):
    monkeypatch.setattr("mellivora.rtl.chip_text.chip_rtlil", lambda chip: "")
    monkeypatch.setattr("mellivora.rtl.emit.verilog_of", lambda text, top: "module \\a.b (clk);\n")
    assert cli.main(["rtl", "emit", "--chip", "nano", "-o", output]) == 0
    manifest = json.loads(Path(file).with_suffix(".json").read_text())
    assert Path(file).stat().st_size == manifest["bytes"]
    assert manifest["top"] == "mellivora_nano"
    assert manifest["modules"] == ["a.b"]
    assert manifest["fingerprint"] == NANO.fingerprint()
    Path("again.toml").write_text(manifest["chip_toml"])
    assert load_chip("again.toml") == NANO


@pytest.mark.parametrize("file", ["good.mva", "good.mvp"])
def test_a_program_on_three_machines(folder, file, capsys):
    assert cli.main(["rtl", "cosim", file, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["ok"]
    assert facts["differing_bits"] == facts["differing_cycles"] == 0
    assert facts["operations"] == 2
    assert facts["cycles"] == facts["rtl_cycles"] > 200


@pytest.mark.nightly
def test_a_wave(folder):
    """Nightly: the chip with what waves need takes minutes of one processor to compile."""
    assert (
        cli.main(["rtl", "wave", "good.mvp", "-o", "x.vcd", "--first", "5", "--cycles", "9"]) == 0
    )
    text = Path("x.vcd").read_text()
    assert "$enddefinitions" in text
    times = [int(line[1:]) for line in text.splitlines() if line.startswith("#")]
    assert times
    assert np.all((np.array(times) >= 5) & (np.array(times) < 14))
