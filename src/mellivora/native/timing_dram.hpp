// DRAM of the timing machine: bursts shared out among the transfers that are in their data phase.
//
// The arbiter is part of the architecture: docs/design/0002-timing.md. All times are int64 cycles;
// time t is the clock edge at which cycle [t, t+1) begins.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace {

constexpr int64_t NEVER = std::numeric_limits<int64_t>::max();
constexpr uint32_t RING = 64;  // the largest `outstanding_transfers`

// COMPUTE holds its engine until it ends. ORDER only keeps its place among the transfers of its
// queue.
enum Role : uint8_t { COMPUTE, ORDER, TRANSFER, MULTICAST, COLLECTIVE };  // sim.timing.Role

struct Chip {  // sim.timing.ChipNumbers
    int64_t queue_depth, outstanding, latency, num, den, port;
    int64_t granted(int64_t t) const { return num * t / den; }  // bursts before cycle t
};

// Where the bursts of a transfer are in DRAM, in the order in which they are asked for: pieces of
// `run` bytes, dimensions inside out. pages: of the last dimension, if it goes by a table.
struct Walk {  // sim.walks.WALK
    int64_t far, run, count[3], step[3];
    const int64_t* pages;
};

struct Transfer {
    int64_t row, ready, left;
    const Walk* walk;  // none if nobody asks
    uint8_t role;
    bool done;
};

// Goes through a walk.
struct Walker {
    const Walk* walk = nullptr;
    int64_t far = 0, rest = 0, at[3] = {};

    void begin(const Walk* of) {
        walk = of;
        std::fill(at, at + 3, 0);
        piece();
    }
    uint64_t burst(int64_t bytes) {  // the next one's address
        const int64_t address = far & -bytes, room = bytes - (far - address);
        if (rest > room) {
            far += room, rest -= room;
            return address;
        }
        for (int level = 0; level < 3; ++level) {
            if (++at[level] < walk->count[level]) break;
            at[level] = 0;
        }
        piece();
        return address;
    }

  private:
    void piece() {
        far = walk->far + at[0] * walk->step[0] + at[1] * walk->step[1];
        far += walk->pages ? walk->pages[at[2]] : at[2] * walk->step[2];
        rest = walk->run;
    }
};

// Transfers of one queue in order of issue: [head, tail) are in flight, [head, feed) have come to
// their data phase, `draw` is the one that takes the next burst.
struct Fifo {
    Transfer ring[RING];
    uint32_t head = 0, draw = 0, feed = 0, tail = 0;
    int64_t streaming = 0;  // in their data phase, not done
    Transfer& at(uint32_t i) { return ring[i % RING]; }
};

// Bursts are granted one at a time, round robin, at most `port` a cycle to a requester. Cycle t has
// granted(t+1) - granted(t) bursts to give, a function of t alone; what nobody can take is lost.
class Dram {
  public:
    struct Requester {
        int id;
        int64_t left;     // bursts of the transfer at its head, at `base`
        int64_t backlog;  // bursts of all its transfers in data phase
        int64_t share;    // scratch
    };
    int64_t next = NEVER;        // the next cycle edge at which a transfer is done
    std::vector<int> completed;  // requesters with a transfer done by the last `run`

    Dram(const Chip& chip, std::vector<Fifo*> fifos) : chip_(chip), fifos_(std::move(fifos)) {
        whole_ = chip.num / chip.den;
        active_.reserve(fifos_.size());
    }

    int64_t latency() const { return chip_.latency; }  // of the first word, before `feed`

    // Gives `bursts` more to requester `id` from cycle t on.
    void feed(int id, int64_t bursts, int64_t t) {
        for (auto& r : active_)
            if (r.id == id) {
                r.backlog += bursts;
                return;  // its head is the same, and so is `next`
            }
        advance(t);
        const auto after = [&](auto& r) { return r.id > id; };
        auto place = std::find_if(active_.begin(), active_.end(), after);
        active_.insert(place, {id, bursts, bursts, 0});
        schedule();
    }

    // Runs to t == next and marks the transfers done there.
    void run(int64_t t) {
        completed.clear();
        bool short_of = false;
        shares(t);
        for (auto& r : active_) short_of |= r.share > r.backlog;
        if (short_of) {  // somebody runs dry within the last cycle: take that one as it is defined
            advance(t - 1);
            step();
        } else {
            advance(t);
        }
        const auto dry = [](auto& r) { return !r.backlog; };
        active_.erase(std::remove_if(active_.begin(), active_.end(), dry), active_.end());
        schedule();
    }

  private:
    const Chip& chip_;
    std::vector<Fifo*> fifos_;
    std::vector<Requester> active_;  // ascending id
    int64_t whole_, base_ = 0;
    int pointer_ = 0;  // the id that is asked first

    int64_t granted(int64_t t) const { return chip_.granted(t); }
    bool port_bound() const { return static_cast<int64_t>(active_.size()) * chip_.port <= whole_; }
    size_t first() const {  // index of the active requester that is asked first
        for (size_t i = 0; i < active_.size(); ++i)
            if (active_[i].id >= pointer_) return i;
        return 0;
    }

    // What each would get in [base_, t) if none ran dry; returns the place in the order after the
    // last one served.
    int64_t shares(int64_t t) {
        const int64_t n = static_cast<int64_t>(active_.size());
        if (port_bound()) {
            for (auto& r : active_) r.share = chip_.port * (t - base_);
            return t > base_ ? n : 0;
        }
        const int64_t all = granted(t) - granted(base_), rounds = all / n, rest = all % n;
        const size_t from = first();
        for (int64_t p = 0; p < n; ++p) {
            size_t i = from + p;
            active_[i < size_t(n) ? i : i - n].share = rounds + (p < rest);
        }
        return rest ? rest : all ? n : 0;
    }

    void advance(int64_t t) {
        if (t > base_ && !active_.empty()) {
            const int64_t served = shares(t);
            if (served) {
                const int last = active_[(first() + served - 1) % active_.size()].id;
                for (auto& r : active_) take(r, r.share);
                pointer_ = last + 1;
            }
        }
        base_ = t;
    }

    // The cycle [base_, base_ + 1) by its definition.
    void step() {
        int64_t budget = granted(base_ + 1) - granted(base_);
        const size_t n = active_.size(), from = first();
        int last = -1;
        for (auto& r : active_) r.share = 0;
        for (bool any = true; any && budget;) {
            any = false;
            for (size_t p = 0; p < n && budget; ++p) {
                auto& r = active_[(from + p) % n];
                if (r.share == std::min(chip_.port, r.backlog)) continue;
                ++r.share, --budget, last = r.id, any = true;
            }
        }
        for (auto& r : active_) take(r, r.share);
        if (last >= 0) pointer_ = last + 1;
        ++base_;
    }

    void take(Requester& r, int64_t bursts) {
        Fifo& fifo = *fifos_[r.id];
        r.backlog -= bursts;
        bool done = false;
        while (bursts) {
            Transfer& t = fifo.at(fifo.draw);
            if (t.role != TRANSFER || t.done) {
                ++fifo.draw;
                continue;
            }
            const int64_t part = std::min(bursts, t.left);
            t.left -= part, bursts -= part;
            if (!t.left) t.done = done = true, --fifo.streaming;
        }
        if (done) completed.push_back(r.id);
        if (r.backlog) {
            while (fifo.at(fifo.draw).role != TRANSFER || fifo.at(fifo.draw).done) ++fifo.draw;
            r.left = fifo.at(fifo.draw).left;
        }
    }

    void schedule() {
        next = NEVER;
        if (active_.empty() || !chip_.num) return;
        const int64_t n = static_cast<int64_t>(active_.size());
        int64_t least = NEVER;
        if (port_bound()) {
            for (auto& r : active_) least = std::min(least, r.left);
            next = base_ + (least + chip_.port - 1) / chip_.port;
            return;
        }
        const size_t from = first();
        for (int64_t p = 0; p < n; ++p) {
            size_t i = from + p;
            const auto& r = active_[i < size_t(n) ? i : i - n];
            least = std::min(least, n * (r.left - 1) + p + 1);  // the grant that ends it
        }
        next = ((granted(base_) + least) * chip_.den + chip_.num - 1) / chip_.num;
    }
};

}  // namespace
