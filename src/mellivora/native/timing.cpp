// The machine of docs/design/0002-timing.md, event by event.
//
// Knows no instruction and no latency: an operation is a gap, a cost, a number of DRAM bursts, an
// engine, a kind and its semaphores. `mellivora.sim.stepped` is the same machine one cycle at a
// time, and a test holds the two equal for every operation. All times are int64 cycles; time t is
// the clock edge at which cycle [t, t+1) begins.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "isa.inc"
#include "timing_banked.hpp"
#include "timing_dram.hpp"

namespace {

// Engines without CONTROL.
constexpr int LOAD = Engine::LOAD - 1, STORE = Engine::STORE - 1, ENGINES = Engine::VECTOR;

struct Operation {  // sim.timing.OPERATION
    int64_t gap, cost, bursts;
    uint8_t engine, role, wait0, wait1, post0, post1, after, spare;
};

struct Core {
    const Operation* ops = nullptr;
    const Walk* walks = nullptr;  // of each row; none without a device beneath the arbiter
    int64_t rows = 0, *dispatch = nullptr, *start = nullptr, *end = nullptr;
    int64_t next_row = 0, dispatched_at = 0;
    std::vector<int64_t> queue[ENGINES];  // rings of row numbers
    int64_t pushed[ENGINES] = {}, popped[ENGINES] = {};
    int64_t free_at[ENGINES] = {}, running[ENGINES], finish[ENGINES];
    int64_t semaphores[SEMAPHORES] = {};
    Fifo fifo[2];
    bool touched = false, aligned = false;  // aligned: the next data of its LOAD is a multicast
};

template <class Memory>
class Machine {
  public:
    std::vector<Core> cores;
    int64_t fault = 0, fault_core = 0, fault_row = 0, fault_semaphore = 0, now = 0;

    template <class... Device>
    Machine(const Chip& chip, int64_t count, const Device&... device)
        : cores(count), chip_(chip), wake_(count, NEVER), dram_(chip, fifos(), device...), issued_(count) {
        int64_t size = 1;
        while (size < chip.queue_depth) size *= 2;
        mask_ = size - 1;
        for (auto& core : cores)
            for (int e = 0; e < ENGINES; ++e) {
                core.queue[e].resize(size);
                core.running[e] = -1, core.finish[e] = NEVER;
            }
    }

    void run() {
        for (auto& core : cores) dispatch(core), touch(core);
        while (!fault) {
            for (auto* core : touched_) end(*core);
            for (auto* core : touched_) feed(*core);
            feed_multicast();
            for (auto* core : touched_)
                for (int e = 0; e < ENGINES; ++e) start(*core, e);
            for (auto* core : touched_) {
                wake_[core - cores.data()] = next_event(*core);
                core->touched = false;
            }
            touched_.clear();
            int64_t t = std::min(dram_.next, multicast_wake());
            for (int64_t w : wake_) t = std::min(t, w);
            if (t == NEVER) return;
            now = t;
            for (size_t c = 0; c < wake_.size(); ++c)
                if (wake_[c] == t) touch(cores[c]);
            if (dram_.next == t) run_dram(t);
        }
    }

  private:
    const Chip& chip_;
    std::vector<int64_t> wake_;
    Fifo multicast_;  // `row` counts the cores that have issued it
    Memory dram_;
    std::vector<Core*> touched_;
    std::vector<uint32_t> issued_;  // multicasts issued by each core
    int64_t mask_ = 0, aligned_ = 0, arrived_ = 0;

    std::vector<Fifo*> fifos() {
        std::vector<Fifo*> all;
        for (auto& core : cores) all.push_back(&core.fifo[LOAD]), all.push_back(&core.fifo[STORE]);
        all.push_back(&multicast_);
        return all;
    }

    int count() const { return static_cast<int>(cores.size()); }

    void touch(Core& core) {
        if (!core.touched) core.touched = true, touched_.push_back(&core);
    }

    // CONTROL runs ahead: when a row enters its queue follows from starts that are already known.
    void dispatch(Core& core) {
        while (core.next_row < core.rows) {
            const Operation& op = core.ops[core.next_row];
            const int e = op.engine;
            const int64_t k = core.pushed[e], before = k - chip_.queue_depth;
            if (core.popped[e] <= before) return;
            int64_t t = core.dispatched_at + op.gap;
            if (before >= 0) t = std::max(t, core.start[core.queue[e][before & mask_]] + 1);
            core.dispatch[core.next_row] = core.dispatched_at = t;
            core.queue[e][k & mask_] = core.next_row++;
            ++core.pushed[e];
        }
    }

    void post(Core& core, int64_t row) {
        const Operation& op = core.ops[row];
        core.end[row] = now;
        for (uint8_t s : {op.post0, op.post1})
            if (s && ++core.semaphores[s] > SEMAPHORE_MAX && !fault)
                fault = 6, fault_core = &core - cores.data(), fault_row = row, fault_semaphore = s;
    }

    void end(Core& core) {
        for (int e = 0; e < ENGINES; ++e)
            if (core.finish[e] == now) {
                post(core, core.running[e]);
                core.running[e] = -1, core.finish[e] = NEVER;
            }
        for (auto& fifo : core.fifo)
            for (; fifo.head < fifo.tail; ++fifo.head) {
                const Transfer& t = fifo.at(fifo.head);
                if (t.role == ORDER ? t.ready > now : !t.done) break;
                post(core, t.row);
            }
    }

    // Transfers whose first word is there join the data phase, in order. Data of a multicast and a
    // core's own loads never mix: both come through the same port.
    void feed(Core& core) {
        for (int q : {LOAD, STORE}) {
            Fifo& fifo = core.fifo[q];
            fifo.feed = std::max(fifo.feed, fifo.head);
            for (; fifo.feed < fifo.tail; ++fifo.feed) {
                const Transfer& t = fifo.at(fifo.feed);
                if (t.role == ORDER) continue;
                if (t.role == MULTICAST || t.ready > now) break;
                if (q == LOAD && multicast_.streaming) break;
                fifo.streaming++;
                fifo.draw = std::max(fifo.draw, fifo.head);
                dram_.feed(2 * static_cast<int>(&core - cores.data()) + q, t.left, now);
            }
        }
        align(core);
    }

    void align(Core& core) {
        const Fifo& fifo = core.fifo[LOAD];
        const bool waits = fifo.feed < fifo.tail && !fifo.streaming;
        const bool is = waits && fifo.ring[fifo.feed % RING].role == MULTICAST;
        aligned_ += is - core.aligned;
        core.aligned = is;
    }

    bool multicast_waits() {  // all cores have issued it and have nothing before it
        return aligned_ == count() && multicast_.feed < multicast_.tail &&
               multicast_.at(multicast_.feed).row == aligned_;
    }
    int64_t multicast_wake() {
        return multicast_waits() ? multicast_.at(multicast_.feed).ready : NEVER;
    }

    void feed_multicast() {
        while (multicast_waits() && multicast_.at(multicast_.feed).ready <= now) {
            multicast_.streaming++;
            dram_.feed(2 * count(), multicast_.at(multicast_.feed++).left, now);
            for (auto& core : cores) {
                Fifo& fifo = core.fifo[LOAD];
                ++fifo.feed;
                while (fifo.feed < fifo.tail && fifo.at(fifo.feed).role == ORDER) ++fifo.feed;
                align(core);
            }
        }
    }

    void run_dram(int64_t t) {
        dram_.run(t);
        for (int id : dram_.completed) {
            if (id < 2 * count()) {
                touch(cores[id / 2]);
                continue;
            }
            for (auto& core : cores) touch(core);  // their own data may follow
            auto& head = multicast_.head;
            for (; head < multicast_.feed && multicast_.at(head).done; ++head)
                for (auto& core : cores) {
                    Fifo& fifo = core.fifo[LOAD];
                    uint32_t i = fifo.head;
                    while (fifo.at(i).role != MULTICAST || fifo.at(i).done) ++i;
                    fifo.at(i).done = true;
                }
        }
    }

    void start(Core& core, int e) {
        if (core.running[e] >= 0 || core.free_at[e] > now) return;
        if (core.popped[e] == core.pushed[e]) return;
        const int64_t row = core.queue[e][core.popped[e] & mask_];
        const Operation& op = core.ops[row];
        if (core.dispatch[row] > now) return;
        auto& sem = core.semaphores;
        if (op.wait0 && sem[op.wait0] < 1) return;
        if (op.wait1 && sem[op.wait1] < 1 + (op.wait0 == op.wait1)) return;
        if (op.role != COMPUTE) {
            const int64_t in_flight = core.fifo[e].tail - core.fifo[e].head;
            const bool after = op.role == COLLECTIVE || op.after;
            if (after ? in_flight > 0 : in_flight >= chip_.outstanding) return;
        }
        if (op.wait0) --sem[op.wait0];
        if (op.wait1) --sem[op.wait1];
        core.start[row] = now;
        ++core.popped[e];
        core.free_at[e] = now + op.cost;
        if (op.role == COMPUTE) {
            core.running[e] = row, core.finish[e] = now + op.cost;
        } else if (op.role == COLLECTIVE) {
            core.running[e] = row;
            if (++arrived_ == count()) rendezvous(now + op.cost);
        } else {
            issue(core, core.fifo[e], row, op);
        }
        dispatch(core);
    }

    void issue(Core& core, Fifo& fifo, int64_t row, const Operation& op) {
        const Role role = op.bursts || op.role == ORDER ? static_cast<Role>(op.role) : ORDER;
        const int64_t ready = now + op.cost + (role == ORDER ? 0 : dram_.latency());
        const Walk* walk = core.walks ? core.walks + row : nullptr;
        fifo.at(fifo.tail++) = {row, ready, op.bursts, walk, static_cast<uint8_t>(role), false};
        if (role != MULTICAST) return;
        const uint32_t k = issued_[&core - cores.data()]++;
        if (k == multicast_.tail)
            multicast_.at(multicast_.tail++) = {0, ready, op.bursts, walk, TRANSFER, false};
        Transfer& shared = multicast_.at(k);
        if (&core == cores.data()) shared.walk = walk;  // the memory port takes core 0's addresses
        shared.row++, shared.ready = std::max(shared.ready, ready);
        align(core);
    }

    void rendezvous(int64_t finish) {
        arrived_ = 0;
        for (size_t c = 0; c < cores.size(); ++c) {
            cores[c].finish[STORE] = cores[c].free_at[STORE] = finish;
            wake_[c] = std::min(wake_[c], finish);
        }
    }

    int64_t next_event(Core& core) {
        int64_t t = NEVER;
        for (int e = 0; e < ENGINES; ++e) {
            t = std::min(t, core.finish[e]);
            if (core.running[e] >= 0 || core.popped[e] == core.pushed[e]) continue;
            const int64_t row = core.queue[e][core.popped[e] & mask_];
            const int64_t may = std::max(core.free_at[e], core.dispatch[row]);
            if (may > now) t = std::min(t, may);
        }
        for (auto& fifo : core.fifo) {
            if (fifo.head == fifo.tail) continue;
            const Transfer& head = fifo.at(fifo.head);
            if (head.role == ORDER) t = std::min(t, head.ready);
            if (fifo.feed < fifo.tail) {
                uint32_t i = fifo.feed;
                while (i < fifo.tail && fifo.at(i).role == ORDER) ++i;
                const Transfer& fresh = fifo.at(i);
                if (i < fifo.tail && fresh.role == TRANSFER && fresh.ready > now)
                    t = std::min(t, fresh.ready);
            }
        }
        return t;
    }
};

template <class M>
int64_t run(M machine, int64_t cores, const Operation* const* ops, const Walk* const* walks,
            const int64_t* rows, int64_t* const* dispatch, int64_t* const* start, int64_t* const* end,
            int64_t* report) {
    for (int64_t c = 0; c < cores; ++c) {
        Core& core = machine.cores[c];
        core.ops = ops[c], core.rows = rows[c];
        if (walks) core.walks = walks[c];
        core.dispatch = dispatch[c], core.start = start[c], core.end = end[c];
    }
    machine.run();
    const int64_t head[] = {machine.fault, machine.fault_core, machine.fault_row,
                            machine.fault_semaphore, machine.now};
    std::copy(std::begin(head), std::end(head), report);
    int64_t ended = 0;
    for (int64_t c = 0; c < cores; ++c) {
        std::copy_n(machine.cores[c].semaphores, SEMAPHORES, report + 5 + c * SEMAPHORES);
        for (int64_t i = 0; i < rows[c]; ++i) ended += end[c][i] >= 0;
    }
    return ended;
}

}  // namespace

// Runs `cores` programs. Fills dispatch, start and end of each row (those not reached keep what
// they had). report: cause, core, row, semaphore, last event's cycle; then for each core the
// semaphore counts. walks, timing, port: of the device beneath the arbiter, or none of them.
// Returns the number of rows that have ended.
extern "C" int64_t timing_run(int64_t cores, const Operation* const* ops, const int64_t* rows,
                              const Chip* chip, int64_t* const* dispatch, int64_t* const* start,
                              int64_t* const* end, int64_t* report, const Walk* const* walks,
                              const DramTiming* timing, const Port* port) {
    if (!timing)
        return run(Machine<Dram>(*chip, cores), cores, ops, nullptr, rows, dispatch, start, end, report);
    return run(Machine<BankedDram>(*chip, cores, *timing, *port), cores, ops, walks, rows, dispatch,
               start, end, report);
}

// The device alone: bursts by cycle; out: when each is served.
extern "C" void dram_served(const DramTiming* timing, const int64_t* cycles, const int64_t* addresses,
                            const int64_t* writes, int64_t* out, int64_t count) {
    DramDevice device(*timing);
    int64_t cycle = count ? cycles[0] : 0;
    for (int64_t i = 0; i < count || !device.idle(); ++cycle) {
        for (; i < count && cycles[i] <= cycle; ++i) device.push(i, addresses[i], writes[i]);
        device.step(cycle);
        for (const auto& one : device.served) out[one.ticket] = one.cycle;
    }
}
