"""The part of the driver that knows the design's names, in C++.

CXXRTL keeps a port's bits from its lowest byte upwards: a port is a pointer and a number of bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from amaranth.hdl import Value
from amaranth.lib.wiring import In

from mellivora.spec import ChipSpec

PER_CORE = (
    *("fetch_address", "fetch_word", "running", "done", "start_valid", "start_sequence"),
    *("end_valid", "end_sequence"),
)


def ports(design: Any) -> Iterator[tuple[str, int, bool]]:
    """(flattened name, width in bits, is an input) of each port."""
    for path, member, value in design.signature.flatten(design):
        yield "__".join(map(str, path)), len(Value.cast(value)), member.flow == In


def mangle(name: str) -> str:
    """As write_cxxrtl names it."""
    return "p_" + name.replace("_", "__")


def cxxrtl(design: Any, chip: ChipSpec, *, wave: bool) -> str:
    """What stands before chip_driver.cpp."""
    lines = ["#include <cstdio>", "#include <cstring>", "#include <vector>", '#include "design.cc"']
    lines += ["#define WAVE", "#include <cxxrtl/cxxrtl_vcd.h>"] if wave else []
    lines += [
        "template<size_t N> uint8_t* low(cxxrtl::value<N>& v) { return (uint8_t*)v.data; }",
        "template<size_t N> uint8_t* low(cxxrtl::wire<N>& w) { return (uint8_t*)w.curr.data; }",
    ]
    top = f"cxxrtl_design::{mangle(design.module_name)}"
    # A settled design, then the edge; what follows the edge settles with the next cycle's inputs.
    edge = "cxxrtl_design::mellivora_edge"
    evaluate = (
        f"if (clock) {{ {edge} = true; top.eval(); top.commit(); {edge} = false; return; }}"
        " for (bool converged = false; !converged;) {"
        " converged = top.eval(); if (!top.commit()) break; }"
    )
    pointers = {name: f"low(top.{mangle(name)})" for name, _, _ in ports(design)}
    reads = []
    for memory, place in (("scratchpad", "pads"), ("accumulators", "accs")):
        for core in range(chip.cores):
            banked = design.memory_of(memory)
            for bank in range(banked.banks):
                cells = (f"core_{core}", memory, f"bank_{bank}")
                path = "top" + "".join(f".cell_{mangle(cell)}" for cell in cells)
                source = f"(const uint8_t*){path}.memory_p_data.data[row].data"
                reads.append((core, place, memory, bank, source))
    return "\n".join([*lines, _design(design, chip, top, "", evaluate, pointers, reads)])


def _design(
    design: Any,
    chip: ChipSpec,
    top: str,
    setup: str,
    evaluate: str,
    pointers: dict[str, str],
    reads: list[tuple[int, str, str, int, str]],
) -> str:
    widths = {name: -(-width // 8) for name, width, _ in ports(design)}
    shared = [name for name in widths if name.startswith(("memory__", "control__"))]
    members = [f"    Port {name}{{{pointers[name]}, {widths[name]}}};" for name in shared]
    for stem in PER_CORE:
        each = ", ".join(
            f"Port{{{pointers[f'{stem}_{core}']}, {widths[f'{stem}_{core}']}}}"
            for core in range(chip.cores)
        )
        members.append(f"    Port {stem}[CORES] = {{{each}}};")
    code = []
    for core, place, memory, bank, source in reads:
        banked = design.memory_of(memory)
        code.append(
            f"        if (core == {core}) for (int64_t row = 0; row < {banked.depth}; ++row)"
            f" copy({place} + core * {banked.size_bytes}LL, (row * {banked.banks} + {bank})"
            f" * {banked.bank_bytes}LL, {source}, {banked.bank_bytes}, {banked.byte_bits},"
            f" {banked.size_bytes}LL);"
        )
    ends = design.ends
    return f"""
constexpr int CORES = {chip.cores}, ENDS = {ends}, BURST = {chip.dram_burst_bytes};
struct Port {{
    uint8_t* at;
    int bytes;
    operator uint8_t*() const {{ return at; }}
}};
// Bytes of a bank's word; `bits` of each, the data lowest.
static void copy(
    uint8_t* to, int64_t first, const uint8_t* word, int bytes, int bits, int64_t size) {{
    const int last = (bytes * bits + 7) / 8 - 1;
    for (int i = 0; i < bytes && first + i < size; ++i) {{
        const int at = i * bits / 8, next = at < last ? at + 1 : at;
        to[first + i] = (word[at] | word[next] << 8) >> i * bits % 8;
    }}
}}
struct Design {{
    {top} top;
{chr(10).join(members)}
    void eval(bool clock) {{ {evaluate} }}
    void memories(int core, uint8_t* pads, uint8_t* accs) {{
{chr(10).join(code)}
    }}
}};
"""
