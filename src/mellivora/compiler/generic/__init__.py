"""Graphs of any operations, operation by operation through DRAM."""

from mellivora.compiler.generic.compile import GRAPH_PASSES, CompiledGraph, Port, compile_graph

__all__ = ["GRAPH_PASSES", "CompiledGraph", "Port", "compile_graph"]
