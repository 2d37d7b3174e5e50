// One core's memories and the checks of isa/state.py. A failed check only says so: Python runs the instruction
// again by its definition to find cause and words, so neither is written here.
#pragma once
#include <algorithm>
#include <vector>

#include "control.hpp"
#include "vectors.hpp"

namespace mellivora {

struct Illegal {};  // thrown where the definition raises Fault

struct Window { int64_t base, limit; };

// Growing scratch memory of a host thread, 64-byte aligned, contents not kept.
class Buffer {
 public:
  uint8_t* bytes(int64_t count) {
    if (int64_t(store_.size()) < count + 128) store_.resize(count + count / 2 + 128);
    return (uint8_t*)((uintptr_t(store_.data()) + 63) & ~uintptr_t(63));
  }
  template <class T>
  T* of(int64_t count) { return (T*)bytes(count * int64_t(sizeof(T))); }

 private:
  std::vector<uint8_t> store_;
};

struct Core {
  uint8_t *pad, *accumulators;
  int64_t pad_bytes, accumulator_bytes;
  int64_t columns, accumulator_rows, dram_burst;
  uint8_t* dram;
  const Window* windows;
  int64_t window_count;

  // First byte of a tile [rows, cols] of `size`-byte elements, or nullptr if it is empty.
  uint8_t* tile(int64_t address, int64_t rows, int64_t cols, int64_t stride, int size) const {
    if (rows <= 0 || cols <= 0) return nullptr;
    uint8_t* memory = pad;
    int64_t bytes = pad_bytes;
    if (address >= ACCUMULATOR_BASE) {
      address -= ACCUMULATOR_BASE;
      memory = accumulators;
      bytes = accumulator_bytes;
    }
    if (size == 4 && ((address | stride) & 3)) throw Illegal();
    // rows, cols and stride are 32-bit numbers: nothing here overflows 64 bits.
    if (address < 0 || stride < 0 || address + (rows - 1) * stride + cols * size > bytes) throw Illegal();
    return memory + address;
  }

  // A tile of bytes in the scratchpad: MATRIX operands and EXCH do not reach the accumulators.
  uint8_t* near(int64_t address, int64_t rows, int64_t cols, int64_t stride) const {
    if (rows > 0 && cols > 0 && address >= ACCUMULATOR_BASE) throw Illegal();
    return tile(address, rows, cols, stride, 1);
  }
};

// Copies what is likely not in any cache: four streams at once keep more of the host's memory busy than one
// (measured 28 against 20 GB/s).
inline void copy_far(uint8_t* to, const uint8_t* from, int64_t count) {
  constexpr int64_t LINE = 64, AHEAD = 512;
  const int64_t quarter = count >= 16384 ? count / 4 / LINE * LINE : 0;
  for (int64_t i = 0; i < quarter; i += LINE)
    for (int64_t stream = 0; stream < 4; ++stream) {
      const int64_t at = stream * quarter + i;
      __builtin_prefetch(from + at + AHEAD);
      std::memcpy(to + at, from + at, LINE);
    }
  std::memcpy(to + 4 * quarter, from + 4 * quarter, count - 4 * quarter);
}

// LOAD and STORE: n3 x n2 x n1 pieces of n0 bytes.
struct Transfer {
  uint8_t *far, *near;
  int64_t count[4];
  int64_t far_stride[3], near_stride[3];

  Transfer(const Core& core, const int64_t* slot, const int64_t* config) : far(nullptr), near(nullptr) {
    const int64_t window = slot[0];
    for (int i = 0; i < 4; ++i) {
      count[i] = slot[4 + i];
      if (count[i] <= 0) { count[0] = 0; return; }
    }
    bool negative = window < 0 || window >= core.window_count;
    for (int i = 0; i < 6; ++i) negative |= config[i] < 0;
    if (negative) throw Illegal();
    // Three products of 31-bit numbers can pass 2^63, so the sums are made in 128 bits.
    __int128 reach = count[0], extent = count[0];
    for (int i = 0; i < 3; ++i) {
      far_stride[i] = config[i];
      near_stride[i] = config[3 + i];
      reach += __int128(count[i + 1] - 1) * config[i];
      extent += __int128(count[i + 1] - 1) * config[3 + i];
    }
    const int64_t start = slot[1] * DRAM_UNIT_BYTES + slot[2];
    if (start < 0 || start + reach > core.windows[window].limit) throw Illegal();
    if (slot[3] < 0 || slot[3] + extent > core.pad_bytes) throw Illegal();
    far = core.dram + core.windows[window].base + start;
    near = core.pad + slot[3];
    // Join runs that are contiguous on both sides; a dimension of one is contiguous with anything.
    for (int left = 3; left && (count[1] == 1 || (far_stride[0] == count[0] && near_stride[0] == count[0]));
         --left) {
      count[0] *= count[1];
      for (int i = 0; i < 2; ++i) {
        count[i + 1] = count[i + 2];
        far_stride[i] = far_stride[i + 1];
        near_stride[i] = near_stride[i + 1];
      }
      count[3] = 1;
    }
  }

  template <bool LOADS>
  void run() const {
    if (!count[0]) return;
    for (int64_t i3 = 0; i3 < count[3]; ++i3)
      for (int64_t i2 = 0; i2 < count[2]; ++i2) {
        uint8_t* f = far + i3 * far_stride[2] + i2 * far_stride[1];
        uint8_t* n = near + i3 * near_stride[2] + i2 * near_stride[1];
        for (int64_t i1 = 0; i1 < count[1]; ++i1, f += far_stride[0], n += near_stride[0])
          if (LOADS) copy_far(n, f, count[0]);
          else std::memcpy(f, n, count[0]);
      }
  }
};

// LOADX: page i3 of DRAM is number i3 of the table. All pages are checked before a byte moves.
// seen: takes the pages, in order.
template <class Seen>
void gather(const Core& core, const int64_t* slot, const int64_t* config, Seen seen) {
  const int64_t pages = slot[7], pitch = config[2];
  if (*std::min_element(slot + 4, slot + 8) <= 0) return;
  if (pages > GATHER_PAGES || pitch % core.dram_burst || pitch < 0) throw Illegal();
  int64_t one[SLOTS], inner[SLOTS];
  std::copy_n(slot, SLOTS, one);
  std::copy_n(config, SLOTS, inner);
  inner[2] = 0;
  Transfer(core, one, inner);  // the whole place in the scratchpad, and page 0
  const uint8_t* table = core.near(config[6], pages, 4, 4);
  if (config[6] & 3) throw Illegal();
  std::vector<Transfer> parts;
  parts.reserve(pages);
  one[7] = 1;
  for (int64_t i = 0; i < pages; ++i) {
    int32_t page;
    std::memcpy(&page, table + 4 * i, 4);
    if (page < 0) throw Illegal();
    one[2] = slot[2] + page * pitch;
    one[3] = slot[3] + i * config[5];
    parts.emplace_back(core, one, inner);
    seen(page);
  }
  for (const Transfer& part : parts) part.run<true>();
}

}  // namespace mellivora
