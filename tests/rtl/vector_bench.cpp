// Runs a VectorEngine on operations one after the other, with memories as the contract has them:
// data READ_CYCLES after the address, a write seen by addresses WRITE_CYCLES later.
#include "design.hpp"
#include <cstdint>
#include <cstring>
#include <vector>

template <size_t N> uint32_t *words(cxxrtl::value<N> &v) { return v.data; }
template <size_t N> uint32_t *words(cxxrtl::wire<N> &w) { return w.curr.data; }

namespace {
constexpr uint32_t kAccumulators = 0x40000000u;
constexpr int kReads = 4, kWrites = 4, kReadCycles = 2, kWriteCycles = 2;
struct Memory {
    uint8_t *scratchpad, *accumulators;
    uint32_t scratchpad_bytes, accumulator_bytes;
    uint8_t &at(uint32_t address) {
        if (address & kAccumulators) return accumulators[address % accumulator_bytes];
        return scratchpad[address % scratchpad_bytes];
    }
};
struct Write { uint32_t address; std::vector<uint8_t> data; std::vector<bool> mask; };
}  // namespace

// op: op_words a row. times: start and end cycle of each. Returns the cycles run; stops after
// `limit` cycles, or when an operation faults: fault has its cause, pc, sequence and cycle.
extern "C" __attribute__((visibility("default"))) long run_vector(long count, const uint32_t *ops, long op_words, uint8_t *scratchpad,
                           uint32_t scratchpad_bytes, uint8_t *accumulators,
                           uint32_t accumulator_bytes, long limit, const int32_t *gaps,
                           int64_t *times, int64_t *fault, int64_t *writes) {
    cxxrtl_design::TOP top;
    Memory memory{scratchpad, accumulators, scratchpad_bytes, accumulator_bytes};
    const int read_bytes[kReads] = {READ_BYTES};
    const int write_bytes[kWrites] = {WRITE_BYTES};
    std::vector<std::vector<uint8_t>> stages[kReads];
    for (int i = 0; i < kReads; i++)
        stages[i].assign(kReadCycles, std::vector<uint8_t>((read_bytes[i] + 3) / 4 * 4));
    std::vector<Write> pending[kWriteCycles];
    uint32_t *data[kReads] = {READ_DATA};
    long next = 0, ended = 0, cycle = 0;
    fault[0] = 0;
    *writes = 0;
    long wait = count ? gaps[0] : 0;
    top.p_rst.set<bool>(false);
    // From power-on: one settled cycle without an operation.
    for (; cycle < limit && ended < count; cycle++) {
        for (auto &write : pending[0])
            for (size_t i = 0; i < write.data.size(); i++)
                if (write.mask[i]) memory.at(write.address + i) = write.data[i];
        for (int k = 0; k + 1 < kWriteCycles; k++) pending[k].swap(pending[k + 1]);
        pending[kWriteCycles - 1].clear();
        for (int i = 0; i < kReads; i++)
            std::memcpy(data[i], stages[i][0].data(), stages[i][0].size());
        bool ready = top.p_ready.get<bool>() && cycle > 0;
        bool start = ready && next < count && wait-- <= 0;
        std::memcpy(words(top.p_op), ops + (next < count ? next : 0) * op_words, 4 * op_words);
        top.p_start.set<bool>(start);
        settle(top);
        if (start) {
            times[2 * next++] = cycle;
            wait = next < count ? gaps[next] : 0;
        }
        if (words(top.p_ends)[0] & 1) times[2 * ended++ + 1] = cycle;
        if (words(top.p_fault)[0] & 1) {
            std::memcpy(fault + 1, words(top.p_fault), 4 * ((FAULT_BITS + 31) / 32));
            fault[0] = cycle;
            cycle++;
            break;
        }
        const bool read_enable[kReads] = {READ_ENABLE};
        const uint32_t read_address[kReads] = {READ_ADDRESS};
        for (int i = 0; i < kReads; i++) {
            for (int k = 0; k + 1 < kReadCycles; k++) stages[i][k] = stages[i][k + 1];
            if (!read_enable[i]) continue;
            for (int byte = 0; byte < read_bytes[i]; byte++)
                stages[i][kReadCycles - 1][byte] = memory.at(read_address[i] + byte);
        }
        const bool write_enable[kWrites] = {WRITE_ENABLE};
        const uint32_t write_address[kWrites] = {WRITE_ADDRESS};
        const uint32_t *write_data[kWrites] = {WRITE_DATA};
        const uint32_t *write_mask[kWrites] = {WRITE_MASK};
        for (int i = 0; i < kWrites; i++) {
            if (!write_enable[i]) continue;
            ++*writes;
            Write write{write_address[i], {}, {}};
            for (int byte = 0; byte < write_bytes[i]; byte++) {
                write.data.push_back(write_data[i][byte / 4] >> 8 * (byte % 4));
                write.mask.push_back(write_mask[i][byte / 32] >> byte % 32 & 1);
            }
            pending[kWriteCycles - 1].push_back(write);
        }
        clock_edge(top);
        settle(top);
    }
    for (auto &later : pending)
        for (auto &write : later)
            for (size_t i = 0; i < write.data.size(); i++)
                if (write.mask[i]) memory.at(write.address + i) = write.data[i];
    return cycle;
}
