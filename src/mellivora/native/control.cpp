// Expansion of programs into resolved operations; see sim/expand.py.
#include "control.hpp"

using namespace mellivora;

// Fills rows [capacity, RESOLVED_FIELDS] and returns how many operations there are (rows beyond the capacity
// are only counted). state: [fault kind, pc, loop depth, steps, registers...].
extern "C" int64_t mellivora_expand(const uint64_t* code, int64_t words, const int32_t* parameters,
                                    int64_t parameter_count, int64_t core, int64_t cores, int64_t watchdog,
                                    int64_t* rows, int64_t capacity, int64_t* state) {
  Sequencer sequencer(code, words, parameters, parameter_count, core, cores, watchdog);
  Operation op;
  int64_t count = 0;
  for (; sequencer.next(op); ++count) {
    if (count >= capacity) continue;
    int64_t* row = rows + count * RESOLVED_FIELDS;
    const int64_t head[7] = {op.opcode, op.wait0, op.wait1, op.post0, op.post1, op.pc, op.gap};
    std::memcpy(row, head, sizeof head);
    std::memcpy(row + R_SLOT, op.slot, sizeof op.slot);
    std::memcpy(row + R_CONFIG, op.config, sizeof op.slot);
    for (int64_t i = R_CONFIG + SLOTS; i < RESOLVED_FIELDS; ++i) row[i] = 0;
  }
  state[0] = sequencer.fault;
  state[1] = sequencer.pc;
  state[2] = sequencer.depth;
  state[3] = sequencer.steps;
  for (int64_t i = 0; i < REGISTERS; ++i) state[4 + i] = sequencer.registers[i];
  return count;
}
