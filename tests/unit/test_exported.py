"""Public names, frozen: a name added or removed here is a change that users see."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = {
    "mellivora.spec": """
        BLOCK_TERMS DRAM_KINDS INTEGER_FORMATS OPERAND_FORMATS PASSES
        ChipError ChipSpec Fault load_chip parse_chip preset_names
    """,
    "mellivora.errors": """
        MellivoraError SpecError ModelError GraphError CompileError
        ProgramError IsaError MachineFault UsageError HostError
    """,
    "mellivora.cli": "COMMANDS Parser build_parser execute main",
}


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_public_names(module: str) -> None:
    found = importlib.import_module(module)
    names = getattr(found, "__all__", None)
    if names is None:  # no __all__: what the module itself defines
        names = [
            name
            for name, value in vars(found).items()
            if not name.startswith("_")
            and (getattr(value, "__module__", None) == module or name.isupper())
        ]
    assert sorted(names) == sorted(PUBLIC[module].split())
