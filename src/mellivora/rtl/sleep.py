"""CXXRTL code in which a module that cannot change is not evaluated.

CXXRTL evaluates every module several times a cycle. `asleep` wraps a module's eval and commit: with
the inputs of the last time, a module that has settled is skipped between edges; and one whose
registers did not move at an edge is skipped at the next edge too. That is exact: the same inputs
and the same state give the same outputs. Engines at rest, and all in them, then cost a comparison
of their inputs. Edges are told by `mellivora_edge` (declared by `rtl.objects`), as a sleeping
module does not see its clock.
"""

from __future__ import annotations

import re

_INPUT = re.compile(r"(?m)^\t/\*input\*/ value<\d+> (p_\w+);")
_EVAL = "\tbool eval(performer *performer = nullptr) override;\n"
_COMMIT = re.compile(
    r"(?ms)^\ttemplate<class ObserverT>\n\tbool commit\(ObserverT &observer\) \{\n"
    r"\t\tbool changed = false;\n"
)
_EDGE = "bool posedge_p_clk = this->posedge_p_clk();"
_RETURN = "\t\treturn changed;\n"


def asleep(name: str, struct: str, functions: str) -> tuple[str, str]:
    """A module of `write_cxxrtl -noflatten`, its struct and its functions, as one that sleeps."""
    opens, closes = f"struct {name} : public module {{\n", f"}}; // struct {name}\n"
    body = struct.removeprefix(opens).removesuffix(closes)
    assert len(body) + len(opens) + len(closes) == len(struct), name
    evaluate = f"bool {name}::eval%s(performer *performer) {{"
    assert functions.count(evaluate % "") == 1, name
    functions = functions.replace(evaluate % "", evaluate % "_awake")
    return f"{opens}{_sleeping(name, body)}{closes}", functions


def told_edges(functions: str) -> str:
    """Functions of a module, asleep or not, that learn of edges by `mellivora_edge`."""
    return functions.replace(_EDGE, "bool posedge_p_clk = mellivora_edge;")


def _sleeping(name: str, body: str) -> str:
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
    return body[: head.end()] + wake + body[head.end() : at] + rest + body[at:]
