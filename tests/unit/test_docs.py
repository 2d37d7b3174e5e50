"""The pages say what is there: links, paths, commands, snippets and quoted output.

Commands are parsed with the program's own parser, so that an option that goes away fails here.
Snippets and examples are run in a short form. Figures in docs/status.md are not measured here.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest

from mellivora.cli import COMMANDS, build_parser, execute
from mellivora.errors import MellivoraError
from mellivora.spec import load_chip, parse_chip

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = [
    *(ROOT / name for name in ("README.md", "changelog.d/README.md")),
    *(
        path
        for path in sorted(ROOT.glob("docs/*.md"))
        if path.name not in ("graph.md", "errors.md")
    ),
    *sorted(ROOT.glob("docs/design/*.md")),
]
GENERATED = [ROOT / "docs/graph.md", ROOT / "docs/errors.md", *sorted(ROOT.glob("docs/isa/*.md"))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
NOT_OURS = ("mine.toml", "WHAT.KIND.md", "CHANGELOG.md")
PATH = re.compile(r"[\w./-]+\.(?:py|cpp|hpp|toml|md)|(?:src|docs|tests|examples|tools)/[\w./-]+")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(text: str) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """What `#...` may point to, as GitHub makes it from headings."""
    heads = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(page: Path, text: str) -> list[str]:
    wrong: list[str] = []
    for target in LINK.findall(prose(text)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file.read_text("utf-8")):
            wrong.append(f"{target}: no such heading")
    return wrong


def lost_paths(text: str, folder: Path = ROOT) -> list[str]:
    """Paths in backticks that are nowhere: from the root, the package, or beside the one before."""
    lost: list[str] = []
    beside = folder
    for word in CODE.findall(prose(text)):
        if not PATH.fullmatch(word) or word in NOT_OURS:
            continue
        places = [ROOT / word, ROOT / "src/mellivora" / word, beside / word]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            lost.append(word)
        else:
            beside = found.parent
    return lost


def commands(text: str) -> list[str]:
    """Command lines of a page: lines of `sh` blocks, and code in prose that starts like one."""
    lines = [
        line for kind, body in FENCE.findall(text) if kind == "sh" for line in body.split("\n")
    ]
    lines += CODE.findall(prose(text))
    lines = [line.partition("#")[0].strip() for line in lines]
    return [line for line in lines if re.match(r"(mellivora|make|python) \S", line)]


def fault_of(line: str) -> str | None:
    """Why a command line cannot be right; None if it can."""
    words = shlex.split(line.partition(">")[0])
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        return None if words[1] in targets else f"no target {words[1]}"
    if words[:2] == ["python", "-m"] and words[2].startswith("mellivora"):
        return None if importlib.util.find_spec(words[2]) else f"no module {words[2]}"
    if words[0] == "python":
        files = [word for word in words[1:] if word.startswith(("tests", "examples", "bench"))]
        missing = [word for word in files if not (ROOT / word).exists()]
        return f"no file {missing[0]}" if missing else None if files else "runs nothing of ours"
    if words[1] not in COMMANDS:
        return None if words[1] == "--help" else f"no command {words[1]}"
    if len(words) == 2:
        return None  # the name alone
    missing = [word for word in words if word.startswith("tests/") and not (ROOT / word).exists()]
    if missing:
        return f"no file {missing[0]}"
    try:
        build_parser(words[1:]).parse_args(words[1:])
    except MellivoraError as error:
        return error.given
    return None


@pytest.mark.parametrize("page", [*WRITTEN, *GENERATED], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text("utf-8")) == []


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_paths_exist(page: Path) -> None:
    assert lost_paths(page.read_text("utf-8"), page.parent) == []


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_commands_are_accepted(page: Path) -> None:
    wrong = {line: fault_of(line) for line in commands(page.read_text("utf-8"))}
    assert {line: fault for line, fault in wrong.items() if fault} == {}


def test_the_checks_can_fail() -> None:
    page = ROOT / "README.md"
    bad = "[a](nothing.md) [b](docs/status.md#nowhere) [c](docs/status.md) `docs/nothing.md`\n"
    assert len(broken_links(page, bad)) == 2
    assert lost_paths(bad) == ["docs/nothing.md"]
    lines = "```sh\nmellivora run smollm2 --colour   # x\nmellivora fly\nmake tea\nmake test\n```\n"
    text = lines + "`python -m pytest tests/nothing` `python examples/generate.py` `mellivora run`"
    assert [line for line in commands(text) if fault_of(line)] == [
        "mellivora run smollm2 --colour",
        "mellivora fly",
        "make tea",
        "python -m pytest tests/nothing",
    ]


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        targets = (link.partition("#")[0] for link in LINK.findall(prose(page.read_text("utf-8"))))
        waiting += [(page.parent / target).resolve() for target in targets if target[:4] != "http"]
    assert set(ROOT.glob("docs/*.md")) | set(ROOT.glob("docs/design/*.md")) <= reached


def rows(page: str) -> list[list[str]]:
    """Cells of the rows of all tables of a page that have a command, heads left out."""
    lines = re.findall(r"^\| (.*) \|$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    tables = [[cell.strip() for cell in line.split(" | ")] for line in lines]
    return [
        cells for cells in tables if len(cells) > 1 and re.match(r"`(mell|make|pyth)", cells[1])
    ]


@pytest.mark.parametrize(("page", "least"), [("README.md", 8), ("docs/status.md", 20)])
def test_tables_of_what_works_name_commands(page: str, least: int) -> None:
    assert len(rows(page)) >= least
    for cells in rows(page):
        for line in CODE.findall(cells[1]):
            assert fault_of(line) is None, line


def test_figures_of_the_status_have_a_date() -> None:
    for cells in rows("docs/status.md"):
        *_, figure, date = cells
        assert figure
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", date) or "to be measured" in figure, cells


def test_changelog_fragments_are_named_by_kind() -> None:
    for path in ROOT.glob("changelog.d/*.md"):
        assert path.name == "README.md" or re.fullmatch(
            r"[a-z0-9-]+\.(added|changed|fixed|removed)\.md", path.name
        )


# ---- what the pages show, run --------------------------------------------------------------------


def run_snippet(code: str) -> str:
    """What Python code prints."""
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
    return printed.getvalue()


def snippet(page: str, containing: str) -> str:
    blocks = [body for kind, body in FENCE.findall((ROOT / page).read_text("utf-8")) if kind]
    (body,) = (body for body in blocks if containing in body)
    return body


def test_snippet_of_the_readme() -> None:
    code = snippet("README.md", "llm.generate(")
    short = code.replace("max_new_tokens=32", "max_new_tokens=2").replace("LLM(", "LLM(context=64,")
    assert short.count("context=64") == short.count("max_new_tokens=2") == 1
    short = short.replace('context=64,"smollm2"', '"smollm2", context=64')
    assert run_snippet(short) == "The answer"


def test_snippets_of_the_pages() -> None:
    assert (
        run_snippet(snippet("docs/add-a-chip.md", "load_chip"))
        == "65536 672.0 195.04761904761904\n"
    )
    printed = run_snippet(snippet("docs/add-an-op.md", "interpret("))
    assert "softcap" in printed
    assert "[[-29.92" in printed
    on_chip = run_snippet(snippet("docs/add-an-op.md", "GraphRunner("))
    assert on_chip.startswith("[[-29.92")
    assert on_chip.endswith(" cycles\n")


def test_excerpts_of_the_source_are_in_it() -> None:
    excerpt = re.compile(
        r"<!-- from (\S+) -->\n *```python\n(.*?)^ *```$", re.MULTILINE | re.DOTALL
    )
    found = [match for page in WRITTEN for match in excerpt.findall(page.read_text("utf-8"))]
    assert len(found) >= 3
    for path, body in found:
        there = {line.strip() for line in (ROOT / path).read_text("utf-8").split("\n")}
        assert {line.strip() for line in body.split("\n")} <= there, path


def test_error_of_the_chip_page(capsys: pytest.CaptureFixture[str]) -> None:
    execute(["chip", "m1", "--toml"])
    toml = capsys.readouterr().out
    assert parse_chip(toml, where="mine.toml") == load_chip("m1")
    wrong, count = re.subn(r"^columns =", "colums =", toml, flags=re.MULTILINE)
    wrong, again = re.subn(r"^dram_gbps = .*$", 'dram_gbps = "fast"', wrong, flags=re.MULTILINE)
    assert count == again == 1
    with pytest.raises(MellivoraError) as caught:
        parse_chip(wrong, where="mine.toml")
    shown = snippet("docs/add-a-chip.md", "MV0103")
    assert shown == str(caught.value) + "\n"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tour_quotes_the_script() -> None:
    script, page = example("one_token"), (ROOT / "docs/tour.md").read_text("utf-8")
    made = script.steps()
    assert sorted(name for _, name, *_ in script.BLOCK.findall(page)) == sorted(made)
    assert made["logits"].count(": True") == 2
    assert made["product"].endswith(": True")
    again = "python examples/one_token.py --update docs/tour.md"
    assert script.quoted(page, made) == page, f"after a change that is meant: {again}"


def run_example(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_example_generate() -> None:
    text = run_example("examples/generate.py", "tiny", "KING RICHARD III:\n")
    assert text.startswith("Say, I have done, and bear")


def test_example_change_a_chip() -> None:
    head, *lines = run_example("examples/change_a_chip.py", "64").splitlines()
    assert head.split() == ["DRAM", "GB/s", "cores", "tokens/s", "of", "the", "roof"]
    rates = [int(line.split()[2].replace(",", "")) for line in lines]
    m1, slow, fast, _ = rates
    assert slow < m1 < fast
