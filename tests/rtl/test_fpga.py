"""Place and route on an ECP5: a small block, what its report says, and what is refused."""

from __future__ import annotations

import json

import pytest

from mellivora import cli
from mellivora.errors import SpecError
from mellivora.rtl import fpga, primitive
from mellivora.rtl.banked_memory import BankedMemory
from mellivora.rtl.core import scratchpad
from mellivora.rtl.fpga import AVAILABLE, Cells, cells, place_and_route, refuse
from mellivora.spec import load_chip


@pytest.fixture(scope="module")
def narrow() -> fpga.FpgaResult:
    return place_and_route(primitive("to_bf16").create())


def test_a_block_has_a_clock_and_a_longest_path(narrow):
    """The path's parts are the period, to the hundredth that the report rounds to."""
    assert narrow.top == "to_bf16"
    period_ns = 1000 / narrow.fmax_mhz
    assert narrow.logic_ns + narrow.routing_ns == pytest.approx(period_ns, abs=0.01)
    assert narrow.levels >= 1
    assert narrow.path_from
    assert narrow.path_to


def test_use_of_the_device(narrow):
    """Flip-flops are those of synthesis; packing adds the tables at both ends of carry chains."""
    need = cells(primitive("to_bf16").create()).logic
    used = narrow.used
    assert used.keys() == AVAILABLE.keys()
    assert used["FF"] == need["FF"] > 16
    assert 30 < need["LUT"] <= used["LUT"] < 60
    assert used["DSP"] == used["BRAM"] == 0


@pytest.mark.nightly
def test_what_is_placed_often_is_counted_often():
    whole = cells(primitive("reduce_tree").create(), keep=["reduce_node"]).logic
    one = cells(primitive("fp32_add").create()).logic
    assert whole["LUT"] > 31 * one["LUT"]


@pytest.mark.nightly
def test_a_multiplier_takes_dsp_blocks():
    assert cells(primitive("fp32_mul").create()).logic["DSP"] > 0


def test_too_much_logic_is_refused_with_the_numbers():
    need = Cells(dict.fromkeys(AVAILABLE, 0) | {"LUT": 83_641}, [])
    with pytest.raises(SpecError) as error:
        refuse("a core", need)
    assert error.value.code == "MV0123"
    assert "83,641 LUT of 83,640" in str(error.value)
    refuse("a core", Cells(dict(AVAILABLE), []))


def test_a_memory_of_many_ports_is_refused_with_the_numbers():
    memory = BankedMemory(256, 4, banks=2, reads={"a": 1, "b": 1}, writes={"c": 1})
    with pytest.raises(SpecError) as error:
        place_and_route(memory)
    assert error.value.code == "MV0123"
    assert "2 banks of 32 x 32 bits with 2 read and 1 write ports" in str(error.value)


def test_a_whole_chip_is_refused_with_the_numbers(capsys):
    """`nano`: 8 banks of 64 KiB of scratchpad, a copy for each pair of reader and writer."""
    memory = scratchpad(load_chip("nano"))
    memory._MustUse__used = True  # asked for its ports
    reads, writes = len(memory.reads), len(memory.writes)
    mbit = 65536 * 8 * reads * writes / 1e6
    assert cli.main(["rtl", "fpga", "--chip", "nano", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "MV0123"
    ports = f"{reads} read and {writes} write ports"
    assert f"8 banks of 256 x 256 bits with {ports}" in error["given"]
    assert f"{mbit:.1f} Mbit of 3.8" in error["given"]
    assert "2 banks of 32 x 256 bits" in error["given"], "the accumulators"


def test_a_block_without_a_path_between_registers_has_no_clock():
    with pytest.raises(SpecError) as error:
        place_and_route(primitive("e8m0_expand").create())
    assert error.value.code == "MV0124"


def test_the_command(capsys):
    assert cli.main(["rtl", "fpga", "--block", "op_queue", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["block"] == "op_queue"
    assert facts["device"] == fpga.DEVICE
    assert facts["fmax_mhz"] > 10
    assert 0 < facts["used"]["FF"] < facts["available"]["FF"]
    assert facts["longest_path"]["levels"] > 0
