"""Rows whose result depends on the order of bytes: against sets of bytes, and by example."""

from __future__ import annotations

import random

import pytest

from mellivora.errors import IsaError
from mellivora.isa import assemble, resolve
from mellivora.isa.check import check
from mellivora.isa.footprint import Region, intervals
from mellivora.isa.modes import Kind, Op, Store, vew_fn, vew_mode, vquant_mode
from mellivora.isa.overlaps import apart, overlap
from mellivora.isa.program import Window
from mellivora.spec import load_chip

WINDOWS = [Window("in", 4096, False, "weights"), Window("out", 4096, True, "io")]
ADD = vew_fn(Op.ADD)


def bytes_of(region: Region) -> set[int]:
    return {byte for first, past in intervals(region) for byte in range(first, past)}


def test_overlap_is_that_of_the_bytes() -> None:
    pick, met = random.Random(1), 0
    for _ in range(3000):
        one, two = (
            (pick.randrange(60), pick.randint(1, 4), pick.randint(1, 9), pick.randint(1, 20))
            for _ in range(2)
        )
        wanted = bool(bytes_of(one) & bytes_of(two))
        assert overlap(one, two) == wanted == overlap(two, one), (one, two)
        met += wanted
    assert 500 < met < 2500


def test_apart_is_that_of_the_pieces() -> None:
    pick, met = random.Random(2), 0
    for _ in range(2000):
        size = pick.randint(1, 5)
        levels = tuple((pick.randint(1, 4), pick.randrange(24)) for _ in range(3))
        starts = [0]
        for count, stride in levels:
            starts = [at + i * stride for i in range(count) for at in starts]
        touched = [byte for at in starts for byte in range(at, at + size)]
        wanted = len(set(touched)) == len(touched)
        assert apart(size, levels) == wanted, (size, levels)
        met += wanted
    assert 200 < met < 1800


PAGES = "lcfg 0 0 64 0 0 64 400"  # the table is two numbers at 400
CASES = {
    "in place": (f"vew 0 0 0 0 4 8 {ADD} 0", ""),
    "in place on b": (f"vew 128 0 128 0 4 8 {ADD} 0", ""),
    "one row on the first": (f"vew 0 0 32 0 1 8 {ADD} 0", ""),
    "beside": (f"vew 256 0 128 0 4 8 {ADD} 0", ""),
    "a constant is no place": (f"vew 256 0 256 0 4 8 {ADD} {vew_mode(b=Kind.CONST)}", ""),
    "a word later": (f"vew 4 0 0 0 4 8 {ADD} 0", "over a source"),
    "on a column": (
        f"vew 128 0 128 0 4 8 {ADD} {vew_mode(b=Kind.ROW)}", "over a source"),
    "on powers": (f"vew 128 0 128 0 4 8 {ADD} {vew_mode(b=Kind.E8M0)}", "over a source"),
    "on the row that all rows read": (
        f"vcfg 32 32 0 0 0 0 0\nvew 128 0 128 0 4 8 {ADD} 0", "over a source"),
    "rows on each other": ("vcfg 16 32 0 0 0 0 0\nvew 256 0 0 0 4 8 0 0", "rows of the"),
    "all rows on one": ("vcfg 0 32 0 0 0 0 0\nvew 256 0 0 0 4 8 0 0", "rows of the"),
    "one row needs no stride": ("vcfg 0 32 0 0 0 0 0\nvew 256 0 0 0 1 8 0 0", ""),
    "sum on its source": ("vred 0 0 4 8 0 0", "over a source"),
    "sums on each other": ("vcfg 0 32 0 0 0 0 0\nvred 256 0 4 8 0 0", "rows of the"),
    "codes on their source": (
        f"vquant 0 256 0 0 1 32 {vquant_mode(Store.MX1)}", "over a source"),
    "scales on codes": (
        f"vquant 256 256 0 0 1 32 {vquant_mode(Store.MX1)}", "destinations lie"),
    "planes on each other": (
        f"vcfg 32 128 32 1 31 0 0\nvquant 256 320 0 0 1 32 {vquant_mode(Store.MX2)}",
        "destinations lie"),
    "planes beside": (
        f"vcfg 32 128 32 1 32 0 0\nvquant 256 320 0 0 1 32 {vquant_mode(Store.MX2)}", ""),
    "scales of rows on each other": (
        f"vcfg 32 128 32 0 64 0 0\nvquant 256 320 0 0 2 32 {vquant_mode(Store.MX1)}",
        "rows of the"),
    "widened in place": ("vdeq 0 0 0 1 32 9", "over a source"),
    "load on itself": ("lcfg 64 0 0 32 0 0 0\nload 0 0 0 512 64 2 1 1", "pieces of a LOAD"),
    "load apart": ("lcfg 64 0 0 96 0 0 0\nload 0 0 0 512 64 2 1 1", ""),
    "woven": ("lcfg 64 64 0 48 32 0 0\nload 0 0 0 512 32 4 2 1", "pieces of a LOAD"),
    "woven apart": ("lcfg 64 64 0 64 32 0 0\nload 0 0 0 512 32 4 2 1", ""),
    "pages apart": (f"{PAGES}\nloadx 0 0 0 512 64 1 1 2", ""),
    "pages on each other": (f"{PAGES}\nloadx 0 0 0 512 65 1 1 2", "pieces of a LOAD"),
    "pages before their table": (f"{PAGES}\nloadx 0 0 0 272 64 1 1 2", ""),
    "pages on their table": (f"{PAGES}\nloadx 0 0 0 273 64 1 1 2", "over the page table"),
    "store on itself": ("scfg 32 0 0 64 0 0\nstore 1 r5 0 0 64 2 1 1", "pieces of a STORE"),
    "store twice there": ("scfg 0 0 0 64 0 0\nstore 1 r5 0 0 64 2 1 1", "pieces of a STORE"),
    "store the same twice": ("scfg 64 0 0 0 0 0\nstore 1 r5 0 0 64 2 1 1", ""),
    "own part": ("add r5 r3 0\nexch r3 r4 32 32 1 0 0", ""),
    "all parts, source beside": ("exch 256 0 32 32 1 0 0", ""),
    "another's part": ("exch 0 32 32 32 2 64 64", "lies over the source"),
    "parts on each other": ("exch 256 0 32 16 1 0 0", "parts of an EXCH"),
    "rows of parts on each other": ("exch 256 0 32 32 2 32 32", "parts of an EXCH"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rule(name: str) -> None:
    """r3: where parts begin; r4: this core's own part; all bytes below 512 are written."""
    body, wanted = CASES[name]
    text = (
        "mul r4 r1 32\nadd r3 r0 0\nload 0 0 0 0 512 1 1 1 !1 !2\nvsync ?1\nssync ?2\n"
        f"vcfg 32 32 32 32 0 0 0\nmul r5 r1 8\n{body}\nhalt"
    )
    rows = [resolve(assemble(text), [], core_id=core, cores=2) for core in range(2)]
    if not wanted:
        check(rows, load_chip("micro"), WINDOWS)
        return
    with pytest.raises(IsaError, match=wanted) as caught:
        check(rows, load_chip("micro"), WINDOWS)
    assert caught.value.code == "MV0627"
