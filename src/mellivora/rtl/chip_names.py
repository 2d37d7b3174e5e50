"""The part of the driver that knows the design's names, in C++.

CXXRTL and Verilator keep a port's bits from its lowest byte upwards: a port is a pointer and a
number of bytes, and a word of a bank is such a pointer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Value
from amaranth.lib.wiring import In

from mellivora.rtl.banked_memory import BankedMemory
from mellivora.spec import ChipSpec

PER_CORE = (
    *("fetch_address", "fetch_word", "running", "done", "start_valid", "start_sequence"),
    *("end_valid", "end_sequence"),
)
MASTER = (
    *("arvalid", "arready", "araddr", "rvalid", "rready", "rdata", "awvalid", "awready", "awaddr"),
    *("wvalid", "wready", "wdata", "wstrb", "bvalid", "bready"),
)
"""Of an AXI4 master, what the driver looks at."""
VERILATED = "Vchip"
"""The class that Verilator makes of the top level."""


def ports(design: Any) -> Iterator[tuple[str, int, bool]]:
    """(flattened name, width in bits, is an input) of each port."""
    for path, member, value in design.signature.flatten(design):
        yield "__".join(map(str, path)), len(Value.cast(value)), member.flow == In


def mangle(name: str) -> str:
    """As write_cxxrtl names it."""
    return "p_" + name.replace("_", "__")


@dataclass(frozen=True)
class _Names:
    """What a simulator calls things; all but `head` are expressions or statements of C++.

    words: of a bank's row `row`, by (memory, core, bank). wake: what to do when a bank's memory was
    changed from outside. readers: (address, enable, bytes) of each read port of a scratchpad.
    """

    head: list[str]
    top: str
    evaluate: str
    ports: dict[str, str]
    words: dict[tuple[str, int, int], str]
    wake: dict[tuple[int, int], str]
    readers: dict[int, list[tuple[str, str, int]]]


def cxxrtl(design: Any, chip: ChipSpec, *, wave: bool) -> str:
    """What stands before chip_driver.cpp; for `write_cxxrtl` and modules that sleep."""
    head = ['#include "design.hpp"']
    head += ["#define WAVE", "#include <cxxrtl/cxxrtl_vcd.h>"] if wave else []
    head += [
        "template<size_t N> uint8_t* low(cxxrtl::value<N>& v) { return (uint8_t*)v.data; }",
        "template<size_t N> uint8_t* low(cxxrtl::wire<N>& w) { return (uint8_t*)w.curr.data; }",
    ]
    evaluate = "if (clock) clock_edge(top); else settle(top);"
    words, wake = {}, {}
    for memory, core, bank in _banks(design, chip):
        cells = [f"cell_{mangle(cell)}" for cell in (f"core_{core}", memory, f"bank_{bank}")]
        path = ".".join(["top", *cells])
        words[memory, core, bank] = f"{path}.memory_p_data.data[row].data"
        if memory == "scratchpad":
            parts = [".".join(["top", *cells[:i]]) for i in range(len(cells) + 1)]
            wake[core, bank] = " ".join(f"{part}.quiet = false;" for part in parts)
    readers = {
        core: [
            (*(f"low({path}.{mangle(f'read_{name}__{part}')})" for part in ("address", "enable")),
             width)
            for name, width in design.memory_of("scratchpad").reads.items()
        ]
        for core in range(chip.cores)
        for path in [f"top.cell_{mangle(f'core_{core}')}.cell_{mangle('scratchpad')}"]
    }  # fmt: skip
    names = _Names(
        head,
        f"cxxrtl_design::{mangle(design.module_name)}",
        evaluate,
        {name: f"low(top.{mangle(name)})" for name, _, _ in ports(design)},
        words,
        wake,
        readers,
    )
    return _text(design, chip, names)


def verilator(design: Any, chip: ChipSpec) -> str:
    """The same for a model that Verilator made, its modules not inlined, of prefix VERILATED."""
    head = [f'#include "{VERILATED}{end}.h"' for end in ("", "___024root", "__Syms")]
    place = f"top.rootp->vlSymsp->TOP__{design.module_name}__core_"
    words = {
        (memory, core, bank): f"{place}{core}__{memory}__bank_{bank}.__PVT__data[row].m_storage"
        for memory, core, bank in _banks(design, chip)
    }
    names = _Names(
        head,
        VERILATED,
        "top.clk = clock; top.eval();",
        {name: f"&top.{name.replace('__', '___05F')}" for name, _, _ in ports(design)},
        words,
        {},
        {core: [] for core in range(chip.cores)},  # Verilator keeps no port's value
    )
    return _text(design, chip, names)


def _banks(design: Any, chip: ChipSpec) -> Iterator[tuple[str, int, int]]:
    for memory in ("scratchpad", "accumulators"):
        for core in range(chip.cores):
            for bank in range(design.memory_of(memory).banks):
                yield memory, core, bank


def _geometry(memory: BankedMemory) -> str:
    return (
        f"{{{memory.banks}, {memory.bank_bytes}, {memory.byte_bits},"
        f" {memory.depth}LL, {memory.size_bytes}LL}}"
    )


def _text(design: Any, chip: ChipSpec, names: _Names) -> str:
    widths = {name: -(-width // 8) for name, width, _ in ports(design)}

    def port(name: str) -> str:
        return f"{{(uint8_t*){names.ports[name]}, {widths[name]}}}"

    members = [f"    Port {name}{port(name)};" for name in widths if name.startswith("control__")]
    for stem in PER_CORE:
        each = ", ".join(f"Port{port(f'{stem}_{core}')}" for core in range(chip.cores))
        members.append(f"    Port {stem}[CORES] = {{{each}}};")
    masters = ", ".join(
        "{" + ", ".join(f"Port{port(f'memory_{slot}__{field}')}" for field in MASTER) + "}"
        for slot in range(chip.dram_slots)
    )
    members.append(f"    std::vector<Master> memory = {{{masters}}};")
    cases = [
        f"        case {((core * 2 + (memory == 'scratchpad')) << 16) + bank}:"
        f" return (uint8_t*){place};"
        for (memory, core, bank), place in names.words.items()
    ]
    wakes = [
        f"        case {(core << 16) + bank}: {code} break;"
        for (core, bank), code in names.wake.items()
    ]
    readers = ", ".join(
        "{"
        + ", ".join(f"{{{address}, {enable}, {count}}}" for address, enable, count in rows)
        + "}"
        for rows in names.readers.values()
    )
    head = "\n".join(
        [f"#include <{name}>" for name in ("cstdint", "cstdio", "cstring", "vector")] + names.head
    )
    return f"""{head}
constexpr int CORES = {chip.cores}, ENDS = {design.ends}, BURST = {chip.dram_burst_bytes};
struct Geometry {{
    int banks, bank_bytes, byte_bits;
    int64_t depth, size;
}};
constexpr Geometry PAD{_geometry(design.memory_of("scratchpad"))};
constexpr Geometry ACCUMULATORS{_geometry(design.memory_of("accumulators"))};
struct Port {{
    uint8_t* at;
    int bytes;
    operator uint8_t*() const {{ return at; }}
}};
struct Master {{
    Port {", ".join(MASTER)};
}};
struct Reader {{
    const uint8_t *address, *enable;
    int bytes;
}};
struct Design {{
    {names.top} top;
{chr(10).join(members)}
    std::vector<Reader> readers[CORES] = {{{readers}}};
    void eval(bool clock) {{ {names.evaluate} }}
    // The bits of a word, lowest first; each byte's own bits together, its data lowest.
    uint8_t* word(bool pad, int core, int bank, int64_t row) {{
        switch ((core * 2 + pad) << 16 | bank) {{
{chr(10).join(cases)}
        }}
        return nullptr;
    }}
    // After a word of a scratchpad was changed from outside.
    void wake(int core, int bank) {{
        switch (core << 16 | bank) {{
{chr(10).join(wakes)}
        }}
    }}
}};
"""
