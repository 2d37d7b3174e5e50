"""Mellivora: an open AI inference chip, and all that is needed to use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mellivora.compiler import compile_model as compile
    from mellivora.runtime.llm import LLM

__version__ = "0.1.0"
__all__ = ["LLM", "__version__", "compile"]


def __getattr__(name: str) -> Any:
    """LLM and compile, imported when first used: `import mellivora` stays light."""
    if name == "LLM":
        from mellivora.runtime.llm import LLM

        return LLM
    if name == "compile":
        from mellivora.compiler import compile_model

        return compile_model
    raise AttributeError(f"module 'mellivora' has no attribute {name!r}")
