"""The table of areas, and the area of chips that follows from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mellivora.errors import SpecError
from mellivora.spec import load_chip
from mellivora.spec.area import (
    CHIPS,
    FIGURES,
    LIBRARY,
    MACRO_BITS,
    Range,
    blocks,
    by_block,
    chip_area,
    crossbar_bytes,
    measured,
    size_of,
)
from mellivora.spec.area_table import PARTS, TABLE, family, load_table, standard
from mellivora.spec.figures import load_figures

NANO, M1 = load_chip("nano"), load_chip("m1")


def test_the_table_is_complete() -> None:
    table = standard()
    assert {"nano", "m1"} <= set(table.places) <= set(CHIPS)
    for parts in table.places.values():
        assert set(parts) == set(PARTS)
    for library in table.libraries:
        assert table.has(library, "nano"), library
    assert measured(table)[0] == "nano"
    placed = {m for parts in table.places.values() for ms in parts.values() for m in ms}
    for rows in table.modules.values():
        assert set(rows) <= placed  # none too many
    for library in table.libraries.values():
        assert library.tool.startswith("Yosys ")
        assert library.flip_flop_um2 > 0


def test_rows_are_sound() -> None:
    for rows in standard().modules.values():
        for name, row in rows.items():
            assert 0 <= row.register_um2 <= row.area_um2 + 1e-9, name
            assert (row.longest_path_ps > 0) == bool(row.path_to), name
            assert row.memory_bits >= 0, name


@pytest.mark.parametrize("part", PARTS)
def test_parts_are_the_sums_of_their_places(part: str) -> None:
    table = standard()
    rows, places = table.modules[LIBRARY], table.places["nano"][part]
    want = sum(rows[name].area_um2 * count for name, count in places.items())
    assert table.part(LIBRARY, "nano", part).area_um2 == pytest.approx(want)


@pytest.mark.parametrize("part", PARTS)
def test_the_model_is_what_was_measured_on_the_smallest_chip(part: str) -> None:
    """Blocks that grow with nothing may be those of a larger one."""
    table, small = standard(), load_chip(measured(standard())[0])
    rows = table.modules[LIBRARY]
    want: dict[str, list[float]] = {}
    for module, count in table.places[small.name][part].items():
        figures = want.setdefault(family(module), [0.0, 0.0])
        figures[0] += rows[module].area_um2 * count
        figures[1] += rows[module].memory_bits * count
    for name, block in blocks(small, part).items():
        found = [block.area_um2, block.register_bits + block.macro_bits]
        if name not in want:
            assert found == [0, 0], name  # of larger chips alone
        elif size_of(name, part, small) != size_of(name, part, M1):
            assert found == pytest.approx(want[name]), name
        else:
            assert found[0] >= want[name][0] * (1 - 1e-9), name


@pytest.mark.parametrize("part", PARTS)
def test_what_was_measured_on_m1_is_its_own(part: str) -> None:
    """Block by block: not all of it need be."""
    table = standard()
    rows, model = table.modules[LIBRARY], blocks(M1, part)
    for block, modules in by_block(table, "m1", part).items():
        if size_of(block, part, NANO) != size_of(block, part, M1) and rows.keys() >= set(modules):
            own = sum(rows[module].area_um2 * count for module, count in modules.items())
            assert model[block].area_um2 == pytest.approx(own), block


def test_places_grow_as_the_model_says() -> None:
    """What nano and m1 have of the same module is proportional to the block's size."""
    places, checked = standard().places, 0
    for part in PARTS:
        for module, count in places["nano"][part].items():
            if module not in places["m1"][part]:
                continue
            block = family(module)
            ratio = size_of(block, part, M1) / size_of(block, part, NANO)
            assert places["m1"][part][module] == count * ratio, module
            checked += 1
    assert checked > 30


def test_names_of_blocks_are_without_sizes() -> None:
    assert family("op_queue_32") == family("op_queue_8") == "op_queue"
    assert family("read_port_2048x32_512") == "read_port"
    assert family("matrix_engine_8x64_65536") == "matrix_engine"
    assert family("load_engine_nano") == family("load_engine_m1") == "load_engine"
    assert family("table_exp2") == "table_exp2"
    assert family("dot32") == "dot32"


def test_columns_change_what_there_is_for_each_column() -> None:
    wide = M1.replace(columns=512)
    before, after = blocks(M1, "matrix"), blocks(wide, "matrix")
    for block in ("matrix_lane", "b_column", "matrix_column", "dot32"):
        assert after[block].area_um2 == pytest.approx(2 * before[block].area_um2)
    for part in ("vector", "dma", "control", "core"):
        assert blocks(wide, part) == blocks(M1, part)
    small, large = chip_area(M1), chip_area(wide)
    for name in ("vector", "load and store", "control", "scratchpad"):
        assert large.core_mm2[name] == small.core_mm2[name]
    assert large.core_mm2["matrix"].value > 1.9 * small.core_mm2["matrix"].value
    assert large.core_mm2["accumulators"].value == pytest.approx(
        2 * small.core_mm2["accumulators"].value
    )  # as many rows, each twice as wide
    assert large.core_mm2["crossbars"].value > small.core_mm2["crossbars"].value


def test_lanes_queues_and_cores_change_their_own() -> None:
    lanes = blocks(M1.replace(lanes=64), "vector")
    for block in ("vector_lane", "binary_stage", "table_exp2", "lane_operand"):
        assert lanes[block].area_um2 == pytest.approx(blocks(M1, "vector")[block].area_um2 / 2)
    shallow = blocks(NANO, "control")["op_queue"]
    deep = blocks(NANO.replace(queue_depth=64), "control")["op_queue"]
    bits = [one.register_bits + one.macro_bits for one in (shallow, deep)]
    assert bits[1] == pytest.approx(bits[0] * (64 + 1) / (8 + 1))  # one place more than its depth
    half = chip_area(M1.replace(cores=8))
    assert half.one_core_mm2 == chip_area(M1).one_core_mm2
    assert half.total_mm2.value < chip_area(M1).total_mm2.value


def test_sram_is_bits_times_the_cited_cell() -> None:
    figures = load_figures(FIGURES)
    cell, share = figures["sram_cell_um2"], figures["sram_array_share"]
    pad = chip_area(M1).core_mm2["scratchpad"]
    assert pad.value == pytest.approx(8 * M1.sram_bytes * cell.value / share.value / 1e6)
    assert pad.low == pytest.approx(8 * M1.sram_bytes * cell.low / share.high / 1e6)


def test_ranges_are_ranges_and_add_up() -> None:
    for name in ("nano", "micro", "m1", "predecessor"):
        chip = load_chip(name)
        area = chip_area(chip)
        for one in (*area.core_mm2.values(), *area.once_mm2.values(), area.total_mm2):
            assert 0 < one.low <= one.value <= one.high
        total = chip.cores * sum(one.value for one in area.core_mm2.values())
        total += sum(one.value for one in area.once_mm2.values())
        assert area.total_mm2.value == pytest.approx(total)


def test_an_older_process_is_larger() -> None:
    old = chip_area(M1.replace(process_nm=14)).core_mm2["matrix"]
    new = chip_area(M1).core_mm2["matrix"]
    assert old == Range(4 * new.value, 2 * new.low, 4 * new.high)


def test_memory_is_driven_by_interfaces() -> None:
    assert "DRAM interface" not in chip_area(load_chip("predecessor")).once_mm2
    phy = load_figures(FIGURES)["phy_mm2.GDDR7"]
    assert chip_area(M1).once_mm2["DRAM interface"].value == pytest.approx(12 * phy.value)


def test_a_crossbar_is_counted_by_hand() -> None:
    """Accumulators of nano: two banks, rings of two words; 5 levels in each word of 32 bytes."""
    reads = [32, 32, 32, 32, 4]
    writes = [32, 32, 32, 32, 4]
    want = sum(2 * 32 * 1 + width * 5 for width in reads)
    want += sum(2 * 32 * 1 + 64 * 5 for _ in writes)
    assert crossbar_bytes(NANO, "accumulators") == want


BAD = ["", "x", "[libraries]\n[modules]\n[places.nano]\ncore = 1\n", TABLE.read_text()[:-40]]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "area.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_table(path)
    assert caught.value.code == "MV0194"


def test_a_large_memory_in_a_block_is_sram() -> None:
    """The parameter memory: 2,048 words of 32 bits."""
    front = blocks(M1, "control")["front"]
    assert front.macro_bits == 65536 >= MACRO_BITS
    assert front.register_bits == 0
