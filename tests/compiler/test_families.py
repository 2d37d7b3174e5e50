"""Models of every family and weight format on the chip, against the graph's definition in NumPy.

The bound. A slice more makes every quantised operand's unit 2^-8 of what it was, and to first order
the error of the logits follows: mxint8-only : x2 : x3 as 1 : 2^-8 : 2^-16. Two maxima over some
20,000 logits of different roundings differ by less than 4, hence x2 may err by 2^-6 of one slice.
With three slices operands have 24 bits as FP32 has, so that FP32's own roundings (sums of at most
6 passes x 3 blocks, functions of 2 ulp) count as much again, or a few times: 2^-5 of two slices.
What is computed wrongly (a mask, a rotation, a softcap left out) does not shrink with the slices,
so this bound finds it however small it is.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from tests.compiler.families import FAMILIES, config, random_graph
from tests.compiler.poisoned import Logits, chip, engine, same, score

from mellivora.graph.interpret import Interpreter
from mellivora.graph.ir import Graph

TOKENS = 150
"""Over the end of a tile of 128, and nearly four windows of 40."""
IDS = np.random.default_rng(1).integers(0, 160, TOKENS).tolist()
M1, MICRO = chip("m1"), chip("micro")
NANO = chip("nano", sram_bytes=256 * 1024)
"""Eight columns: a tile's scores and a head's values come in panels."""


def defined(graph: Graph) -> Logits:
    """The interpreter's logits, weights dequantised, FP32."""
    positions = np.arange(TOKENS, dtype=np.int32)
    inputs = {"ids": np.array(IDS, np.int32), "positions": positions}
    return Interpreter(graph).run(inputs)["logits"]


@cache
def of_family(family: str) -> Graph:
    return random_graph(config(family))


def on_chip(graph: Graph, activations: str) -> Logits:
    machine = engine(graph, M1, activations=activations, max_batch=1, context=256)
    return score(machine, 0, IDS)


def converges(graph: Graph) -> None:
    wanted = defined(graph)
    one, two, three = (
        np.abs(on_chip(graph, activations) - wanted).max()
        for activations in ("mxint8-only", "x2", "x3")
    )
    assert one < wanted.std()
    assert two < one * 2**-6
    assert three < two * 2**-5


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_come_to_the_definition_as_slices_are_added(family: str) -> None:
    converges(of_family(family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activations", ["mxint8", "x3"])
def test_same_bits_on_other_chips_and_from_decode(family: str, activations: str) -> None:
    graph = of_family(family)
    wanted = on_chip(graph, activations)
    for on in (NANO, chip("micro", sram_bytes=256 * 1024), chip("m1", cores=3)):
        machine = engine(graph, on, activations=activations, max_batch=2, context=256)
        split = 121
        assert same(score(machine, 1, IDS[:split]), wanted[:split]), on.name
        for position in range(split, TOKENS):
            row = machine.decode([(1, IDS[position], position)])[0]
            assert same(row, wanted[position]), (on.name, position)


@pytest.mark.parametrize("changes", [{"kv_heads": 1}, {"heads": 8, "kv_heads": 1}, {"heads": 2}])
def test_groups_of_any_size(changes: dict[str, int]) -> None:
    """From one query head a key head to eight; rows of a prefill step follow the accumulators."""
    graph = random_graph(config("llama", **changes))
    converges(graph)
    machine = engine(graph, M1, activations="x3", max_batch=1, context=256)
    rows = [machine.decode([(0, token, at)])[0] for at, token in enumerate(IDS)]
    assert same(np.stack(rows), on_chip(graph, "x3"))


FORMATS = ("q4_0", "q4_1", "q8_0", "mxint8", "mxfp6", "mxfp4", "x2", "x3", "f32")
MIXED = {"": "q4_0", "k": "q8_0", "v": "x2", "up": "mxfp6", "embed": "q4_1", "head": "mxint8"}


@pytest.mark.parametrize("fmt", FORMATS)
def test_weights_of_every_format(fmt: str) -> None:
    """MXFP6 and MXFP4 have no converter for embedding rows: those are MXINT8 then."""
    embed = "mxint8" if fmt in ("mxfp6", "mxfp4") else fmt
    converges(random_graph(config("llama"), formats={"": fmt, "embed": embed}))


def test_formats_mixed_in_one_layer() -> None:
    """Projections that share their input do not share a MATMUL then."""
    graph = random_graph(config("mha-biases"), formats=MIXED)
    converges(graph)
    wanted = on_chip(graph, "mxint8")
    for on in (NANO, chip("micro", sram_bytes=256 * 1024)):
        machine = engine(graph, on, max_batch=8, context=256)
        assert same(score(machine, 0, IDS), wanted), on.name
        machine.prefill(1, IDS[:-1])
        assert same(machine.decode([(1, IDS[-1], TOKENS - 1)])[0], wanted[-1]), on.name
