"""Tensor operations, their law, their text form and their meaning."""

from mellivora.graph.interpret import Interpreter, interpret
from mellivora.graph.ir import Builder, Graph, Node, ParamSpec, Value, drop_unused
from mellivora.graph.kv_cache import KVCache
from mellivora.graph.ops import OPS, OpDef
from mellivora.graph.reference import Precision
from mellivora.graph.text import parse_text, to_text
from mellivora.graph.verify import verify

__all__ = [
    "OPS",
    "Builder",
    "Graph",
    "Interpreter",
    "KVCache",
    "Node",
    "OpDef",
    "ParamSpec",
    "Precision",
    "Value",
    "drop_unused",
    "interpret",
    "parse_text",
    "to_text",
    "verify",
]
