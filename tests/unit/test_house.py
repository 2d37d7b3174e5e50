"""The rules of the house: layers, sizes, units in names, error codes, start-up time."""

from __future__ import annotations

import ast
import dataclasses
import os
import pkgutil
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tools import errors_page, generated, layering, sizes

import mellivora
import mellivora.spec

ROOT = Path(__file__).resolve().parents[2]

UNITS = ("nm", "mhz", "mm2", "watts", "gbps", "bytes", "bits", "cycles", "ps", "pj", "um2", "s")
COUNTS = {  # plain numbers: how many of a thing
    *("cores", "columns", "lanes", "sram_banks", "accumulator_rows", "queue_depth"),
    *("outstanding_transfers", "semaphores", "scalar_registers", "loop_levels", "windows"),
    "places",
}
# Bounds of a value, in the value's own unit.
RULES = {"Rule", "Whole", "Real", "Text", "Range", "Figure"}


def has_unit(name: str) -> bool:
    """sram_bytes, core_port_bytes_per_cycle: the name ends with a unit, or with unit_per_unit."""
    unit = "|".join(UNITS)
    return re.search(rf"_({unit})(_per_(cycle|s|mm2))?$", name) is not None


def test_quantities_of_a_chip_carry_their_unit() -> None:
    seen = 0
    for info in pkgutil.iter_modules(mellivora.spec.__path__, "mellivora.spec."):
        module = __import__(info.name, fromlist=["*"])
        for cls in vars(module).values():
            if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
                continue
            for field in dataclasses.fields(cls):
                number = re.search(r"\b(int|float)\b", str(field.type))
                if not number or cls.__name__ in RULES:
                    continue
                seen += 1
                assert field.name in COUNTS or has_unit(field.name), f"{cls.__name__}.{field.name}"
    assert seen >= 20  # the walk found ChipSpec


def test_the_unit_rule_can_fail() -> None:
    assert not has_unit("latency")
    assert not has_unit("dram_bandwidth")
    assert has_unit("core_port_bytes_per_cycle")


def test_imports_point_down() -> None:
    assert layering.violations() == []


def test_the_layer_check_sees_every_form_of_import() -> None:
    code = (
        "import mellivora.sim\ndef f():\n  from mellivora import rtl\n  from ..graph.ir import V\n"
    )
    found = layering.imports(ast.parse(code), "mellivora.isa.table")
    assert sorted(part for _, part in found) == ["graph", "rtl", "sim"]
    tree = ast.parse("from .table import X\nfrom .. import errors")
    found = layering.imports(tree, "mellivora.isa", is_package=True)
    assert sorted(part for _, part in found) == ["errors", "isa"]


def test_the_arrows_have_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(layering.ALLOWED):
        ready = {part for part, below in layering.ALLOWED.items() if below <= done} - done
        assert ready, f"a cycle among {sorted(set(layering.ALLOWED) - done)}"
        done |= ready


def test_no_file_is_too_long() -> None:
    assert sizes.too_long(sizes.lines_by_file()) == []


def test_the_size_check_can_fail() -> None:
    sizes_now = sizes.lines_by_file()
    assert sizes.too_long(sizes_now) == []
    assert sizes.too_long(sizes_now | {"a.py": sizes.LIMIT_LINES}) == []
    assert len(sizes.too_long(sizes_now | {"a.py": sizes.LIMIT_LINES + 1})) == 1


def test_generated_pages_are_up_to_date() -> None:
    assert generated.differences() == {}


def test_the_generated_check_can_fail(tmp_path: Path) -> None:
    generator = generated.Generator("tools.errors_page:pages", owns=("docs",))
    assert generated.differences([generator], tmp_path) == {"docs/errors.md": "missing"}
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "errors.md").write_text("old")
    (tmp_path / "docs" / "other.md").write_text("stray")
    wrong = generated.differences([generator], tmp_path)
    assert set(wrong) == {"docs/errors.md", "docs/other.md"}
    assert wrong["docs/errors.md"] == "stale"


def test_each_error_code_has_one_cause_a_class_and_a_sentence() -> None:
    assert errors_page.faults(errors_page.sites()) == []


def test_the_error_code_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('raise SpecError("MV0199", "a sentence here")\n')
    (tmp_path / "b.py").write_text('raise GraphError("MV0199", f"another {x}")\nE("MV0198")\n')
    wrong = errors_page.faults(errors_page.sites(tmp_path))
    assert len(wrong) == 3  # two files, the wrong class, no sentence
    assert errors_page.sites(tmp_path)[-1].sentence == "another {x}"


def seconds_of(*words: str) -> float:
    """Wall time of a Python with these arguments, the least of five: the rest is the machine's."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True, env=env)
        times.append(time.perf_counter() - start)
    return min(times)


def test_the_command_line_starts_at_once() -> None:
    assert seconds_of("-m", "mellivora.cli", "--help") < 0.3


@pytest.mark.parametrize("command", ["run", "bench", "eval", "chip", "compile", "doctor"])
def test_help_imports_nothing_heavy(command: str) -> None:
    heavy = "{'torch', 'onnx', 'tokenizers', 'plotly', 'gguf', 'jinja2', 'numpy', 'perfetto'}"
    code = (
        "import sys\nfrom mellivora.cli import build_parser\n"
        f"build_parser(['{command}'])\n"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    reply = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert reply.returncode == 0, reply.stderr


EACH_ALONE = """
import importlib, os, sys
import numpy  # shared by the children, which would all pay for it
heavy = {"torch", "onnx", "plotly", "tokenizers", "gguf", "jinja2", "perfetto", "transformers"}
failed = []
for name in sys.argv[1:]:
    if (child := os.fork()) == 0:
        importlib.import_module(name)
        print(name, "loads", loaded) if (loaded := heavy & set(sys.modules)) else None
        sys.stdout.flush()
        os._exit(bool(loaded))
    if os.waitpid(child, 0)[1]:
        failed.append(name)
sys.exit(f"failed: {failed}" if failed else 0)
"""


def test_every_module_imports_alone_and_nothing_heavy() -> None:
    """Each in a process of its own: no module relies on another having been imported before."""
    found = pkgutil.walk_packages(mellivora.__path__, "mellivora.")
    # The RTL is written in Amaranth, an extra; the rest must do without any.
    names = [info.name for info in found if info.name.split(".")[1] not in ("rtl", "__main__")]
    assert len(names) > 100
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    reply = subprocess.run(
        [sys.executable, "-c", EACH_ALONE, *names], capture_output=True, text=True, env=env
    )
    assert reply.returncode == 0, reply.stdout + reply.stderr


def test_no_file_names_a_package_registry() -> None:
    hosts = re.compile(r"pypi\.org|files\.pythonhosted|--index-url|--extra-index-url|simple/")
    for name in ("Makefile", "pyproject.toml", ".ci/run"):
        assert not hosts.search((ROOT / name).read_text("utf-8")), name


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    lines = re.findall(r'^    "[a-z][\w.-]*[<>=~!].*$', text, re.MULTILINE)
    assert len(lines) >= 20
    assert [line for line in lines if " # " not in line] == []
