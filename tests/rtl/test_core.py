"""A core: its memories have a port for every stream, at the widths that the engines have."""

import pytest

from mellivora.rtl.chip_text import chip_rtlil
from mellivora.rtl.core import accumulators, ends_of, scratchpad
from mellivora.spec import load_chip


@pytest.mark.parametrize("name", ["nano", "micro", "m1"])
def test_memories_have_the_size_of_the_chip(name):
    chip = load_chip(name)
    for made, size in (
        (scratchpad(chip), chip.sram_bytes),
        (accumulators(chip), chip.accumulator_bytes),
    ):
        made._MustUse__used = True
        assert made.size_bytes == size
        widest = max(*made.reads.values(), *made.writes.values())
        assert made.banks * made.bank_bytes >= widest + made.bank_bytes - 1


def test_nano_elaborates_with_a_module_for_every_part():
    chip = load_chip("nano")
    text = chip_rtlil(chip)
    for part in (
        "front_",
        "control_port_",
        "load_engine_",
        "store_engine_",
        "matrix_engine_",
        "vector_engine_",
        "banked_memory_",
    ):
        assert f"module \\{part}" in text


def test_ends_count_what_can_end_in_a_cycle():
    chip = load_chip("nano")
    assert ends_of(chip) == 2 * chip.outstanding_transfers + 2
