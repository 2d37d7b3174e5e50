"""The command line: statuses, streams, --json, and errors without a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mellivora import cli, doctor
from mellivora.spec import load_chip, parse_chip

ROOT = Path(__file__).resolve().parents[2]


def test_chip_as_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["chip", "m1", "--json"]) == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert facts["chip"]["columns"] == 256
    assert facts["derived"]["peak_macs_per_cycle"] == 131_072
    assert facts["fingerprint"] == load_chip("m1").fingerprint()
    assert "GDDR7" in err  # the table for people went there


def test_chip_as_toml_parses_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["chip", "nano", "--toml"]) == 0
    assert parse_chip(capsys.readouterr().out) == load_chip("nano")


def test_an_error_has_status_2_and_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["chip", "m7", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "MV0101"
    assert err.startswith("error MV0101: ")
    assert cli.main(["chip", "m7"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frobnicate"],
        ["run"],
        ["run", "m", "p", "--top-p", "2"],
        ["run", "m", "p", "--temperature", "nan"],
        ["run", "m", "p", "--max-new-tokens", "0"],
        ["run", "m", "p", "--activations", "x4"],
        ["run", "m", "p", "--no-such"],
        ["run", "m", "p", "--act", "x2"],  # abbreviations would freeze every option's prefix
        ["eval", "m"],
        ["eval", "m", "--text", "f", "--length", "1"],
        ["compile", "m"],
        ["chip", "a", "b"],
    ],
)
def test_wrong_command_lines(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error MV0801: ")
    assert "--help`" in err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "execute", interrupted)
    assert cli.main(["doctor"]) == 130


def test_a_reader_that_leaves_is_no_error() -> None:
    """`mellivora chip m1 | true`: no traceback, nothing on stderr."""
    code = (
        "import os, sys; from mellivora import cli\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "sys.exit(cli.main(['chip', 'm1']))"
    )
    command = [sys.executable, "-c", code]
    env = {"PYTHONPATH": str(ROOT / "src")}
    reply = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (reply.returncode, reply.stderr) == (141, "")


def test_doctor_looks_at_everything(capsys: pytest.CaptureFixture[str]) -> None:
    status = cli.main(["doctor", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert status == (0 if facts["ok"] else 1)
    names = {finding["name"] for finding in facts["findings"]}
    assert {"python", "numpy", "C++ compiler", "memory", "cache folder", "processor"} <= names
    assert "model smollm2" in names


def test_doctor_says_no_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 0))
    monkeypatch.setenv("MELLIVORA_CACHE", "/proc/nowhere")
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    for name in ("python", "C++ compiler", "cache folder"):
        (line,) = [line for line in out.splitlines() if line[4:].startswith(name)]
        assert line.startswith("NO ")
        assert line.endswith(")")  # the next step


def test_doctor_asks_for_the_packages_of_pyproject() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = {"": project["dependencies"], **project["optional-dependencies"]}
    for purpose, names in doctor.PACKAGES.items():
        declared = [
            name.translate(str.maketrans("<>=~!", "     ")).split()[0] for name in wanted[purpose]
        ]
        assert list(names) == declared, purpose


def test_a_compiler_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "cxx"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    (finding,) = [found for found in doctor.examine() if found.name == "C++ compiler"]
    assert not finding.ok
    assert "does not run" in finding.found


def test_status_1_only_when_ok_is_false(monkeypatch: pytest.MonkeyPatch) -> None:
    for result, status in (({"ok": False}, 1), ({"ok": True}, 0), ({}, 0), (None, 0)):
        module = SimpleNamespace(add_arguments=lambda parser: None, run=lambda args, r=result: r)
        monkeypatch.setattr(cli.importlib, "import_module", lambda name, m=module: m)
        assert cli.execute(["doctor"]) == (status, result)
