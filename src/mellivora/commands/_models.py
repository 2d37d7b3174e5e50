"""MODEL of a command line: which frontend it goes to, and what cannot be done with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mellivora.errors import CompileError, UsageError

if TYPE_CHECKING:
    from mellivora.frontends.llm import LanguageModel


def open_model(
    name: str, *, catalogue: bool = False, weight_format: str = "q4_0"
) -> tuple[LanguageModel, bool]:
    """The model without its weights, and whether there are weights to be read.

    catalogue: names of models known by shape only are allowed. Raises ModelError, CompileError
    MV0490.
    """
    from mellivora.frontends.llm import catalogue as shapes
    from mellivora.frontends.llm import load_model

    if is_onnx(name):
        refuse_onnx(name)
    by_shape = name.lower() in shapes() and not Path(name).exists()
    if by_shape and not catalogue:
        return load_model(name), True  # says that there are no weights
    return load_model(name, shapes_only=True, weight_format=weight_format), not by_shape


def is_onnx(name: str) -> bool:
    return Path(name).suffix.lower() == ".onnx"


def refuse_onnx(name: str) -> None:
    """An ONNX graph where a language model is needed.

    The file is read first, so that what is wrong with it comes before what the command lacks.
    """
    from mellivora.frontends.onnx import load_onnx

    graph = load_onnx(name)
    raise CompileError(
        "MV0490",
        "this command takes language models only",
        where=name,
        given=f"{len(graph.nodes)} nodes",
        allowed="language models: a GGUF file, a Hugging Face folder",
        hint=f"`mellivora run {name}` runs the graph on the chip",
    )


def check_output(path: str | None) -> Path | None:
    """The file to write, if its folder is there. UsageError MV0830, before any work is done."""
    if path is None:
        return None
    file = Path(path)
    if not file.parent.is_dir() or file.is_dir():
        raise UsageError(
            "MV0830",
            "the output file cannot be written there",
            given=path,
            allowed="a file in a folder that exists",
            hint="create the folder, or name another file",
        )
    return file


def rounded_context(needed: int, limit: int) -> int:
    """Tokens a slot is compiled for: the first of 2048, 4096, ... that is enough, at most the
    model's own.
    """
    size = 2048
    while size < needed:
        size *= 2
    return min(size, limit)
