"""Shapes of well-known models, without weights: enough to compile and to time.

`catalogue.toml` gives each model's sizes with the address they were read from. Constants that do
not change a program's time (norm epsilon, rotary scaling) are the family's defaults.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

from mellivora.errors import ModelError
from mellivora.frontends.llm_config import LlmConfig


@dataclass(frozen=True)
class CatalogueEntry:
    """A model's shape and where it was read."""

    name: str
    config: LlmConfig
    source: str


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """All entries by lower-case name, in the order of the file."""
    text = resources.files("mellivora.frontends").joinpath("catalogue.toml").read_text("utf-8")
    entries: dict[str, CatalogueEntry] = {}
    for name, fields in tomllib.loads(text).items():
        source = fields.pop("source")
        family = fields["architecture"]
        config = LlmConfig(**fields, qk_norm=family == "qwen3", qkv_bias=family == "qwen2")
        entries[name.lower()] = CatalogueEntry(name, config, source)
    return entries


def catalogue_config(name: str) -> LlmConfig:
    """The config of a catalogue entry, by name in any case. Raises ModelError MV0257."""
    entry = catalogue().get(name.lower())
    if entry is None:
        raise ModelError(
            "MV0257",
            "no such model in the catalogue of shapes",
            given=repr(name),
            allowed=", ".join(catalogue()),
            hint="choose one of the list, or give a model file",
        )
    return entry.config
