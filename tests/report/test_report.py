"""The report of a real run: one whole file, no network, and figures that are those of the facts."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.report.runs import facts, odd, without

from mellivora.errors import HostError
from mellivora.report import alone, html, static, timeline, write_report
from mellivora.report import figure as f
from mellivora.report.html import cards, figures
from mellivora.report.live import FREE
from mellivora.report.roofline import chip_of, dots

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects what a page loads, its text by element, and whether its elements close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.cells: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        self.loads += [
            given[name] or "" for name in ("src", "href", "data", "srcset") if name in given
        ]
        self.ids += [given["id"] or ""] if "id" in given else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, facts())
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]
    return path.read_text("utf-8")


def without_plotly(text: str) -> str:
    from plotly.offline import get_plotlyjs

    library = get_plotlyjs()
    assert text.count(library[:2000]) == 1  # embedded, once
    return text.replace(library, "")


def test_the_page_is_well_formed_and_complete(report: str) -> None:
    page = Page(report)
    assert len(report.encode()) < 6_000_000
    assert len(page.ids) == len(set(page.ids))
    wanted = {"roofline", "layers", "engines", "rest", "timeline", "live", "dram", "energy", "chip"}
    assert wanted | {"how", "buffers-decode", "buffers-prefill"} <= set(page.ids)
    assert {load[1:] for load in page.loads if load.startswith("#")} <= set(page.ids)


def test_nothing_is_loaded_from_anywhere(report: str) -> None:
    assert all(load.startswith("#") or load == "data:," for load in Page(report).loads)
    own = without_plotly(report)
    assert re.findall(r"(?:https?:)?//[a-z]", re.sub(r"^\s*// .*$", "", own, flags=re.M)) == []
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", own)


def test_what_the_model_says_cannot_become_part_of_the_page() -> None:
    bad = facts() | {"text": "</script><script>alert(1)</script>", "notes": ["<img src=x>"]}
    bad["model"] = bad["timeline"][0]["labels"][0][0] = "</script><i>"
    text = html.page("t", figures(bad), head=html._head(bad), foot=html._foot(bad))
    assert "alert(1)</script>" not in text
    assert "</script><i>" not in text
    assert "<img src=x>" not in text
    Page(text)


def test_cards_are_the_facts() -> None:
    given = facts()
    decode = given["phases"]["decode"]
    shown = {name: (value, more) for name, value, more in cards(given)}
    assert shown["On the chip"][0] == f"{given['tokens_per_s']:,.0f} tokens/s"
    assert shown["Cycles a token"][0] == f"{decode['cycles'] / decode['tokens']:,.0f}"
    assert shown["Time to first token"][0] == f"{given['first_token_seconds'] * 1e6:.4g} µs"
    moved = (decode["read_bytes"] + decode["write_bytes"]) / decode["tokens"]
    assert shown["DRAM a token"][0] == f"{moved / 1e3:.4g} kB"
    assert shown["Roof reached"] == (
        f"{100 * decode['roof']['fraction']:.1f} %",
        f"of {decode['roof']['limit'].upper()}, decode",
    )
    low = decode["energy_j_per_token"]["low"]
    assert f"from {low * 1e6:.3g} µJ" in shown["Energy a token"][1]


def test_dots_of_the_roofline_are_the_facts() -> None:
    given = facts()
    chip, decode = chip_of(given), given["phases"]["decode"]
    seen = {dot.kind: dot for dot in dots(decode, chip)}
    for op in decode["by_kind"]:
        ops = 2 * op["macs"] or op["vector_ops"]
        dot = seen[op["kind"]]
        assert dot.ops_per_byte == ops / op["dram_bytes"]
        assert dot.ops_per_s == pytest.approx(ops * chip.clock_mhz * 1e6 / op["cycles"], rel=1e-15)
        peak = chip.peak_ops_per_s() if op["macs"] else chip.lanes * chip.cores * 1e9
        assert dot.roof_ops_per_s == min(peak, ops / op["dram_bytes"] * chip.dram_gbps * 1e9)
        limited = dot.roof_ops_per_s < peak
        assert dot.limit == ("DRAM" if limited else "MATRIX" if op["macs"] else "VECTOR")


def test_bars_are_the_facts() -> None:
    given = facts()
    drawn = {one.key: one for one in figures(given)}
    decode = given["phases"]["decode"]
    for trace in drawn["energy"].data:
        per_token = decode["energy_parts_j"][trace["name"]] / decode["tokens"]
        assert trace["x"][1] == per_token
    time = [sum(trace["x"][row] for trace in drawn["engines"].data) for row in range(8)]
    assert time == pytest.approx([100.0] * 8, rel=1e-12)  # busy and stalls are all cycles
    assert sum(t["customdata"][1] for t in drawn["layers"].data) == decode["cycles"]
    bars = sum(len(trace["x"]) for trace in drawn["timeline"].data)
    assert bars == sum(len(one["slices"]) for one in given["timeline"])


def test_every_picture_is_plotly_and_has_words() -> None:
    from plotly.graph_objects import Figure

    for one in figures(facts()):
        assert one.title
        assert one.lead
        assert one.tables
        if one.data:
            assert one.alt
            colour = json.dumps([one.data, one.layout]).replace('"@', '"red@')
            data, layout = json.loads(re.sub(r"red@(ink|soft|grid|paper)", "red", colour))
            Figure(data, layout)  # refuses what plotly does not know


def test_live_memory_is_within_the_buffers_and_the_launch() -> None:
    live = facts()["live"]
    assert sum(height for *_, height in live["bands"]) == len(live["lines"])
    assert len({len(line) for line in live["lines"]}) == 1
    assert live["peak_bytes"] == max(live["live_bytes"])
    assert set("".join(live["lines"])) > {FREE}
    z = next(t for t in figures(facts())[5].data if t["type"] == "heatmap")["z"]
    assert len(base64.b64decode(z["bdata"])) == len(live["lines"]) * len(live["lines"][0])


@pytest.mark.parametrize("what", sorted(odd()))
def test_unusual_facts_give_a_report(what: str, tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", odd()[what])
    text = (tmp_path / "r.html").read_text("utf-8")
    Page(text)
    assert not re.search(
        r"\b(nan|NaN|Infinity)\b", without_plotly(text) if "Plotly" in text else text
    )


def test_a_chip_without_dram(tmp_path: Path) -> None:
    given = without("timeline", "memory", "live")
    given["chip"] |= {
        "dram_kind": "none",
        "dram_gbps": 0,
        "dram_bytes": 0,
        "dram_latency_cycles": 0,
    }
    write_report(tmp_path / "r.html", given)
    Page((tmp_path / "r.html").read_text("utf-8"))


@pytest.mark.parametrize("write", [write_report, static.write_svg])
def test_a_place_that_cannot_be_written(write: Callable[[Path, Any], None], tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        write(tmp_path / "absent" / "out", facts())
    assert caught.value.code in ("MV0980", "MV0981")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(HostError) as caught:
        write_report(path, facts())
    assert caught.value.given == "No space left on device"
    assert path.read_text() == "old"


@pytest.mark.parametrize("name", ["roofline", "timeline", "memory_map", "breakdown", "static"])
def test_every_picture_runs_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import runpy

    source, out = tmp_path / "facts.json", tmp_path / "out"
    source.write_text(json.dumps(facts()))
    monkeypatch.setattr("sys.argv", [name, str(source), "-o", str(out)])
    monkeypatch.delitem(sys.modules, f"mellivora.report.{name}")
    runpy.run_module(f"mellivora.report.{name}", run_name="__main__")
    assert capsys.readouterr().out == f"wrote {out}\n"
    Page(out.read_text("utf-8"))


@pytest.mark.parametrize(
    ("text", "code"), [("[]", "MV0886"), ("{", "MV0886"), (None, "MV0886"), ("bare", "MV0885")]
)
def test_facts_that_are_none(
    text: str | None, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "facts.json"
    if text == "bare":
        text = json.dumps(without("timeline"))
    if text is not None:
        source.write_text(text)
    with pytest.raises(SystemExit) as caught:
        alone.main("timeline", lambda given: [timeline.figure(given)], [str(source)])
    assert caught.value.code == 2
    assert code in capsys.readouterr().err


def test_the_svg_is_small_and_whole() -> None:
    from xml.etree import ElementTree

    text = static.svg(facts())
    assert len(text) < 200_000
    root = ElementTree.fromstring(text)
    words = "".join(root.itertext())
    for engine in ("LOAD", "STORE", "MATRIX", "VECTOR", "DRAM"):
        assert engine in words
    ElementTree.fromstring(static.svg(without("timeline")))


def test_words_of_quantities() -> None:
    assert [f.si(v, "J") for v in (0, 1.5e-10, 0.0117, 1344e9)] == [
        "0 J", "0.15 nJ", "11.7 mJ", "1.344 TJ",
    ]  # fmt: skip
    assert [f.binary(v) for v in (3, 1024, 3 << 20, 48 << 30)] == [
        "3 B",
        "1 KiB",
        "3 MiB",
        "48 GiB",
    ]
    assert (f.plain(8289.3), f.plain(36.754), f.share(1, 0)) == ("8,289", "36.75", "")


def test_python_runs_a_picture_without_a_warning(tmp_path: Path) -> None:
    source, out = tmp_path / "facts.json", tmp_path / "out.html"
    source.write_text(json.dumps(facts()))
    words = [sys.executable, "-W", "error", "-m", "mellivora.report.roofline", str(source)]
    env = {**os.environ, "PYTHONPATH": str(Path(html.__file__).parents[2])}
    reply = subprocess.run([*words, "-o", str(out)], capture_output=True, text=True, env=env)
    assert (reply.returncode, reply.stderr) == (0, "")
    assert "roofline-picture" in out.read_text("utf-8")
