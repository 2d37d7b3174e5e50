// CONTROL in C++: the same as isa/control.py, which is the definition.
#pragma once
#include <cstring>
#include <vector>

#include "isa.inc"

namespace mellivora {

// What a native fault hands back; Python then runs the faulting step again for its words.
enum FaultKind : int64_t { NO_FAULT = 0, CONTROL_FAULT, WATCHDOG_FAULT, WAIT_FAULT, POST_FAULT, MEANING_FAULT };

struct Operation {  // one resolved engine operation
  int opcode, engine;
  int wait0, wait1, post0, post1;
  int64_t pc, gap;
  int64_t slot[SLOTS];
  const int64_t* config;  // of its engine, 8 values
};

class Sequencer {
 public:
  Sequencer() = default;
  Sequencer(const uint64_t* code, int64_t words, const int32_t* parameters, int64_t count, int64_t core,
            int64_t cores, int64_t watchdog)
      : code_(code), words_(words), parameters_(parameters),
        parameter_count_(count < PARAMETERS ? count : PARAMETERS), watchdog_(watchdog) {
    registers[1] = int32_t(core);
    registers[2] = int32_t(cores);
  }

  // The next engine operation; false at HALT or fault (see `fault`).
  bool next(Operation& op) {
    if (yielded_) { advance(); yielded_ = false; }
    for (;;) {
      if (steps == watchdog_) return stop(WATCHDOG_FAULT);
      ++steps;
      if (pc < 0 || pc >= words_) return stop(CONTROL_FAULT);
      const uint64_t low = code_[2 * pc], high = code_[2 * pc + 1];
      const int opcode = int(low & 255), engine = ENGINE_OF[opcode];
      if (engine < 0) return stop(CONTROL_FAULT);
      ++gap_;
      if (engine != Engine::CONTROL) {
        op.opcode = opcode;
        op.engine = engine;
        op.wait0 = int(low >> 8 & 63);
        op.wait1 = int(low >> 14 & 63);
        op.post0 = int(low >> 20 & 63);
        op.post1 = int(low >> 26 & 63);
        op.pc = pc;
        op.gap = gap_;
        gap_ = 0;
        read_slots(low, high, op.slot);
        op.config = config_[engine];
        yielded_ = true;
        return true;
      }
      if (opcode == Opcode::HALT) return false;
      if (!control(opcode, low, high)) return stop(CONTROL_FAULT);
      advance();
    }
  }

  int64_t fault = NO_FAULT;
  int64_t pc = 0, steps = 0;
  int64_t depth = 0;  // loops open
  int32_t registers[REGISTERS] = {};

 private:
  struct Loop { int64_t start, end, count; };

  bool stop(int64_t kind) { fault = kind; return false; }

  int64_t value(unsigned raw) const { return raw & REGISTER_FLAG ? registers[raw & 63] : int64_t(raw); }

  static void raw_slots(uint64_t low, uint64_t high, unsigned* raw) {
    raw[0] = low >> 32 & 0xFFF;
    raw[1] = low >> 44 & 0xFFF;
    raw[2] = (low >> 56 | high << 8) & 0xFFF;
    for (int i = 3; i < SLOTS; ++i) raw[i] = high >> (4 + 12 * (i - 3)) & 0xFFF;
  }

  void read_slots(uint64_t low, uint64_t high, int64_t* out) const {
    unsigned raw[SLOTS];
    raw_slots(low, high, raw);
    for (int i = 0; i < SLOTS; ++i) out[i] = value(raw[i]);
  }

  bool control(int opcode, uint64_t low, uint64_t high) {
    if (CONFIGURES[opcode] >= 0) { read_slots(low, high, config_[int(CONFIGURES[opcode])]); return true; }
    if (opcode == Opcode::NOP) return true;
    unsigned raw[SLOTS];
    raw_slots(low, high, raw);
    if (opcode == Opcode::LOOP) {
      const int64_t count = value(raw[0]), length = value(raw[1]);
      if (depth == LOOP_LEVELS || length < 1) return false;
      if (count <= 0) pc += length;
      else loops_[depth++] = {pc + 1, pc + length, count};
      return true;
    }
    const int64_t a = value(raw[1]), b = value(raw[2]);
    uint32_t result = 0;
    switch (opcode) {
      case Opcode::LI: result = raw[1] | raw[2] << 12 | raw[3] << 24; break;
      case Opcode::LDP:
        if (a < 0 || a >= parameter_count_) return false;
        result = uint32_t(parameters_[a]);
        break;
      case Opcode::ADD: result = uint32_t(a + b); break;
      case Opcode::SUB: result = uint32_t(a - b); break;
      case Opcode::MUL: result = uint32_t(uint64_t(a) * uint64_t(b)); break;
      case Opcode::MIN: result = uint32_t(a < b ? a : b); break;
      case Opcode::MAX: result = uint32_t(a > b ? a : b); break;
      case Opcode::SHR: result = uint32_t(a >> (b & 31)); break;
      case Opcode::AND: result = uint32_t(a & b); break;
      case Opcode::SHL: result = uint32_t(uint64_t(a) << (b & 31)); break;
      default: return false;  // a CONTROL opcode of the table that this file does not know
    }
    if (raw[0] & 63) registers[raw[0] & 63] = int32_t(result);
    return true;
  }

  // Ends of loop bodies are tested innermost first and may coincide.
  void advance() {
    const int64_t at = pc++;
    while (depth && loops_[depth - 1].end == at) {
      Loop& loop = loops_[depth - 1];
      if (--loop.count > 0) { pc = loop.start; return; }
      --depth;
    }
  }

  const uint64_t* code_ = nullptr;
  int64_t words_ = 0;
  const int32_t* parameters_ = nullptr;
  int64_t parameter_count_ = 0, watchdog_ = 0, gap_ = 0;
  int64_t config_[5][SLOTS] = {};
  Loop loops_[LOOP_LEVELS];
  bool yielded_ = false;
};

}  // namespace mellivora
