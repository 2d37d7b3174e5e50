"""CXXRTL code in which a module that cannot change is not evaluated.

CXXRTL evaluates every module several times a cycle. `asleep(text)` wraps each module's eval and
commit: with the inputs of the last time, a module that has settled is skipped between edges; and
one whose registers did not move at an edge is skipped at the next edge too. That is exact: the same
inputs and the same state give the same outputs. Engines at rest, and all in them, then cost a
comparison of their inputs. Edges are told by `mellivora_edge` (declared by `rtl.objects`), as a
sleeping module does not see its clock.
"""

from __future__ import annotations

import re

_STRUCT = re.compile(r"(?ms)^struct (p_\w+) : public module \{\n(.*?)^\}; // struct \1\n")
_INPUT = re.compile(r"(?m)^\t/\*input\*/ value<\d+> (p_\w+);")
_EVAL = "\tbool eval(performer *performer = nullptr) override;\n"
_COMMIT = re.compile(
    r"(?ms)^\ttemplate<class ObserverT>\n\tbool commit\(ObserverT &observer\) \{\n"
    r"\t\tbool changed = false;\n"
)
_EDGE = "bool posedge_p_clk = this->posedge_p_clk();"
_RETURN = "\t\treturn changed;\n"


def asleep(text: str) -> str:
    """The text of `write_cxxrtl -noflatten`, with modules that sleep."""
    text = _STRUCT.sub(lambda found: _module(found[1], found[2]), text)
    text = re.sub(
        r"(?m)^bool (p_\w+)::eval\(performer \*performer\) \{",
        r"bool \1::eval_awake(performer *performer) {",
        text,
    )
    return text.replace(_EDGE, "bool posedge_p_clk = mellivora_edge;")


def _module(name: str, body: str) -> str:
    inputs = [port for port in _INPUT.findall(body) if port != "p_clk"]
    assert body.count(_EVAL) == 1, name
    assert len(_COMMIT.findall(body)) == 1, name
    widths = {port: re.search(rf"value<(\d+)> {port};", body)[1] for port in inputs}  # type: ignore[index]
    seen = "".join(f"\tvalue<{widths[port]}> seen_{port};\n" for port in inputs)
    same = " && ".join(f"{port} == seen_{port}" for port in inputs) or "true"
    keep = "".join(f"\t\t\tseen_{port} = {port};\n" for port in inputs)
    evaluate = (
        f"{seen}\tbool is_awake = false, was_edge = false, settled = false, quiet = false;\n"
        "\tbool eval_awake(performer *performer);\n"
        "\tbool eval(performer *performer = nullptr) override {\n"
        f"\t\tconst bool same = {same};\n"
        "\t\tif (same && (mellivora_edge ? quiet : settled)) return true;\n"
        f"\t\tif (!same) {{\n{keep}\t\t\tsettled = quiet = false;\n\t\t}}\n"
        "\t\tis_awake = true, was_edge = mellivora_edge;\n"
        "\t\treturn eval_awake(performer);\n"
        "\t}\n"
    )
    body = body.replace(_EVAL, evaluate)
    head = _COMMIT.search(body)
    assert head
    at = body.index(_RETURN, head.end())
    wake = "\t\tif (!is_awake) return false;\n\t\tis_awake = false;\n"
    rest = (
        "\t\tif (changed) settled = quiet = false;\n"
        "\t\telse if (was_edge) quiet = true;\n\t\telse settled = true;\n"
    )
    body = body[: head.end()] + wake + body[head.end() : at] + rest + body[at:]
    return f"struct {name} : public module {{\n{body}}}; // struct {name}\n"
