"""Graph to program: `compile_model` for language models, `compile_graph` for any other graph."""

from mellivora.compiler.compile import ACTIVATIONS, PASSES, Compiled, compile_model
from mellivora.compiler.generic import GRAPH_PASSES, CompiledGraph, compile_graph

__all__ = [
    "ACTIVATIONS",
    "GRAPH_PASSES",
    "PASSES",
    "Compiled",
    "CompiledGraph",
    "compile_graph",
    "compile_model",
]
