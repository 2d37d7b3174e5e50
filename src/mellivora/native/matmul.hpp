// MATMUL: isa/meaning.py's `matmul`. Finds and checks the operands, packs A, runs the kernels.
#pragma once
#include "matmul_kernels.hpp"

namespace mellivora {

// Checks the operands and finds where they start; throws Illegal where the definition faults.
inline void plan_matmul(const Core& core, const int64_t* o, const int64_t* config, MatmulJob& job) {
  const int64_t acc_row = o[0], m = o[4], blocks = std::max<int64_t>(o[5], 0), n = o[6], mode = o[7];
  const int format = int(mode & 15), si = int(mode >> 4 & 3), sj = int(mode >> 6 & 3);
  const bool integers = takes_integers(format);
  if (format > BFormat::ROWS || !si || !sj || mode >> 10) throw Illegal();
  if (sj > 1 && format != BFormat::MX8 && format != BFormat::ROWS) throw Illegal();
  if (mode & 512 && (!integers || si > 1)) throw Illegal();
  if (mode & 512) {  // a code less its zero point is an operand of 9 bits
    const int64_t low = format == BFormat::UINT8 ? 0 : -128;
    if (config[6] < 0 || config[6] > 256 || config[7] < low || config[7] > low + 255) throw Illegal();
  }
  if (n > core.columns || m < 0 || acc_row < 0 || acc_row + m > core.accumulator_rows) throw Illegal();
  job.format = format, job.a_slices = si, job.b_slices = sj;
  job.accumulate = mode & 256;
  job.integer = mode & 512;
  job.m = m, job.blocks = blocks, job.n = n;
  job.columns = core.columns;
  if (m <= 0 || n <= 0) return;
  job.rows = m & ~7;
  if (const int64_t rest = m & 7) job.rows += rest > 4 ? 8 : rest > 2 ? 4 : rest;
  job.out = core.accumulators + 4 * acc_row * core.columns;
  job.scaled = !integers;
  job.a_stride = config[0];
  job.a_plane = config[1];
  job.a_scale_stride = config[2];
  job.a_unsigned = job.integer && config[6];
  job.a_zero = job.a_unsigned ? config[6] - 1 : 0;
  job.b_zero = config[7];
  const int64_t pitch = config[3], dwords = B_DWORDS[format];
  const bool by_rows = format == BFormat::ROWS;
  job.b_pitch = by_rows ? pitch : 4 * pitch;
  job.b_block = by_rows ? 32 * pitch : config[5];
  job.b_plane = by_rows ? config[4] : 32 * pitch;
  // Codes of the first column lie 4*first on from the block's start, its scale 1 or 2 times that from the scales'.
  const int64_t first = by_rows ? 0 : config[4], b = o[3] + 4 * first;
  job.b_scale_at = sj * 4 * dwords * pitch + (B_SCALE_BYTES[format] == 1 ? first : 2 * first) - 4 * first;
  job.a = core.pad + o[1];
  job.a_scale = core.pad + o[2];
  job.b = core.pad + b;
  const auto check_block = [&](int64_t block) {
    for (int i = 0; i < si; ++i) core.near(o[1] + i * config[1] + 32 * block, m, 32, config[0]);
    if (job.scaled) core.near(o[2] + block, m, 1, config[2]);
    const int64_t base = b + block * job.b_block;
    for (int j = 0; j < sj; ++j)
      if (by_rows) core.near(base + j * job.b_plane, 32, n, pitch);
      else core.near(base + j * job.b_plane, dwords, 4 * n, 4 * pitch);
    const int bytes = B_SCALE_BYTES[format];
    if (bytes) core.near(base + job.b_scale_at, 1, bytes == 1 ? n : 2 * n, 2 * n);
    if (bytes == 4) core.near(base + job.b_scale_at + 2 * pitch, 1, 2 * n, 2 * n);
  };
  // Addresses are linear in the block: if the first and the last lie in the scratchpad, so do all between.
  if (blocks > 0) check_block(0);
  if (blocks > 1) check_block(blocks - 1);
}

// Repacks A (see MatmulJob) into `room`.
inline void pack_a(MatmulJob& job, Buffer& room) {
  const int64_t count = job.a_slices * job.blocks * job.rows;
  uint8_t* codes = room.bytes(count * (64 + 8));
  uint8_t* flipped = codes + 32 * count;
  int32_t* sums = (int32_t*)(flipped + 32 * count);
  float* scales = (float*)(sums + count);
  const bool eight_bits = small_bias(job.format) < 0;
  const bool wants_sums = !eight_bits || (job.integer && job.b_zero);
  const bool wants_flipped = eight_bits && (job.a_slices > 1 || (job.format == BFormat::UINT8) == job.a_unsigned);
  for (int i = 0; i < job.a_slices; ++i) {
    const bool is_unsigned = i > 0 || job.a_unsigned;
    const float fraction = i == 0 ? 0x1p-6f : i == 1 ? 0x1p-14f : 0x1p-22f;
    for (int64_t r = 0; r < job.rows; ++r) {
      const bool live = r < job.m;
      const uint8_t* from = job.a + i * job.a_plane + (live ? r : 0) * job.a_stride;
      for (int64_t block = 0; block < job.blocks; ++block, from += 32) {
        const int64_t at = (i * job.blocks + block) * job.rows + r;
        uint64_t part[4];
        std::memcpy(part, from, 32);
        std::memcpy(codes + 32 * at, part, 32);
        const bool all_zero = job.scaled && !job.integer && !(part[0] | part[1] | part[2] | part[3]) &&
                              job.a_scale[(live ? r : 0) * job.a_scale_stride + block] < 128;
        if (wants_sums) {
          int32_t sum = 0;
          for (int k = 0; k < 32; ++k) sum += is_unsigned ? int32_t(from[k]) : int32_t(int8_t(from[k]));
          sums[at] = sum;
        } else {
          sums[at] = 0;
        }
        if (wants_flipped) {
          for (uint64_t& word : part) word ^= 0x8080808080808080u;
          std::memcpy(flipped + 32 * at, part, 32);
        }
        // A block of zeros has the scale 2^-133, and subnormal factors are slow on many CPUs. Its dot product is
        // zero, so the term is zero (or NaN where B's scale is NaN or infinite) whatever factor of less than 1 stands
        // here; a larger one could make the product of the scales infinite.
        scales[at] = !live || all_zero ? 0.0f : !job.scaled ? 1.0f
                   : e8m0(job.a_scale[r * job.a_scale_stride + block]) * fraction;
      }
    }
  }
  job.codes = codes, job.flipped = flipped, job.sums = sums, job.scales = scales;
}

inline void run_matmul(MatmulJob& job, Buffer& room) {
  if (job.m <= 0 || job.n <= 0) return;
  pack_a(job, room);
  switch (job.format) {
    case BFormat::MX8: return multiply<BFormat::MX8>(job);
    case BFormat::MXFP6: return multiply<BFormat::MXFP6>(job);
    case BFormat::MXFP4: return multiply<BFormat::MXFP4>(job);
    case BFormat::Q8_0: return multiply<BFormat::Q8_0>(job);
    case BFormat::Q4_0: return multiply<BFormat::Q4_0>(job);
    case BFormat::Q4_1: return multiply<BFormat::Q4_1>(job);
    case BFormat::INT8: return multiply<BFormat::INT8>(job);
    case BFormat::UINT8: return multiply<BFormat::UINT8>(job);
    case BFormat::INT4: return multiply<BFormat::INT4>(job);
    case BFormat::ROWS: return multiply<BFormat::ROWS>(job);
  }
}

// The instruction. Returns its multiply-accumulates.
inline int64_t matmul(const Core& core, const int64_t* o, const int64_t* config, Buffer& room) {
  MatmulJob job{};
  plan_matmul(core, o, config, job);
  if (job.m <= 0 || job.n <= 0) return 0;
  run_matmul(job, room);
  return job.m * job.n * 32 * job.blocks * PASSES[job.a_slices][job.b_slices].count;
}

}  // namespace mellivora
