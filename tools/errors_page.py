"""Finds every error code in the source by its syntax and makes docs/errors.md from them.

A code is a string "MVdddd" given to a call (or in a table row) together with its sentence. The
sentence is the next text with a space in it: a literal, an f-string (shown with {names}), a
variable assigned such a text in the same function, or what a helper that makes the error is given.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "mellivora"
CODE = re.compile(r"MV\d{4}")

FAMILIES = {
    "MV01": ("SpecError", "A chip description is wrong"),
    "MV02": ("ModelError", "A model file or its contents is wrong or unsupported"),
    "MV03": ("GraphError", "A graph breaks the law of the IR"),
    "MV04": ("CompileError", "A model does not fit or cannot be lowered"),
    "MV05": ("ProgramError", "A program file is damaged, hostile or for another chip"),
    "MV06": ("IsaError", "An instruction, assembly text or check is wrong"),
    "MV07": ("MachineFault", "A running program faulted"),
    "MV08": ("UsageError", "A command or a request is wrong"),
    "MV09": ("HostError", "This machine lacks something"),
}
CLASSES = {name for name, _ in FAMILIES.values()} | {"ChipError"}

# Codes that two files of one part may raise, because both meet the same cause.
SHARED = {
    **dict.fromkeys(("MV0301", "MV0302", "MV0304"), "graph: while building, and the verifier"),
    **dict.fromkeys(("MV0308", "MV0319"), "graph: while building or running, and the verifier"),
}


@dataclass(frozen=True, slots=True)
class Site:
    """One place where a code is given: file, line, what is called, and the sentence (or "")."""

    code: str
    file: str
    line: int
    called: str
    inside: str
    sentence: str


def _text(node: ast.AST, names: dict[str, str]) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts: list[str] = []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                parts.append("{" + ast.unparse(part.value) + "}")
            else:
                parts.append(_text(part, names))
        return "".join(parts)
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.IfExp):
        return _text(node.body, names) + " / " + _text(node.orelse, names)
    if isinstance(node, ast.BinOp):
        return _text(node.left, names) + _text(node.right, names)
    return ""


class _Finder(ast.NodeVisitor):
    """Walks one module with the texts assigned so far in the enclosing functions."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.names: dict[str, str] = {}
        self.inside = ""
        self.sites: list[Site] = []
        self.calls: list[tuple[str, str, str]] = []  # (function, called from, first sentence)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outer = self.names, self.inside
        self.names, self.inside = dict(self.names), node.name
        self.generic_visit(node)
        self.names, self.inside = outer

    visit_FunctionDef = _function
    visit_AsyncFunctionDef = _function

    def visit_Assign(self, node: ast.Assign) -> None:
        text = _text(node.value, self.names)
        for target in node.targets:
            if isinstance(target, ast.Name) and text:
                self.names[target.id] = text
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for name, value in zip(target.elts, node.value.elts, strict=False):
                    if isinstance(name, ast.Name):
                        self.names[name.id] = _text(value, self.names)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        called = ast.unparse(node.func).rpartition(".")[2]
        self._row(node, called, values)
        self.calls.append((called, self.inside, self._sentence(values)))
        self.generic_visit(node)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        self._row(node, "", node.elts)
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        for key, value in zip(node.keys, node.values, strict=True):
            inner = value.elts if isinstance(value, ast.Tuple) else [value]
            if key is not None and any(_text(item, {}).count(" ") for item in inner):
                self._row(node, "", [key, *inner])
        self.generic_visit(node)

    def _row(self, node: ast.expr, called: str, values: list[ast.expr]) -> None:
        for place, value in enumerate(values):
            code = value.value if isinstance(value, ast.Constant) else None
            if isinstance(code, str) and CODE.fullmatch(code):
                said = self._sentence(values[place + 1 :])
                self.sites.append(Site(code, self.file, node.lineno, called, self.inside, said))
                return

    def _sentence(self, values: list[ast.expr]) -> str:
        texts = (_text(value, self.names) for value in values)
        return next((text for text in texts if " " in text.strip()), "")


def sites(package: Path = PACKAGE) -> list[Site]:
    """Every place in the package where an error code is given, in order of code, file and line."""
    found: list[Site] = []
    calls: list[tuple[str, str, str]] = []
    for path in sorted(package.rglob("*.py")):
        finder = _Finder(str(path.relative_to(package)))
        finder.visit(ast.parse(path.read_text("utf-8"), str(path)))
        found += finder.sites
        calls += finder.calls
    for place, site in enumerate(found):
        if not site.sentence:
            # The helper called makes the error, or this is the helper and its callers say why.
            made = [
                said for name, inside, said in calls if inside == site.called and name in CLASSES
            ]
            told = [said for name, _, said in calls if name == site.inside]
            said = " / ".join(dict.fromkeys(text for text in made or told if text))
            found[place] = dataclasses.replace(site, sentence=said)
    return sorted(found, key=lambda site: (site.code, site.file, site.line))


def faults(found: list[Site]) -> list[str]:
    """Codes used for two causes (two files), of no family, of another class, or without words."""
    wrong: list[str] = []
    for code in sorted({site.code for site in found}):
        mine = [site for site in found if site.code == code]
        files = sorted({site.file for site in mine})
        places = ", ".join(f"{site.file}:{site.line}" for site in mine)
        parts = {file.split("/")[0] for file in files}
        if len(files) > 1 and not (code in SHARED and len(parts) == 1):
            wrong.append(f"{code} is raised in {len(files)} files, each cause has one: {places}")
        if code[:4] not in FAMILIES:
            wrong.append(f"{code} belongs to no family: {places}")
            continue
        for site in mine:
            if site.called in CLASSES - {"ChipError"} and site.called != FAMILIES[code[:4]][0]:
                wrong.append(f"{code} is a {site.called} at {site.file}:{site.line}")
        if not any(site.sentence for site in mine):
            wrong.append(f"{code} has no sentence next to it: {places}")
    return wrong


def pages() -> dict[str, str]:
    """{"docs/errors.md": its text}."""
    found = sites()
    lines = [
        "# Error codes",
        "",
        "Generated from the source by `tools/errors_page.py`; do not edit. Every error says what",
        "failed, where, what was given, what is allowed and the next step; this is the list of",
        "causes. Words in braces stand for what the message fills in.",
    ]
    for prefix, (name, about) in FAMILIES.items():
        codes = sorted({site.code for site in found if site.code.startswith(prefix)})
        if codes:
            lines += ["", f"## {name}: {about[0].lower()}{about[1:]}", ""]
            lines += ["| code | what failed | raised in |", "| --- | --- | --- |"]
        for code in codes:
            mine = [site for site in found if site.code == code]
            said = list(dict.fromkeys(site.sentence for site in mine if site.sentence))
            sentence = " / ".join(said).replace("|", "\\|").replace("\n", " ")
            files = ", ".join(f"`{file}`" for file in sorted({site.file for site in mine}))
            lines.append(f"| {code} | {sentence} | {files} |")
    return {"docs/errors.md": "\n".join(lines) + "\n"}
