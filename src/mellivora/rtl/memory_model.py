"""What a simulation puts in the place of a `BankedMemory`: one array of bytes, the same cycles.

Banks with a port for every stream are slow to simulate and to compile. The model is C++ for a black
box of CXXRTL; the hardware and the model are held to the same test. A driver finds the bytes by
    dynamic_cast<mellivora::ByteMemory*>(top.cell_p_NAME.get())->bytes        byte a is bytes[a]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mellivora.rtl.banked_memory import BankedMemory

BYTE_MEMORY = """
#include <cstdint>
#include <cstring>
#include <vector>
namespace mellivora {
struct ByteMemory {  // what is not a power of two in size wraps as the rows of its banks do
    std::vector<uint8_t> bytes;
    size_t row, mask;
    ByteMemory(size_t depth, size_t row) : bytes(depth * row), row(row), mask(row - 1) {
        while (mask + 1 < bytes.size()) mask = 2 * mask + 1;
    }
    virtual ~ByteMemory() {}
    size_t place(uint32_t address) const {
        size_t at = address & mask;
        return at < bytes.size() ? at : at % row;
    }
};
template<size_t N> struct Read {  // the address at one edge, the data at the next
    bool pending = false;
    cxxrtl::value<8 * N> word;
    void edge(const ByteMemory& m, uint32_t address, bool enable, cxxrtl::wire<8 * N>& data) {
        if (pending) data.next = word;
        if ((pending = enable)) {
            size_t at = m.place(address), n = m.bytes.size() - at < N ? m.bytes.size() - at : N;
            memcpy(word.data, &m.bytes[at], n);
            if (n < N) memcpy((uint8_t*)word.data + n, &m.bytes[0], N - n);
        }
    }
};
template<size_t N> struct Write {  // taken at one edge, in memory at the next
    bool pending = false;
    size_t at;
    cxxrtl::value<8 * N> word;
    cxxrtl::value<N> mask;
    void edge(ByteMemory& m, uint32_t address, bool enable, const cxxrtl::value<8 * N>& data,
              const cxxrtl::value<N>& select) {
        if (pending) {
            const uint8_t* from = (const uint8_t*)word.data;
            for (size_t i = 0, to = at; i < N; i++, to++) {
                if (to == m.bytes.size()) to = 0;
                if (mask.data[i / 32] >> i % 32 & 1) m.bytes[to] = from[i];
            }
        }
        if ((pending = enable)) at = m.place(address), word = data, mask = select;
    }
};
}
"""
"""Once in a design that has models; then one `memory_model` each, inside its namespace."""


def memory_model(memory: BankedMemory) -> str:
    """C++ of the black box of this memory; all reads of an edge come before its writes."""
    box = "bb_" + _mangle(memory.module_name)
    reads, writes = list(memory.reads.items()), list(memory.writes.items())
    row = memory.banks * memory.bank_bytes
    stages = [f"    mellivora::Read<{width}> read_{i};" for i, (_, width) in enumerate(reads)]
    stages += [f"    mellivora::Write<{width}> write_{i};" for i, (_, width) in enumerate(writes)]
    edges = [
        f"        read_{i}.edge(*this, {_port('read', name, 'address')}.data[0],"
        f" bool({_port('read', name, 'enable')}), {_port('read', name, 'data')});"
        for i, (name, _) in enumerate(reads)
    ]
    edges += [
        f"        write_{i}.edge(*this, {_port('write', name, 'address')}.data[0],"
        f" bool({_port('write', name, 'enable')}), {_port('write', name, 'data')},"
        f" {_port('write', name, 'mask')});"
        for i, (name, _) in enumerate(writes)
    ]
    return "\n".join(
        [
            f"struct model_{box} : {box}, mellivora::ByteMemory {{",
            f"    model_{box}() : ByteMemory({memory.depth}, {row}) {{}}",
            *stages,
            "    bool eval(performer*) override {",
            "        if (!posedge_p_clk()) return true;",
            *edges,
            "        return true;",
            "    }",
            "};",
            f"std::unique_ptr<{box}> {box}::create(std::string, metadata_map, metadata_map) {{",
            f"    return std::make_unique<model_{box}>();",
            "}",
            "",
        ]
    )


def _port(way: str, name: str, field: str) -> str:
    return _mangle(f"{way}_{name}__{field}")


def _mangle(name: str) -> str:
    """As write_cxxrtl does."""
    return "p_" + name.replace("_", "__")
