// DRAM of the timing machine with the device beneath the arbiter, one cycle at a time.
//
// `timing_dram.hpp` has the same arbiter in closed form over a memory that answers after a fixed
// time. Here an answer can be late, so grants are made in the cycle of the memory port that makes
// them, `latency` before the earliest answer. docs/design/0008-dram.md.
#pragma once
#include <deque>

#include "dram_device.hpp"
#include "timing_dram.hpp"

namespace {

struct Port {  // sim.timing.PortNumbers; one of the read and write cycles comes behind the answer
    int64_t burst_bytes, rows_in_flight, read_cycles, write_cycles;
};

class BankedDram {
  public:
    int64_t next = NEVER;        // the next cycle edge at which something may change
    std::vector<int> completed;  // requesters of which a transfer is granted or done by the last `run`

    BankedDram(const Chip& chip, std::vector<Fifo*> fifos, const DramTiming& timing, const Port& port)
        : chip_(chip), port_(port), fifos_(std::move(fifos)), device_(timing),
          backlog_(fifos_.size()), walkers_(fifos_.size()), late_(port.write_cycles - port.read_cycles + 1) {}

    int64_t latency() const { return 0; }  // of the first word, before `feed`

    void feed(int id, int64_t bursts, int64_t t) {
        base_ = std::max(base_, t);
        backlog_[id] += bursts, asking_ += bursts;
        next = base_ + 1;
    }

    void run(int64_t t) {
        completed.clear();
        if (moving()) step();
        base_ = t;
        next = moving() ? t + 1 : NEVER;
        for (Answers* answers : {&reads_, &writes_}) {
            auto& done = answers->done;
            for (; !done.empty() && done.front().edge <= t; done.pop_front()) {
                fifos_[done.front().id]->at(done.front().index).done = true;
                completed.push_back(done.front().id);
            }
            if (!done.empty()) next = std::min(next, done.front().edge);
        }
    }

  private:
    struct Done { int64_t edge; int id; uint32_t index; };
    // What is granted in one cycle is answered in one cycle, and in order.
    struct Row {
        int64_t unserved = 0, cycle = 0;  // bursts; when the last one was served, then of the answer
        std::vector<std::pair<int, uint32_t>> ends;  // transfers that it ends
    };
    struct Answers {
        std::deque<Row> rows;
        int64_t first = 0, known = 0;  // numbers: of the row in front, of the first without a time
        int64_t last = -1;             // the cycle of the last answer that is known
        std::deque<Done> done;
        int64_t past() const { return first + int64_t(rows.size()); }
        Row& at(int64_t number) { return rows[number - first]; }
    };
    struct Burst { int64_t row; size_t slot; uint64_t address; };

    const Chip& chip_;
    const Port port_;
    std::vector<Fifo*> fifos_;
    DramDevice device_;
    std::vector<int64_t> backlog_;
    std::vector<Walker> walkers_;
    Answers reads_, writes_;
    std::vector<Burst> read_;
    std::vector<std::vector<Burst>> late_;  // writes by cycle: their data come later to the bus
    size_t at_ = 0;
    int64_t base_ = 0, asking_ = 0, unserved_ = 0;
    int pointer_ = 0;

    bool moving() const { return asking_ || unserved_ || !device_.idle(); }
    bool is_write(int id) const { return id % 2 && id + 1 < int(fifos_.size()); }

    bool room(Answers& answers) const {
        auto& rows = answers.rows;
        for (; answers.first < answers.known && rows.front().cycle < base_; ++answers.first)
            rows.pop_front();
        return int64_t(rows.size()) < port_.rows_in_flight;
    }

    // The cycle [base_, base_ + 1).
    void step() {
        const int64_t given = base_ + chip_.latency;
        int64_t budget = chip_.granted(given + 1) - chip_.granted(given);
        const int n = fifos_.size();
        const bool may_read = room(reads_), may_write = room(writes_);
        read_.clear();
        size_t slot = 0;
        int last = -1;
        const int64_t number[2] = {reads_.past(), writes_.past()};
        for (int64_t round = 0; budget && asking_ && round < chip_.port; ++round)
            for (int p = 0; p < n && budget; ++p) {
                const int id = (pointer_ + p) % n;
                const bool writes = is_write(id);
                if (!(writes ? may_write : may_read) || !backlog_[id]) continue;
                Answers& answers = writes ? writes_ : reads_;
                const int64_t row = number[writes];
                if (row == answers.past()) answers.rows.emplace_back();
                take(id, answers.at(row), writes ? late_[at_] : read_, row, slot++);
                --budget, last = id;
            }
        if (last >= 0) pointer_ = last + 1;
        at_ = (at_ + 1) % late_.size();
        serve(late_[at_]);
    }

    // The bus takes what has come to it, by slot, a read before a write.
    void serve(std::vector<Burst>& writes) {
        auto r = read_.begin();
        auto w = writes.begin();
        while (r != read_.end() || w != writes.end()) {
            const bool reads = w == writes.end() || (r != read_.end() && r->slot <= w->slot);
            const Burst& one = reads ? *r++ : *w++;
            device_.push(2 * one.row + !reads, one.address, !reads);
        }
        writes.clear();
        device_.step(base_ + port_.read_cycles - 1);
        for (const auto& one : device_.served) {
            Row& row = (one.ticket & 1 ? writes_ : reads_).at(one.ticket >> 1);
            --row.unserved, --unserved_;
            row.cycle = std::max(row.cycle, one.cycle);
        }
        answer(reads_, port_.read_cycles);
        answer(writes_, port_.write_cycles);
    }

    // Rows whose last burst is served get a time, in order.
    void answer(Answers& answers, int64_t on_chip) {
        const int64_t past = answers.past();
        for (; answers.known < past && !answers.at(answers.known).unserved; ++answers.known) {
            Row& row = answers.at(answers.known);
            const int64_t cycle = row.cycle + chip_.latency - (on_chip - 1);
            row.cycle = answers.last = std::max(answers.last + 1, cycle);
            for (auto& [id, index] : row.ends) answers.done.push_back({row.cycle + 1, id, index});
        }
    }

    void take(int id, Row& row, std::vector<Burst>& bursts, int64_t number, size_t slot) {
        Fifo& fifo = *fifos_[id];
        while (fifo.at(fifo.draw).role != TRANSFER || !fifo.at(fifo.draw).left) ++fifo.draw;
        Transfer& transfer = fifo.at(fifo.draw);
        Walker& walker = walkers_[id];
        if (!walker.walk) walker.begin(transfer.walk);
        bursts.push_back({number, slot, walker.burst(port_.burst_bytes)});
        ++row.unserved, ++unserved_;
        --backlog_[id], --asking_;
        if (--transfer.left) return;
        --fifo.streaming;
        walker.walk = nullptr;
        completed.push_back(id);
        row.ends.push_back({id, fifo.draw});
    }
};

}  // namespace
