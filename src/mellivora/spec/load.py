"""Reading chip descriptions: a preset by name, or a TOML file by path; all faults at once."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, cast

from mellivora.errors import SpecError
from mellivora.spec.chip import (
    DID_YOU_MEAN,
    ChipError,
    ChipSpec,
    path_of,
    rules,
    unknown_key,
    value_faults,
)
from mellivora.spec.rules import Fault

_PRESETS = Path(__file__).parent / "presets"
_REQUIRED = tuple(field.name for field in fields(ChipSpec) if field.default is MISSING)


def preset_names() -> tuple[str, ...]:
    """Names `load_chip` knows without a file, in alphabetical order."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.toml")))


def load_chip(name_or_path: str | Path) -> ChipSpec:
    """The chip of a preset's name or of a TOML file.

    Raises SpecError: MV0101 no such preset or file, MV0102 not TOML; ChipError for its contents.
    """
    named = str(name_or_path)
    if named in preset_names():
        return parse_chip((_PRESETS / f"{named}.toml").read_text("utf-8"), where=f"preset {named}")
    try:
        raw = Path(named).read_bytes()
    except OSError as error:
        raise SpecError(
            "MV0101",
            f"there is no chip of this name and no file to read: {error.strerror}",
            given=named,
            allowed="a path to a TOML file, or one of " + ", ".join(preset_names()),
            hint="name a preset, or write a file: `mellivora chip m1 --toml > my.toml`",
        ) from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_toml(f"it is not UTF-8 (byte {error.start})", named) from None
    return parse_chip(text, where=named)


def _not_toml(why: str, where: str) -> SpecError:
    return SpecError(
        "MV0102",
        f"the chip description is not TOML: {why}",
        where=where,
        allowed="TOML 1.0, each key once",
        hint="correct that line; `mellivora chip m1 --toml` prints a description that is right",
    )


def parse_chip(text: str, *, where: str = "text") -> ChipSpec:
    """The chip of a TOML text; `where` names its origin in errors. Raises as `load_chip`."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(str(error), where) from None
    values: dict[str, Any] = {}
    faults: list[Fault] = []
    sections = {rule.section for rule in rules().values()}
    for path, value in _flatten(tables, sections):
        name = path.rpartition(".")[2]
        if name in rules() and path_of(name) == path:
            values[name] = value
        else:
            faults.append(unknown_key(path, value))
    meant = {fault.allowed for fault in faults}  # one typo is one fault, not a missing key as well
    for name in _REQUIRED:
        if name not in values and DID_YOU_MEAN.format(path_of(name)) not in meant:
            what, allowed = "the key is missing", rules()[name].allowed()
            faults.append(
                Fault(code="MV0104", what=what, path=path_of(name), given="", allowed=allowed)
            )
    faults += value_faults(values)
    if faults:
        raise ChipError(faults, where=where)
    try:
        return ChipSpec(**values)
    except ChipError as error:  # contradictions: say which file
        raise ChipError(error.faults, where=where) from None


def _flatten(tables: dict[str, Any], sections: set[str]) -> list[tuple[str, object]]:
    """(path, value) of each key; tables that are no section of a chip stay whole, to be refused."""
    pairs: list[tuple[str, object]] = []
    for key, value in tables.items():
        if key in sections and isinstance(value, dict):
            inner = cast("dict[str, object]", value)
            pairs += [(f"{key}.{name}", item) for name, item in inner.items()]
        else:
            pairs.append((key, value))
    return pairs
