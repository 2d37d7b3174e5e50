"""ChipSpec: derived figures against arithmetic by hand, forms that parse back, what is refused."""

from __future__ import annotations

import dataclasses
import tomllib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mellivora.errors import SpecError
from mellivora.numerics import passes
from mellivora.spec import PASSES, ChipError, ChipSpec, load_chip, parse_chip, preset_names
from mellivora.spec.chip import rules

M1 = load_chip("m1")
NANO = load_chip("nano")


def test_the_presets_are_these() -> None:
    assert preset_names() == ("m1", "micro", "nano", "predecessor")
    for name in preset_names():
        assert load_chip(name).name == name


def test_m1_by_hand() -> None:
    assert M1.peak_macs_per_cycle == 16 * 256 * 32 == 131_072
    assert M1.peak_ops_per_s() == 262_144e9
    assert M1.peak_ops_per_s(slices=2) == 262_144e9 / 4
    assert M1.peak_ops_per_s(slices=3) == 262_144e9 / 8
    assert (M1.dram_bursts_num, M1.dram_bursts_den) == (21, 1)  # 1,344 bytes a cycle of 64
    assert M1.sram_total_bytes == 32 << 20
    assert M1.accumulator_bytes == 256 * 256 * 4
    assert M1.tpp == pytest.approx(2 * 131.072 * 8, rel=1e-15)
    assert M1.ops_per_dram_byte == 262_144 / 1_344


def test_passes_are_those_of_the_arithmetic() -> None:
    assert {n: len(passes(n, n)) for n in (1, 2, 3)} == PASSES


def test_m1_is_within_the_figures_it_was_chosen_for() -> None:
    assert M1.tpp < 2400
    assert M1.dram_gbps == 12 * 32 * 28 / 8 < 1400
    assert M1.dram_kind == "GDDR7"
    assert M1.max_die_mm2 <= 600


def test_the_predecessor_has_the_published_totals() -> None:
    chip = load_chip("predecessor")
    assert chip.peak_ops_per_s() / 1e12 == pytest.approx(820, abs=0.5)  # published to three figures
    assert chip.sram_total_bytes == 192 << 20
    assert not chip.has_fp_vector
    assert (chip.dram_kind, chip.dram_bursts_num, chip.ops_per_dram_byte) == ("none", 0, None)


def test_tpp_counts_the_format_that_gives_most() -> None:
    # Per pass: int8 8 bits; x2 16/4; x3 24/8; int4 4. One 8-bit format suffices for the most.
    eight = M1.tpp
    assert M1.replace(formats=("int4", "int8")).tpp == eight
    assert M1.replace(formats=("x2",)).tpp == pytest.approx(eight / 2, rel=1e-15)
    assert M1.replace(formats=("x3",)).tpp == pytest.approx(eight * 3 / 8, rel=1e-15)
    assert M1.replace(formats=("int4", "mxfp4")).tpp == eight / 2


@given(
    tenths=st.integers(1, 10_000), clock_mhz=st.integers(1, 5000), burst=st.sampled_from([32, 64])
)
def test_the_dram_rate_is_exact(tenths: int, clock_mhz: int, burst: int) -> None:
    """The fraction is the decimal written, not the binary float nearest to it."""
    text = f"{tenths // 10}.{tenths % 10}"
    chip = NANO.replace(dram_gbps=float(text), clock_mhz=clock_mhz, dram_burst_bytes=burst)
    exact = Fraction(tenths, 10) * 10**9 / (clock_mhz * 10**6) / burst
    assert Fraction(chip.dram_bursts_num, chip.dram_bursts_den) == exact
    assert (chip.dram_bursts_num, chip.dram_bursts_den) == (exact.numerator, exact.denominator)


@pytest.mark.parametrize("name", preset_names())
def test_the_text_parses_back(name: str) -> None:
    chip = load_chip(name)
    assert parse_chip(chip.text()) == chip
    assert parse_chip(chip.text()).text() == chip.text()
    assert tomllib.loads(chip.text())["core"]["cores"] == chip.cores
    assert eval(repr(chip), {"ChipSpec": ChipSpec}) == chip


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=200))
def test_any_description_parses_back(description: str) -> None:
    chip = NANO.replace(description=description)
    assert parse_chip(chip.text()) == chip


def test_the_fingerprint_is_of_the_machine_not_of_its_name() -> None:
    same = NANO.replace(name="other", description="another name")
    assert same.fingerprint() == NANO.fingerprint()
    assert NANO.replace(dram_gbps=8).fingerprint() == NANO.fingerprint()  # 8 and 8.0
    assert NANO.replace(formats=NANO.formats[::-1]).fingerprint() == NANO.fingerprint()
    changes = [
        ("clock_mhz", 999),
        ("cores", 2),
        ("lanes", 16),
        ("formats", ("int8",)),
        ("tdp_watts", 5),
        ("dram_kind", "DDR5"),
        ("exchange_latency_cycles", 25),
    ]
    prints = {NANO.replace(**{name: value}).fingerprint() for name, value in changes}
    assert len(prints - {NANO.fingerprint()}) == len(changes)


def test_every_field_changes_the_fingerprint_but_two() -> None:
    """Guards the list of facts: a field added later takes part without being named."""
    marks = {field.name for field in dataclasses.fields(ChipSpec)} - {"name", "description"}
    assert set(NANO.values()) - {"name", "description"} == marks


def test_a_chip_is_frozen_and_hashable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NANO.cores = 2  # type: ignore[misc]
    assert len({NANO, load_chip("nano")}) == 1


def test_replace_checks_again() -> None:
    with pytest.raises(ChipError) as caught:
        M1.replace(columns=100, dram_kind="HBM9")
    assert [fault.code for fault in caught.value.faults] == ["MV0106", "MV0107"]
    with pytest.raises(ChipError) as caught:
        M1.replace(colunms=128)
    assert caught.value.code == "MV0103"
    assert "core.columns" in caught.value.allowed


@pytest.mark.parametrize("name", sorted(rules()))
@pytest.mark.parametrize("bad", [None, float("nan"), {}, b"x", "\x00", -1, [[]]])
def test_no_field_takes_nonsense(name: str, bad: object) -> None:
    if name == "tdp_watts" and bad is None:
        return  # the one optional field
    with pytest.raises(ChipError) as caught:
        M1.replace(**{name: bad})
    assert f".{name} " in f".{caught.value.where.split(' ')[-1]} "


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("MV0110", {"dram_kind": "none", "dram_gbps": 0, "dram_bytes": 0}),
        ("MV0111", {"dram_latency_cycles": 0}),
        ("MV0112", {"core_port_bytes_per_cycle": 96}),
        ("MV0113", {"dram_bytes": (1 << 30) + 32}),
        ("MV0114", {"sram_bytes": 4096, "sram_banks": 256}),
        ("MV0115", {"sram_bytes": 4096, "columns": 64}),
        ("MV0116", {"has_fp_vector": False}),
        ("MV0117", {"dram_gbps": 8.0000001}),
    ],
)
def test_contradictions(code: str, changes: dict[str, object]) -> None:
    with pytest.raises(ChipError) as caught:
        NANO.replace(**changes)
    assert code in {fault.code for fault in caught.value.faults}


def test_the_smallest_scratchpad_that_holds_two_tiles() -> None:
    # 60 columns would need 2 x 60 x 34 bytes; 64 columns need 4,352 and 4,096 is one page short.
    assert NANO.replace(sram_bytes=8192, columns=64).sram_bytes == 8192
    assert NANO.replace(sram_bytes=4096, columns=32).columns == 32


@pytest.mark.parametrize("slices", [0, 4, -1])
def test_no_other_number_of_slices(slices: int) -> None:
    with pytest.raises(SpecError, match="slices"):
        M1.peak_ops_per_s(slices)


def test_the_formats_are_those_of_numerics() -> None:
    """`spec` names the operand formats; `numerics` must have every one of them, and no other."""
    from mellivora.numerics import formats
    from mellivora.spec import OPERAND_FORMATS

    blocks = {name for name, fmt in formats.FORMATS.items() if not fmt.is_float}
    assert blocks == set(OPERAND_FORMATS)
