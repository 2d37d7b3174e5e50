"""The package's face: two names, imported only when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mellivora
from mellivora.compiler import compile_model
from mellivora.runtime.llm import LLM


def test_the_package_has_llm_and_compile() -> None:
    assert mellivora.LLM is LLM
    assert mellivora.compile is compile_model
    with pytest.raises(AttributeError):
        mellivora.absent  # noqa: B018


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, mellivora; print([m for m in sys.modules if m in ('numpy', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
