// DRAM beneath the arbiter: channels, banks with one open row each, refresh, turnaround of the bus.
//
// Defined by docs/design/0008-dram.md. The timing machine and the RTL's test bench share it: given the
// same bursts in the same cycles it says the same. Time is in cycles of the chip's clock.
#pragma once
#include <algorithm>
#include <cstdint>
#include <deque>
#include <vector>

struct DramTiming {  // spec.dram_timing.DramTiming
    int64_t channels, interleave_bytes, banks, row_bytes;
    int64_t burst_num, burst_den;  // cycles that a burst holds the bus of its channel
    int64_t precharge, activate, row_cycle, to_read, to_write;
    int64_t refresh_interval, refresh;  // an interval of 0: never
    int64_t write_batch, window;
};

class DramDevice {
  public:
    struct Served { int64_t ticket, cycle; };
    std::vector<Served> served;  // by the last `step`: an idle memory serves in the cycle it is asked

    explicit DramDevice(const DramTiming& timing) : t(timing), channels_(timing.channels) {
        for (Channel& channel : channels_) channel.banks.resize(t.banks);
        next_refresh_ = t.refresh_interval;
    }

    // Asks for a burst, before the `step` of its cycle.
    void push(int64_t ticket, uint64_t address, bool writes) {
        const uint64_t piece = address / t.interleave_bytes;
        const uint64_t inner = piece / t.channels * t.interleave_bytes + address % t.interleave_bytes;
        const int64_t page = inner / t.row_bytes, row = page / t.banks;
        Channel& channel = channels_[piece % t.channels];
        // Streams that are a power of two apart meet in fewer banks.
        auto& queue = writes ? channel.waiting : channel.reads;
        queue.push_back({ticket, row, (page ^ row) % t.banks});
        if (writes || int64_t(queue.size()) <= t.window) channel.wake = 0;
    }

    void step(int64_t cycle) {
        served.clear();
        if (t.refresh_interval && cycle >= next_refresh_) refresh(cycle);
        for (Channel& channel : channels_) step(channel, cycle);
    }

    // Nothing will happen before the next burst, whatever `step` is called for.
    bool idle() const {
        for (const Channel& channel : channels_)
            if (!channel.reads.empty() || !channel.waiting.empty() || drains(channel)) return false;
        return true;
    }

  private:
    static constexpr int64_t NOTHING = INT64_MAX;
    struct Bank {
        int64_t row = -1;  // the open one
        int64_t activated = -1'000'000, ready = 0;  // cycles: of its last activation, of its first burst
    };
    struct Request { int64_t ticket, row, bank; };
    struct Channel {
        std::vector<Bank> banks;
        std::deque<Request> reads, waiting, writes;  // writes wait until there is a place for them
        int64_t draining = 0;  // of the writes so many go now
        int64_t bus_free = 0;  // in units of 1 / burst_den cycles
        int64_t wake = 0;      // before this cycle there is nothing to do, unless a burst comes
    };

    const DramTiming t;
    std::vector<Channel> channels_;
    int64_t next_refresh_, refreshed_ = 0;

    // All channels at once, as answers keep their order: one that stands still would hold up all.
    // Of refreshes in a time without a step all but the last leave no trace.
    void refresh(int64_t cycle) {
        next_refresh_ += (cycle - next_refresh_) / t.refresh_interval * t.refresh_interval;
        refreshed_ = next_refresh_ + t.refresh;
        next_refresh_ += t.refresh_interval;
        for (Channel& channel : channels_) {
            channel.wake = 0;
            for (Bank& bank : channel.banks) bank.row = -1;
        }
    }

    bool drains(const Channel& channel) const {
        return channel.draining || int64_t(channel.writes.size()) >= t.write_batch;
    }

    void step(Channel& channel, int64_t cycle) {
        if (cycle < channel.wake) return;
        for (; !channel.waiting.empty() && int64_t(channel.writes.size()) < 2 * t.write_batch;
             channel.waiting.pop_front()) {
            served.push_back({channel.waiting.front().ticket, cycle});  // kept is answered
            channel.writes.push_back(channel.waiting.front());
        }
        if (cycle < refreshed_) return;
        if (!channel.draining && drains(channel)) {
            channel.draining = t.write_batch;
            turn(channel, cycle, t.to_write);
        }
        channel.wake = activate(channel, cycle);
        while (channel.bus_free < (cycle + 1) * t.burst_den && move(channel, cycle))
            channel.wake = cycle + 1;
    }

    void turn(Channel& channel, int64_t cycle, int64_t cycles) {
        channel.bus_free = std::max(channel.bus_free, cycle * t.burst_den) + cycles * t.burst_den;
    }

    std::deque<Request>& queue_of(Channel& channel) {
        return channel.draining ? channel.writes : channel.reads;
    }
    int64_t seen(Channel& channel) {  // so many of the oldest requests the controller chooses from
        return std::min<int64_t>(queue_of(channel).size(), channel.draining ? channel.draining : t.window);
    }

    // Opens one row, the oldest request's whose bank has no other use for the one it has open. The
    // next cycle in which there may be something to do, unless a burst moves or comes.
    int64_t activate(Channel& channel, int64_t cycle) {
        auto& queue = queue_of(channel);
        const int64_t n = seen(channel);
        int64_t next = NOTHING;
        uint64_t hits = 0;
        for (int64_t i = 0; i < n; ++i) {
            const Bank& bank = channel.banks[queue[i].bank];
            if (bank.row != queue[i].row) continue;
            hits |= uint64_t(1) << queue[i].bank;
            next = std::min(next, std::max(bank.ready, channel.bus_free / t.burst_den));
        }
        for (int64_t i = 0; i < n; ++i) {
            const Request& one = queue[i];
            Bank& bank = channel.banks[one.bank];
            if (hits >> one.bank & 1) continue;
            const int64_t closes = bank.row >= 0 ? t.precharge : 0;
            const int64_t may = std::max(bank.activated + t.row_cycle - closes, bank.ready);
            if (cycle < may) {
                next = std::min(next, may);
                continue;
            }
            bank.row = one.row;
            bank.activated = cycle + closes;
            bank.ready = bank.activated + t.activate;
            return cycle + 1;
        }
        return std::max(next, cycle + 1);
    }

    // Moves the oldest burst whose row is open; whether there was one.
    bool move(Channel& channel, int64_t cycle) {
        auto& queue = queue_of(channel);
        const int64_t n = seen(channel);
        for (int64_t i = 0; i < n; ++i) {
            const Request one = queue[i];
            const Bank& bank = channel.banks[one.bank];
            if (bank.row != one.row || bank.ready > cycle) continue;
            queue.erase(queue.begin() + i);
            channel.bus_free = std::max(channel.bus_free, cycle * t.burst_den) + t.burst_num;
            if (!channel.draining) served.push_back({one.ticket, cycle});
            else if (!--channel.draining) turn(channel, cycle, t.to_read);
            return true;
        }
        return false;
    }
};
