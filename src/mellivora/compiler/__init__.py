"""Graph to program: `compile_model`, a flat list of passes."""

from mellivora.compiler.compile import ACTIVATIONS, PASSES, Compiled, compile_model

__all__ = ["ACTIVATIONS", "PASSES", "Compiled", "compile_model"]
