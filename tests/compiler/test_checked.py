"""Every program that the compiler makes is proven by the checker, at each of its check points."""

from __future__ import annotations

import pytest
from tests.compiler.families import FAMILIES, config
from tests.compiler.poisoned import chip

from mellivora.compiler import ACTIVATIONS, compile_model
from mellivora.errors import CompileError
from mellivora.frontends.llm import load_model, shape_model
from mellivora.graph.ir import Graph
from mellivora.isa.check import check_program
from mellivora.isa.encoding import SEMAPHORE_MAX
from mellivora.isa.program import Program
from mellivora.sim.expand import expand
from mellivora.spec import ChipSpec

TINY = shape_model(load_model("tiny").config, weight_format="mxint8", name="tiny")
"""Shapes are enough: what is proven does not depend on values."""


def prove(program: Program) -> None:
    for entry, reports in check_program(program, resolver=expand).items():
        points = program.entries[entry].check_points
        assert len(reports) == len(points) >= 3
        for report in reports:
            assert report.rows > 100
            assert max(use.bound for use in report.semaphores.values()) <= SEMAPHORE_MAX


def proven_or_refused(graph: Graph, on: ChipSpec, **options: int | str) -> bool:
    """Whether the program was made. A chip that is too small is said to be, while compiling."""
    try:
        compiled = compile_model(graph, on, **options)  # type: ignore[arg-type]
    except CompileError as error:
        if error.code not in ("MV0403", "MV0404"):
            raise
        return False
    prove(compiled.program)
    return True


@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("name", ["nano", "micro", "m1"])
def test_tiny(name: str, activations: str) -> None:
    options = ((1, 512), (8, 300), (2, 1))
    made = [
        proven_or_refused(
            TINY, chip(name), activations=activations, max_batch=batch, context=context
        )
        for batch, context in options
    ]
    assert all(made) or name == "nano"


@pytest.mark.parametrize("cores", [1, 2, 3, 5, 8, 13])
def test_tiny_on_any_number_of_cores(cores: int) -> None:
    assert proven_or_refused(TINY, chip("m1", cores=cores), context=512)


@pytest.mark.parametrize("activations", ["mxint8", "x3"])
@pytest.mark.parametrize("name", ["nano", "micro"])
def test_any_scratchpad_is_enough_or_refused(name: str, activations: str) -> None:
    """Sizes at which rows, chunks and the weights' ring all come near their limits."""
    made = [
        proven_or_refused(
            TINY,
            chip(name, sram_bytes=kib * 1024),
            activations=activations,
            max_batch=2,
            context=256,
        )
        for kib in range(28, 156, 16)
    ]
    assert not made[0]
    assert made == sorted(made)  # what fits does fit with more room
    assert made[-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str) -> None:
    graph = shape_model(config(family), weight_format="q4_0")
    for on in (chip("m1"), chip("micro", sram_bytes=256 * 1024)):
        assert proven_or_refused(graph, on, max_batch=3, context=300)


def smollm2(name: str, activations: str) -> Program:
    graph = shape_model(load_model("smollm2", shapes_only=True).config, weight_format="q4_1")
    options = {"max_batch": 4, "context": 1024}
    on = chip(name, sram_bytes=256 * 1024) if name == "micro" else chip(name)
    return compile_model(graph, on, activations=activations, **options).program


def test_smollm2_at_one_point() -> None:
    program = smollm2("m1", "mxint8")
    for entry in program.entries.values():
        entry.check_points = entry.check_points[-1:]
    assert [len(reports) for reports in check_program(program, resolver=expand).values()] == [1, 1]


@pytest.mark.nightly
@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("name", ["micro", "m1"])
def test_smollm2(name: str, activations: str) -> None:
    prove(smollm2(name, activations))
