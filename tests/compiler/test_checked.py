"""Every program that the compiler makes is proven by the checker, at each of its check points."""

from __future__ import annotations

import pytest
from tests.compiler.poisoned import chip

from mellivora.compiler import ACTIVATIONS, compile_model
from mellivora.errors import CompileError
from mellivora.frontends.llm import load_model, shape_model
from mellivora.isa.check import check_program
from mellivora.isa.encoding import SEMAPHORE_MAX
from mellivora.isa.program import Program
from mellivora.sim.expand import expand


def prove(program: Program) -> None:
    for entry, reports in check_program(program, resolver=expand).items():
        points = program.entries[entry].check_points
        assert len(reports) == len(points) >= 3
        for report in reports:
            assert report.rows > 100
            assert max(use.bound for use in report.semaphores.values()) <= SEMAPHORE_MAX


@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("name", ["nano", "micro", "m1"])
def test_tiny(name: str, activations: str) -> None:
    sram = {"sram_bytes": 96 * 1024} if (name, activations) == ("nano", "x3") else {}
    on = chip(name, **sram)
    for batch, context in ((1, 512), (8, 300), (2, 1)):
        try:
            compiled = compile_model(
                load_model("tiny").graph,
                on,
                activations=activations,
                max_batch=batch,
                context=context,
            )
        except CompileError as error:  # said in advance, never found out on the way
            assert (name, batch, error.code) == ("nano", 8, "MV0403")
            continue
        prove(compiled.program)


@pytest.mark.parametrize("cores", [1, 2, 3, 5, 8, 13])
def test_tiny_on_any_number_of_cores(cores: int) -> None:
    prove(compile_model(load_model("tiny").graph, chip("m1", cores=cores), context=512).program)


def smollm2(name: str, activations: str, *, points: slice) -> Program:
    """Its program by shapes alone: what is proven does not depend on values."""
    graph = shape_model(load_model("smollm2").config, weight_format="q4_1")
    compiled = compile_model(graph, chip(name), activations=activations, max_batch=4, context=1024)
    for entry in compiled.program.entries.values():
        entry.check_points = entry.check_points[points]
    return compiled.program


def test_smollm2_at_one_point() -> None:
    program = smollm2("m1", "mxint8", points=slice(-1, None))
    assert [len(reports) for reports in check_program(program, resolver=expand).values()] == [1, 1]


@pytest.mark.nightly
@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("name", ["micro", "m1"])
def test_smollm2(name: str, activations: str) -> None:
    prove(smollm2(name, activations, points=slice(None)))
