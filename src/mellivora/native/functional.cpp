// Runs a program on all cores, in program order, straight from its words; see sim/functional.py.
#include <atomic>
#include <memory>
#include <thread>

#include "matmul.hpp"
#include "vector.hpp"

using namespace mellivora;

namespace {

enum Stop : int64_t { ALL_HALTED = 0, CORE_FAULT, UNEQUAL_COLLECTIVES, EXCHANGE_FAULT };
enum Status : int64_t { RUNNING = 0, HALTED, AT_COLLECTIVE, FAULTED };

struct Setup {  // as sim/functional.py fills it
  int64_t cores, pad_bytes, accumulator_bytes, columns, accumulator_rows, threads, watchdog;
  int64_t words, parameter_count, window_count, dram_burst;
  const uint64_t* code;
  const int32_t* parameters;  // [cores, parameter_count]
  uint8_t *pads, *accumulators, *dram;  // [cores, bytes]
  int64_t pad_stride, accumulator_stride;
  const Window* windows;
  int64_t* gathered;  // [cores, gathered_limit]: pages of all LOADXs, in order
  int64_t gathered_limit;
};

struct Report {  // of one core
  int64_t status, fault, pc, depth, steps, engine_ops, macs, semaphore, opcode;
  int64_t slot[SLOTS], config[SLOTS], registers[REGISTERS];
};

// All threads wait here for the last; spins first, as the wait is mostly short.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait() {
    if (count_ == 1) return;
    const int turn = turn_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
      arrived_.store(0, std::memory_order_relaxed);
      turn_.store(turn + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; turn_.load(std::memory_order_acquire) == turn; ++spins) {
      if (spins > 4000) std::this_thread::yield();
#if defined(__x86_64__)
      else __builtin_ia32_pause();
#endif
    }
  }

 private:
  const int count_;
  std::atomic<int> arrived_{0}, turn_{0};
};

struct Room { Buffer a, b; };

struct Runner {
  Core core;
  Sequencer sequencer;
  Operation op;
  int64_t semaphore[SEMAPHORES] = {};
  Report* report = nullptr;
  int64_t *gathered = nullptr, *gathered_end = nullptr;
  Buffer part;  // what it gives to an exchange

  void fail(int64_t kind, int64_t which = 0) {
    report->fault = kind;
    report->semaphore = which;
    report->status = FAULTED;
  }

  bool synchronise() {
    for (const int wait : {op.wait0, op.wait1})
      if (wait && --semaphore[wait] < 0) return fail(WAIT_FAULT, wait), false;
    for (const int post : {op.post0, op.post1})
      if (post && ++semaphore[post] > SEMAPHORE_MAX) return fail(POST_FAULT, post), false;
    return true;
  }

  // Runs to the next collective, HALT or fault.
  void run(Room& room) {
    if (report->status == HALTED) return;
    report->status = RUNNING;
    while (sequencer.next(op)) {
      ++report->engine_ops;
      if (!synchronise()) return;
      try {
        switch (op.opcode) {
          case Opcode::LOAD:
          case Opcode::LOADM: Transfer(core, op.slot, op.config).run<true>(); break;
          case Opcode::LOADX:
            gather(core, op.slot, op.config, [this](int64_t page) {
              if (gathered != gathered_end) *gathered++ = page;
            });
            break;
          case Opcode::STORE: Transfer(core, op.slot, op.config).run<false>(); break;
          case Opcode::EXCH:
          case Opcode::BARRIER: report->status = AT_COLLECTIVE; return;
          case Opcode::MATMUL: report->macs += matmul(core, op.slot, op.config, room.a); break;
          case Opcode::VEW: vew(core, op.slot, op.config, room.a); break;
          case Opcode::VRED: vred(core, op.slot, op.config, room.a); break;
          case Opcode::VQUANT: vquant(core, op.slot, op.config, room.a, room.b); break;
          case Opcode::VDEQ: vdeq(core, op.slot, op.config, room.a); break;
          default: break;  // SYNC: its semaphores were all
        }
      } catch (const Illegal&) {
        return fail(MEANING_FAULT);
      }
    }
    if (sequencer.fault) fail(sequencer.fault);
    else report->status = HALTED;
  }

  // An EXCH's rows and bytes a row; none if either is none.
  int64_t part_rows() const { return std::max<int64_t>(op.slot[4], 0); }
  int64_t part_bytes() const { return std::max<int64_t>(op.slot[2], 0); }
  uint8_t* source() const { return core.near(op.slot[1], op.slot[4], op.slot[2], op.slot[6]); }
  uint8_t* destination(int64_t from) const {
    return core.near(op.slot[0] + from * op.slot[3], op.slot[4], op.slot[2], op.slot[5]);
  }

  // Checks this core's side of an exchange and sets its part aside. False: it faults.
  bool offer(int64_t cores) {
    try {
      const uint8_t* from = source();
      for (int64_t i = 0; i < cores; ++i) destination(i);
      if (!from) return true;
      uint8_t* to = part.bytes(part_rows() * part_bytes());
      for (int64_t r = 0; r < part_rows(); ++r)
        std::memcpy(to + r * part_bytes(), from + r * op.slot[6], part_bytes());
    } catch (const Illegal&) {
      return false;
    }
    return true;
  }

  void accept(int64_t from, Buffer& given) const {
    uint8_t* to = destination(from);
    if (!to) return;
    const uint8_t* bytes = given.bytes(0);
    for (int64_t r = 0; r < part_rows(); ++r)
      std::memcpy(to + r * op.slot[5], bytes + r * part_bytes(), part_bytes());
  }

  void finish() {
    report->pc = sequencer.pc;
    report->depth = sequencer.depth;
    report->steps = sequencer.steps;
    for (int64_t i = 0; i < REGISTERS; ++i) report->registers[i] = sequencer.registers[i];
    if (report->status == AT_COLLECTIVE || report->fault > WATCHDOG_FAULT) {
      report->opcode = op.opcode;
      std::memcpy(report->slot, op.slot, sizeof op.slot);
      std::memcpy(report->config, op.config, sizeof op.slot);
    }
  }
};

class Chip {
 public:
  Chip(const Setup& setup, Report* reports)
      : setup_(setup), count_(setup.cores), runners_(new Runner[setup.cores]), barrier_(int(setup.threads)) {
    for (int64_t i = 0; i < count_; ++i) {
      Runner& r = runners_[i];
      r.core = {setup.pads + i * setup.pad_stride, setup.accumulators + i * setup.accumulator_stride,
                setup.pad_bytes, setup.accumulator_bytes, setup.columns, setup.accumulator_rows,
                setup.dram_burst, setup.dram, setup.windows, setup.window_count};
      r.sequencer = Sequencer(setup.code, setup.words, setup.parameters + i * setup.parameter_count,
                              setup.parameter_count, i, count_, setup.watchdog);
      r.report = reports + i;
      r.gathered = setup.gathered + i * setup.gathered_limit;
      r.gathered_end = r.gathered + setup.gathered_limit;
    }
  }

  int64_t run() {
    std::vector<std::thread> others;
    for (int64_t t = 1; t < setup_.threads; ++t) others.emplace_back([this, t] { work(t); });
    const int64_t stop = work(0);
    for (std::thread& other : others) other.join();
    for (int64_t i = 0; i < count_; ++i) runners_[i].finish();
    return stop;
  }

 private:
  // Every thread comes to the same answer, from what all have done before the barrier.
  int64_t work(int64_t thread) {
#if defined(__x86_64__)
    const unsigned before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(0x1F80);  // nearest even, subnormals kept, whatever the host program has set
#endif
    Room room;
    int64_t stop = -1;
    while (stop < 0) {
      for (int64_t i = thread; i < count_; i += setup_.threads) runners_[i].run(room);
      barrier_.wait();
      stop = decide();
      if (stop < 0 && runners_[0].op.opcode == Opcode::EXCH) stop = exchange(thread);
      else if (stop < 0) barrier_.wait();  // nobody runs on while another still decides
    }
#if defined(__x86_64__)
    __builtin_ia32_ldmxcsr(before);
#endif
    return stop;
  }

  int64_t decide() const {
    int64_t halted = 0, equal = 0;
    for (int64_t i = 0; i < count_; ++i) {
      const Runner& r = runners_[i];
      if (r.report->status == FAULTED) return CORE_FAULT;
      halted += r.report->status == HALTED;
      equal += r.report->status == AT_COLLECTIVE && r.op.opcode == runners_[0].op.opcode;
    }
    return halted == count_ ? ALL_HALTED : equal == count_ ? -1 : UNEQUAL_COLLECTIVES;
  }

  int64_t exchange(int64_t thread) {
    const Runner& first = runners_[0];
    for (int64_t i = thread; i < count_; i += setup_.threads) {
      Runner& r = runners_[i];
      if (!r.offer(count_) || r.part_rows() != first.part_rows() || r.part_bytes() != first.part_bytes())
        refused_ = true;
    }
    barrier_.wait();
    if (refused_) return EXCHANGE_FAULT;
    for (int64_t to = thread; to < count_; to += setup_.threads)
      for (int64_t from = 0; from < count_; ++from) runners_[to].accept(from, runners_[from].part);
    return -1;
  }

  const Setup& setup_;
  const int64_t count_;
  std::unique_ptr<Runner[]> runners_;
  Barrier barrier_;
  std::atomic<bool> refused_{false};
};

}  // namespace

extern "C" int64_t mellivora_run(const Setup* setup, Report* reports) { return Chip(*setup, reports).run(); }
