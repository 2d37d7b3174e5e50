// Runs the chip's RTL beside a memory: `DramDevice`, and a fixed delay. What knows the design's names
// is generated (`rtl.chip_names`): CORES, ENDS, BURST, PAD, ACCUMULATORS; `Design` with eval(clock), the words of
// its banks and a pointer to the bytes of each port, low byte first, as CXXRTL and Verilator keep them.
//
// One clock cycle: inputs in, let the logic settle, look at the outputs, then the edge.

struct Setup {  // rtl.chip_simulation._Setup
    int64_t words, limit_cycles, dram_bytes, read_delay, write_delay, trace_rows, stall_seed;
    int64_t wave_first, wave_past;
    const uint64_t* code;  // [words][2]
    uint8_t* dram;
    uint16_t *pads, *accumulators;  // [CORES][size]: each byte as it is stored
    int64_t *start, *end;  // [CORES][trace_rows], -1 where not reached
    int64_t* report;       // REPORT_FIELDS
    uint32_t* registers;   // [CORES][register_count], read when all is done
    const int64_t* register_addresses;
    int64_t register_count;
    const uint32_t* setup_writes;  // [setup_count][2]: address and value of what is written first
    int64_t setup_count, doorbell_address, doorbell_value, core_stride;
    const char* wave_path;
    const int64_t* flips;  // [flip_count][4] by cycle: cycle, core, byte, bit of its stored bits
    int64_t flip_count;
    const uint8_t* meaning;  // with ECC, of stored bits: 0 right, 1 corrected, 2 uncorrectable
    int64_t* flip_reads;     // [flip_count]: how often a read took the byte while it was not right
    int64_t* flip_seen;      // [CORES][2]: bytes that reads took, by meaning
    const DramTiming* timing;
};

enum Report { CYCLES, STOPPED, BUS_ERROR, READ_BEATS, WRITE_BEATS, WALL_CYCLES, REPORT_FIELDS };

namespace {

// A port of more than a byte is followed by zeros or by more of itself: 4 bytes can be read of any.
bool get(const uint8_t* port) { return *port; }
uint32_t word(const uint8_t* port, int i) {
    uint32_t value;
    memcpy(&value, port + 4 * i, 4);
    return value;
}
uint64_t address(const Port& port) {
    uint64_t value = 0;
    memcpy(&value, port.at, port.bytes);
    return value;
}
void put(const Port& port, uint64_t value) { memcpy(port.at, &value, port.bytes); }

// What comes back so many cycles after it was served, in order.
struct Delay {
    static constexpr int64_t UNSERVED = INT64_MAX;
    struct Beat { int64_t due; uint64_t address; };
    std::vector<Beat> ring = std::vector<Beat>(4096);
    uint64_t head = 0, tail = 0;
    bool empty() const { return head == tail; }
    Beat& at(uint64_t number) { return ring[number & 4095]; }
    Beat& front() { return at(head); }
    uint64_t push(uint64_t address) { return at(tail) = {UNSERVED, address}, tail++; }
    void pop() { ++head; }
};

struct Bus {  // of one master: what it waits for, and this cycle
    Delay reads, writes;
    bool read_stall, write_stall, has_read, has_write;
};

class Bench {
  public:
    explicit Bench(const Setup& setup)
        : s(setup), device_(*setup.timing), random_(setup.stall_seed),
          flipped_(setup.flip_count ? CORES * PAD.size : 0) {}

    void run() {
        for (int64_t i = 0; i < s.setup_count; ++i) write(s.setup_writes[2 * i], s.setup_writes[2 * i + 1]);
#ifdef WAVE
        cxxrtl::debug_items items;
        d.top.debug_info(&items, nullptr, "chip ");
        vcd_.timescale(1, "ns");
        vcd_.add_without_memories(items);
        file_ = fopen(s.wave_path, "wb");
#endif
        for (int c = 0; c < CORES; ++c) write(s.core_stride * c + s.doorbell_address, s.doorbell_value);
        while (cycle < s.limit_cycles) {
            step();
            if (all_done() && settled()) break;
        }
        s.report[CYCLES] = cycle;
        s.report[STOPPED] = all_done();
        for (int c = 0; c < CORES; ++c)
            for (int64_t i = 0; i < s.register_count; ++i)
                s.registers[c * s.register_count + i] = read(s.core_stride * c + s.register_addresses[i]);
        s.report[WALL_CYCLES] = wall_;
        for (int c = 0; c < CORES; ++c) {
            for (int64_t i = 0; i < PAD.size; ++i) s.pads[c * PAD.size + i] = stored(PAD, c, i);
            for (int64_t i = 0; i < ACCUMULATORS.size; ++i)
                s.accumulators[c * ACCUMULATORS.size + i] = stored(ACCUMULATORS, c, i);
        }
#ifdef WAVE
        if (file_) fclose(file_);
#endif
    }

  private:
    const Setup& s;
    Design d;
    int64_t cycle = 0, wall_ = 0, offset_[CORES];
    bool started_ = false, running_[CORES] = {};
    uint64_t fetch_[CORES] = {};
    DramDevice device_;
    std::vector<Bus> buses_ = std::vector<Bus>(d.memory.size());
    uint64_t random_;
    int64_t next_flip_ = 0;
    std::vector<int64_t> flipped_;  // [CORES][PAD.size]: the last flip of each byte
#ifdef WAVE
    cxxrtl::vcd_writer vcd_;
    FILE* file_ = nullptr;
#endif

    // Back-pressure of the memory, for tests of the protocol: a third of all cycles.
    bool stalls() {
        if (!s.stall_seed) return false;
        random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
        return random_ % 3 == 0;
    }

    bool settled() {
        for (const Bus& bus : buses_)
            if (!bus.reads.empty() || !bus.writes.empty()) return false;
        return true;
    }

    bool all_done() {
        for (int c = 0; c < CORES; ++c)
            if (!running_[c] || !get(d.done[c])) return false;
        return true;
    }

    // Where the bits of a byte are. An address wraps as the rows of its banks do.
    struct Place { uint8_t* word; int bank, bit; };
    Place place(const Geometry& memory, int core, int64_t at) {
        const int64_t across = memory.banks * memory.bank_bytes, size = memory.depth * across;
        int64_t mask = across - 1;
        while (mask + 1 < size) mask = 2 * mask + 1;
        if ((at &= mask) >= size) at %= across;
        const int bank = at / memory.bank_bytes % memory.banks;
        uint8_t* word = d.word(&memory == &PAD, core, bank, at / across);
        return {word, bank, int(at % memory.bank_bytes) * memory.byte_bits};
    }
    uint32_t stored(const Geometry& memory, int core, int64_t at) {
        const Place p = place(memory, core, at);
        uint32_t value = 0;
        memcpy(&value, p.word + p.bit / 8, (p.bit % 8 + memory.byte_bits + 7) / 8);
        return value >> p.bit % 8 & ((1u << memory.byte_bits) - 1);
    }

    // Flips of this cycle: what a read of this cycle finds, unless a write of it comes first.
    void flip() {
        for (; next_flip_ < s.flip_count && s.flips[4 * next_flip_] <= cycle; ++next_flip_) {
            const int64_t* one = s.flips + 4 * next_flip_;
            const Place p = place(PAD, one[1], one[2]);
            p.word[(p.bit + one[3]) / 8] ^= 1 << (p.bit + one[3]) % 8;
            d.wake(one[1], p.bank);
            flipped_[one[1] * PAD.size + one[2]] = next_flip_;
        }
    }

    // What the counters of ECC should count, from the read ports and the words as they are.
    void watch() {
        for (int c = 0; c < CORES; ++c)
            for (const Reader& reader : d.readers[c])
                for (int i = 0; *reader.enable && i < reader.bytes; ++i) {
                    const int64_t at = int64_t(word(reader.address, 0)) + i;
                    const int kind = s.meaning[stored(PAD, c, at)];
                    if (!kind) continue;
                    ++s.flip_seen[2 * c + kind - 1];
                    ++s.flip_reads[flipped_[c * PAD.size + at % PAD.size]];
                }
    }

    void step() {
        for (Bus& bus : buses_) bus.read_stall = stalls(), bus.write_stall = stalls();
        for (int c = 0; c < CORES; ++c) {
            uint8_t* word = d.fetch_word[c];
            if (fetch_[c] < uint64_t(s.words)) memcpy(word, s.code + 2 * fetch_[c], 16);
            else memset(word, 0, 16);
        }
        for (size_t i = 0; i < buses_.size(); ++i) answer(d.memory[i], buses_[i]);
        d.eval(false);
        trace();
        if (started_ && s.flip_count) {
            flip();
            if (s.meaning) watch();
        }
        control();
        for (size_t i = 0; i < buses_.size(); ++i) take(d.memory[i], buses_[i], 2 * i);
        serve();
        for (int c = 0; c < CORES; ++c) fetch_[c] = address(d.fetch_address[c]);
#ifdef WAVE
        if (started_ && cycle >= s.wave_first && cycle < s.wave_past) sample();
#endif
        d.eval(true);
        ++wall_;
        if (started_) ++cycle;
    }

    void answer(const Master& axi, Bus& bus) {
        bus.has_read = !bus.reads.empty() && bus.reads.front().due <= wall_ && !bus.read_stall;
        put(axi.rvalid, bus.has_read);
        if (bus.has_read) memcpy(axi.rdata, s.dram + bus.reads.front().address, BURST);
        bus.has_write = !bus.writes.empty() && bus.writes.front().due <= wall_;
        put(axi.bvalid, bus.has_write);
        put(axi.arready, !bus.read_stall);
        put(axi.awready, !bus.write_stall);
        put(axi.wready, !bus.write_stall);
    }

    // ticket: of its reads; that of its writes is the next one.
    void take(const Master& axi, Bus& bus, int64_t ticket) {
        if (bus.has_read && get(axi.rready)) bus.reads.pop();
        if (bus.has_write && get(axi.bready)) bus.writes.pop();
        if (get(axi.arvalid) && !bus.read_stall) {
            const uint64_t at = address(axi.araddr);
            if (fits(at)) device_.push(int64_t(bus.reads.push(at)) << 16 | ticket, at, false);
            ++s.report[READ_BEATS];
        }
        // Address and data of a write leave together: they are taken together.
        if (get(axi.awvalid) && get(axi.wvalid) && !bus.write_stall) {
            const uint64_t at = address(axi.awaddr);
            if (fits(at)) {
                const uint8_t* data = axi.wdata;
                const uint8_t* strobe = axi.wstrb;
                for (int i = 0; i < BURST; ++i)
                    if (strobe[i / 8] >> (i % 8) & 1) s.dram[at + i] = data[i];
                device_.push(int64_t(bus.writes.push(at)) << 16 | (ticket + 1), at, true);
            }
            ++s.report[WRITE_BEATS];
        }
    }

    void serve() {
        device_.step(cycle);
        for (const auto& one : device_.served) {
            Bus& bus = buses_[(one.ticket & 0xFFFF) / 2];
            const bool writes = one.ticket & 1;
            (writes ? bus.writes : bus.reads).at(one.ticket >> 16).due =
                wall_ + (writes ? s.write_delay : s.read_delay);
        }
    }

    bool fits(uint64_t at) {
        if (at % BURST == 0 && at + BURST <= uint64_t(s.dram_bytes)) return true;
        s.report[BUS_ERROR] = 1;
        return false;
    }

    // The first cycle in which every core runs is cycle 0.
    void trace() {
        for (int c = 0; c < CORES; ++c)
            if (!running_[c] && get(d.running[c])) {
                running_[c] = true;
                if (!started_) started_ = true, cycle = 0;
                offset_[c] = cycle;
            }
        if (!started_) return;
        for (int c = 0; c < CORES; ++c) {
            int64_t* start = s.start + c * s.trace_rows;
            int64_t* end = s.end + c * s.trace_rows;
            const uint32_t starts = address(d.start_valid[c]), ends = address(d.end_valid[c]);
            if (starts)
                for (int e = 0; e < 4; ++e)
                    if (starts >> e & 1) note(start, word(d.start_sequence[c], e), cycle - offset_[c]);
            if (ends)
                for (int e = 0; e < ENDS; ++e)
                    if (ends >> e & 1) note(end, word(d.end_sequence[c], e), cycle - offset_[c] + 1);
        }
    }

    void note(int64_t* row, uint32_t sequence, int64_t when) {
        if (sequence < s.trace_rows) row[sequence] = when;
    }

    // AXI4-Lite, one access at a time.
    bool taken_aw_ = false, taken_w_ = false, taken_b_ = false, taken_ar_ = false, taken_r_ = false;
    uint32_t read_data_ = 0;

    void control() {
        taken_aw_ = get(d.control__awvalid) && get(d.control__awready);
        taken_w_ = get(d.control__wvalid) && get(d.control__wready);
        taken_b_ = get(d.control__bvalid) && get(d.control__bready);
        taken_ar_ = get(d.control__arvalid) && get(d.control__arready);
        taken_r_ = get(d.control__rvalid) && get(d.control__rready);
        if (taken_r_) memcpy(&read_data_, d.control__rdata, 4);
    }

    void write(uint32_t at, uint32_t value) {
        put(d.control__awaddr, at);
        put(d.control__wdata, value);
        put(d.control__wstrb, 15);
        put(d.control__bready, true);
        bool address_left = true, data_left = true;
        for (int i = 0; i < 64; ++i) {
            put(d.control__awvalid, address_left);
            put(d.control__wvalid, data_left);
            step();
            if (taken_aw_) address_left = false;
            if (taken_w_) data_left = false;
            if (taken_b_) break;
        }
        put(d.control__awvalid, false);
        put(d.control__wvalid, false);
    }

    uint32_t read(uint32_t at) {
        put(d.control__araddr, at);
        put(d.control__rready, true);
        bool left = true;
        for (int i = 0; i < 64; ++i) {
            put(d.control__arvalid, left);
            step();
            if (taken_ar_) left = false;
            if (taken_r_) break;
        }
        put(d.control__arvalid, false);
        return read_data_;
    }
#ifdef WAVE
    void sample() {
        vcd_.sample(cycle);
        fwrite(vcd_.buffer.data(), 1, vcd_.buffer.size(), file_);
        vcd_.buffer.clear();
    }
#endif
};

}  // namespace

extern "C" __attribute__((visibility("default"))) void chip_run(const Setup* setup) {
    Bench bench(*setup);
    bench.run();
}
