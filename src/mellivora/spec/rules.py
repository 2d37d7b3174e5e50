"""What one value of a chip description may be: the vocabulary in which `ChipSpec` is declared.

Each field of `ChipSpec` is `Annotated` with one rule. From the rules come the parser, the checks,
the printed text and the table of `mellivora chip`; a field is therefore declared once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong with a chip description: `path` is "section.key" in the TOML."""

    code: str
    what: str
    path: str
    given: str
    allowed: str

    def line(self) -> str:
        """The fault on one line, for a list of several."""
        given = f" = {self.given}" if self.given else ""
        return f"{self.code} {self.path}{given}: {self.what}; allowed: {self.allowed}"


@dataclass(frozen=True, slots=True)
class Rule:
    """Base of all rules. section: TOML table ("" is the top level); about: one sentence."""

    section: str
    about: str

    def allowed(self) -> str:
        """The values that would do, as a phrase."""
        raise NotImplementedError

    def fault(self, path: str, value: object) -> Fault | None:
        """What is wrong with `value` at `path`, None if nothing is."""
        raise NotImplementedError

    def normal(self, value: object) -> object:
        """The one stored form of an accepted value (48 and 48.0 are the same bandwidth)."""
        return value


_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a fraction",
    str: "text",
    list: "a list",
    dict: "a table",
}


def _wrong_type(path: str, value: object, allowed: str) -> Fault:
    what = f"{_KINDS.get(type(value), 'this kind of value')} does not fit here"
    return Fault(code="MV0105", what=what, path=path, given=show(value), allowed=allowed)


def _out_of_range(path: str, value: object, allowed: str) -> Fault:
    what = "the value is out of range"
    return Fault(code="MV0106", what=what, path=path, given=show(value), allowed=allowed)


def _unknown_word(path: str, value: object, allowed: str) -> Fault:
    what = "the word is not known"
    return Fault(code="MV0107", what=what, path=path, given=show(value), allowed=allowed)


@dataclass(frozen=True, slots=True)
class Whole(Rule):
    """A whole number from low to high, a multiple of `step`, a power of two if `power_of_two`."""

    low: int
    high: int
    step: int = 1
    power_of_two: bool = False

    def allowed(self) -> str:
        kind = "a power of two" if self.power_of_two else "a whole number"
        if self.step > 1:
            kind = f"a multiple of {self.step}"
        return f"{kind} from {self.low} to {self.high}"

    def fault(self, path: str, value: object) -> Fault | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return _wrong_type(path, value, self.allowed())
        fits = self.low <= value <= self.high and value % self.step == 0
        if not fits or (self.power_of_two and value & (value - 1)):
            return _out_of_range(path, value, self.allowed())
        return None


@dataclass(frozen=True, slots=True)
class Real(Rule):
    """A finite number from low to high, stored as float; may be absent if `optional`."""

    low: float
    high: float
    optional: bool = False

    def allowed(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}" + ", or absent" * self.optional

    def fault(self, path: str, value: object) -> Fault | None:
        if value is None and self.optional:
            return None
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return _wrong_type(path, value, self.allowed())
        if not self.low <= value <= self.high:  # also refuses NaN
            return _out_of_range(path, value, self.allowed())
        return None

    def normal(self, value: object) -> object:
        return float(value) if isinstance(value, int) else value


@dataclass(frozen=True, slots=True)
class Flag(Rule):
    """true or false."""

    def allowed(self) -> str:
        return "true or false"

    def fault(self, path: str, value: object) -> Fault | None:
        return None if isinstance(value, bool) else _wrong_type(path, value, self.allowed())


@dataclass(frozen=True, slots=True)
class Text(Rule):
    """One line of text of at most `longest` characters; an identifier-like word if `word`."""

    longest: int
    word: bool = False

    def allowed(self) -> str:
        if self.word:
            return f"1 to {self.longest} letters, digits, '-', '_' or '.'"
        return f"one line of at most {self.longest} characters"

    def fault(self, path: str, value: object) -> Fault | None:
        if not isinstance(value, str):
            return _wrong_type(path, value, self.allowed())
        fits = len(value) <= self.longest and (value.isprintable() or not value)
        if self.word:
            plain = value.replace("-", "").replace("_", "").replace(".", "")
            fits = fits and plain.isascii() and plain.isalnum()
        return None if fits else _out_of_range(path, value, self.allowed())


@dataclass(frozen=True, slots=True)
class Choice(Rule):
    """One word of a set."""

    words: tuple[str, ...]

    def allowed(self) -> str:
        return "one of " + ", ".join(self.words)

    def fault(self, path: str, value: object) -> Fault | None:
        if not isinstance(value, str):
            return _wrong_type(path, value, self.allowed())
        if value in self.words:
            return None
        return _unknown_word(path, value, self.allowed())


@dataclass(frozen=True, slots=True)
class Choices(Rule):
    """Some words of a set, at least one, each once; stored as a tuple in the order of the set."""

    words: tuple[str, ...]

    def allowed(self) -> str:
        return "one or more, each once, of " + ", ".join(self.words)

    def fault(self, path: str, value: object) -> Fault | None:
        if not isinstance(value, (list, tuple)):
            return _wrong_type(path, value, self.allowed())
        items = list(cast("list[object]", value))
        strange = [item for item in items if item not in self.words]
        if strange:
            return _unknown_word(path, strange[0] if len(strange) == 1 else strange, self.allowed())
        if items and len(set(items)) == len(items):
            return None
        what = "the list is empty or repeats a word"
        return Fault(code="MV0108", what=what, path=path, given=show(items), allowed=self.allowed())

    def normal(self, value: object) -> object:
        chosen = cast("list[str]", value)
        return tuple(word for word in self.words if word in chosen)


def show(value: object) -> str:
    """A value as TOML writes it: what the user typed, or must type."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(show(item) for item in cast("list[object]", value)) + "]"
    if isinstance(value, dict):
        return "{...}"
    return "absent" if value is None else str(value)
