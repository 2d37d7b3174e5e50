// MATMUL: isa/meaning.py's `matmul`, sixteen columns at a time.
//
// B lies in memory as the four-byte dot product wants it: dword rows of 32 k-values, one dword a column. That
// instruction takes unsigned times signed bytes, so operands change sides to fit, always exactly:
//
//     B signed        A goes in unsigned; a signed A as a + 128, less 128 * sum(b)
//     B unsigned      A goes in signed; an unsigned A as a - 128, plus 128 * sum(b)
//     B of few bits   b + bias, in 0..127, is both; less bias * sum(a), a number that Q4_1 wants anyway
//
// FP32 follows the definition step by step: t = fl(float(dot) * fl(sa*sb)), acc = fl(acc + t).
#pragma once
#include <algorithm>

#include "memory.hpp"

namespace mellivora {

constexpr int small_bias(int format) {  // -1: codes of eight bits
  return format == BFormat::Q4_0 || format == BFormat::INT4 ? 8 : format == BFormat::Q4_1 ? 0
       : format == BFormat::MXFP4 ? 12 : format == BFormat::MXFP6 ? 64 : -1;
}

constexpr bool takes_integers(int format) {
  return format == BFormat::INT8 || format == BFormat::UINT8 || format == BFormat::INT4;
}

// How MATRIX reads codes of few bits: E2M1 times 2 and E2M3 times 8, plus their bias.
struct SmallTables {
  alignas(64) uint8_t fp4[64], fp6[64];
  SmallTables() {
    for (int code = 0; code < 64; ++code) {
      const int e4 = code >> 1 & 3, m4 = code & 1, e6 = code >> 3 & 3, m6 = code & 7;
      const int v4 = e4 ? (2 | m4) << (e4 - 1) : m4, v6 = e6 ? (8 | m6) << (e6 - 1) : m6;
      fp4[code] = uint8_t(small_bias(BFormat::MXFP4) + (code & 8 ? -v4 : v4));
      fp6[code] = uint8_t(small_bias(BFormat::MXFP6) + (code & 32 ? -v6 : v6));
    }
  }
};
inline const SmallTables SMALL_TABLES;

INLINE vi look_up(vi codes, const uint8_t* table) {  // each byte of codes (0..63) through the table
#if defined(MELLIVORA_AVX512) && defined(__AVX512VBMI__)
  return (vi)_mm512_permutexvar_epi8((__m512i)codes, _mm512_load_si512(table));
#else
  uint8_t bytes[64];
  std::memcpy(bytes, &codes, 64);
  for (int i = 0; i < 64; ++i) bytes[i] = table[bytes[i]];
  return bits_of<vi>(bytes);
#endif
}

// The 32 codes of sixteen columns as eight dword vectors; codes of few bits come with their bias.
// pitch: bytes from one dword row (ROWS: from one row) to the next.
template <int FORMAT>
INLINE void load_codes(const uint8_t* at, int64_t pitch, Columns c, vi* w) {
  if constexpr (FORMAT == BFormat::ROWS) {
    for (int d = 0; d < 8; ++d) w[d] = load_four_rows(at + 4 * d * pitch, pitch, c);
  } else if constexpr (B_DWORDS[FORMAT] == 8) {
    for (int d = 0; d < 8; ++d) w[d] = load_dwords(at + d * pitch, c);
  } else if constexpr (B_DWORDS[FORMAT] == 4) {
    for (int d = 0; d < 4; ++d) {
      vi x = load_dwords(at + d * pitch, c);
      if constexpr (FORMAT == BFormat::INT4) x ^= int32_t(0x88888888);
      w[d] = x & 0x0F0F0F0F;
      w[4 + d] = (x >> 4) & 0x0F0F0F0F;
      if constexpr (FORMAT == BFormat::MXFP4) {
        w[d] = look_up(w[d], SMALL_TABLES.fp4);
        w[4 + d] = look_up(w[4 + d], SMALL_TABLES.fp4);
      }
    }
  } else {  // MXFP6: four codes in each 24 bits
    vu x[7];
    for (int d = 0; d < 6; ++d) x[d] = (vu)load_dwords(at + d * pitch, c);
    x[6] = vu{};
    for (int e = 0; e < 8; ++e) {
      const int word = 24 * e / 32, shift = 24 * e % 32;
      const vu y = shift ? x[word] >> shift | x[word + 1] << (32 - shift) : x[word];
      const vu spread = (y & 63) | (y & 63 << 6) << 2 | (y & 63 << 12) << 4 | (y & 63 << 18) << 6;
      w[e] = look_up((vi)spread, SMALL_TABLES.fp6);
    }
  }
}

// One MATMUL with its operands found and checked. A is repacked so that what one step needs lies together:
// [slice][block][row] of 32 codes, their sum, their scale.
struct MatmulJob {
  int format, a_slices, b_slices;
  bool accumulate, integer;
  int64_t m, blocks, n, rows;  // rows: m padded to the kernels' row counts
  const uint8_t *b, *a, *a_scale;
  int64_t b_block, b_plane, b_pitch, b_scale_at;  // b_pitch: bytes between dword rows
  int64_t a_stride, a_plane, a_scale_stride, columns;
  bool scaled, a_unsigned;
  int64_t a_zero, b_zero;
  uint8_t* out;

  const uint8_t* codes;    // as they are
  const uint8_t* flipped;  // top bits flipped: signed to unsigned and back
  const int32_t* sums;
  const float* scales;
  int64_t at(int64_t i, int64_t block, int64_t row) const { return (i * blocks + block) * rows + row; }
};

constexpr int KERNEL_ROWS = 8;

// Unrolled, so that what is kept for each row stays in registers.
#define EACH_ROW(r) _Pragma("GCC unroll 8") for (int r = 0; r < ROWS_; ++r)

// Dot products of `ROWS` rows with sixteen columns, started from start[r].
template <int FORMAT, int ROWS_>
INLINE void dots(const uint8_t* codes, const vi* w, bool b_is_unsigned_side, vi* t) {
  if (b_is_unsigned_side)
    EACH_ROW(r)
      for (int d = 0; d < 8; ++d) t[r] = dot4(t[r], w[d], splat(bits_of<int32_t>(codes + 32 * r + 4 * d)));
  else
    EACH_ROW(r)
      for (int d = 0; d < 8; ++d) t[r] = dot4(t[r], splat(bits_of<int32_t>(codes + 32 * r + 4 * d)), w[d]);
}

// What must be added to the dot products of the flipped A: -128 sum(b) or +128 sum(b).
INLINE vi flip_correction(const vi* w, bool b_unsigned) {
  const vi top = splat(int32_t(0x80808080));
  vi sum{};
  for (int d = 0; d < 8; ++d) sum = b_unsigned ? dot4(sum, w[d], top) : dot4(sum, top, w[d]);
  return -sum;
}

template <int FORMAT, int ROWS_>
void float_kernel(const MatmulJob& job, int64_t row, int64_t column, int64_t live_rows) {
  constexpr int BIAS = small_bias(FORMAT);
  constexpr bool HAS_OFFSET = FORMAT == BFormat::Q4_1;
  const Columns c(job.n - column);
  vf acc[ROWS_] = {};
  uint8_t* out = job.out + 4 * (row * job.columns + column);
  if (job.accumulate)
    for (int r = 0; r < live_rows; ++r) acc[r] = load_floats(out + 4 * r * job.columns, c);
  const Passes& passes = PASSES[job.a_slices][job.b_slices];
  const int64_t column_bytes = FORMAT == BFormat::ROWS ? 1 : 4;
  for (int64_t block = 0; block < job.blocks; ++block) {
    const uint8_t* base = job.b + block * job.b_block;
    vf scale = splat(1.0f), offset{};
    const uint8_t* at = base + job.b_scale_at;
    if constexpr (B_SCALE_BYTES[FORMAT] == 1)
      scale = load_e8m0(at + column, c) * (1.0f / float(1 << FRACTION_BITS[FORMAT]));
    else if constexpr (B_SCALE_BYTES[FORMAT] >= 2)
      scale = load_halves(at + 2 * column, c);
    if constexpr (HAS_OFFSET) offset = load_halves(at + job.b_pitch / 2 + 2 * column, c);
    constexpr int SLICES = FORMAT == BFormat::MX8 || FORMAT == BFormat::ROWS ? 3 : 1;
    vi slices[SLICES][8];
    for (int j = 0; j < job.b_slices && j < SLICES; ++j)
      load_codes<FORMAT>(base + j * job.b_plane + column * column_bytes, job.b_pitch, c, slices[j]);
    for (int p = 0; p < passes.count; ++p) {
      const int i = passes.at[p].i, j = passes.at[p].j;
      const vi* w = slices[SLICES == 1 ? 0 : j];
      const vf slice_scale = j ? scale * (j == 1 ? 0x1p-8f : 0x1p-16f) : scale;
      const int64_t first = job.at(i, block, row);
      const int32_t* sums = job.sums + first;
      vi t[ROWS_];
      if constexpr (BIAS >= 0) {
        EACH_ROW(r) t[r] = BIAS ? splat(-BIAS * sums[r]) : vi{};
        dots<FORMAT, ROWS_>(job.codes + 32 * first, w, i == 0, t);
      } else {
        const bool b_unsigned = j > 0 || FORMAT == BFormat::UINT8, flip = (i > 0) == b_unsigned;
        const vi start = flip ? flip_correction(w, b_unsigned) : vi{};
        EACH_ROW(r) t[r] = start;
        dots<FORMAT, ROWS_>((flip ? job.flipped : job.codes) + 32 * first, w, b_unsigned, t);
      }
      EACH_ROW(r) {
        const vf sa = splat(job.scales[first + r]);
        vf term = to_float(t[r]) * (sa * slice_scale);
        if constexpr (HAS_OFFSET) term = term + splat(float(sums[r])) * (sa * offset);
        acc[r] = acc[r] + term;
      }
    }
  }
  for (int r = 0; r < live_rows; ++r) store(out + 4 * r * job.columns, (vi)canonical(acc[r]), c);
}

// (a - za)(b - zb) summed is ab - zb sum(a) - za sum(b) + 32 za zb a block, all modulo 2^32.
template <int FORMAT, int ROWS_>
void integer_kernel(const MatmulJob& job, int64_t row, int64_t column, int64_t live_rows) {
  constexpr int BIAS = small_bias(FORMAT);
  constexpr bool B_UNSIGNED = FORMAT == BFormat::UINT8;
  const Columns c(job.n - column);
  const uint32_t za = uint32_t(job.a_zero), zb = uint32_t(job.b_zero);
  const bool flip = BIAS < 0 && job.a_unsigned == B_UNSIGNED;
  const vi ones = splat(0x01010101);
  vu acc[ROWS_] = {};
  uint8_t* out = job.out + 4 * (row * job.columns + column);
  if (job.accumulate)
    for (int r = 0; r < live_rows; ++r) acc[r] = (vu)load_dwords(out + 4 * r * job.columns, c);
  vu b_sum{};
  for (int64_t block = 0; block < job.blocks; ++block) {
    vi w[8], t[ROWS_];
    load_codes<FORMAT>(job.b + block * job.b_block + 4 * column, job.b_pitch, c, w);
    vi sum{};
    for (int d = 0; d < 8; ++d) sum = B_UNSIGNED ? dot4(sum, w[d], ones) : dot4(sum, ones, w[d]);
    b_sum += (vu)sum - uint32_t(BIAS > 0 ? 32 * BIAS : 0);
    const vi start = flip ? flip_correction(w, B_UNSIGNED) : vi{};
    const int64_t first = job.at(0, block, row);
    EACH_ROW(r) t[r] = BIAS > 0 ? splat(-BIAS * job.sums[first + r]) : start;
    const bool b_side = BIAS >= 0 ? !job.a_unsigned : B_UNSIGNED;
    dots<FORMAT, ROWS_>((flip ? job.flipped : job.codes) + 32 * first, w, b_side, t);
    EACH_ROW(r) acc[r] += (vu)t[r] - zb * uint32_t(job.sums[first + r]);
  }
  const uint32_t both = uint32_t(job.blocks) * 32u * za * zb;
  for (int r = 0; r < live_rows; ++r) store(out + 4 * r * job.columns, (vi)(acc[r] - b_sum * za + both), c);
}

template <int FORMAT, int ROWS_>
INLINE void kernel(const MatmulJob& job, int64_t row, int64_t column) {
  const int64_t live = std::min<int64_t>(ROWS_, job.m - row);
  if constexpr (takes_integers(FORMAT))
    if (job.integer) return integer_kernel<FORMAT, ROWS_>(job, row, column, live);
  float_kernel<FORMAT, ROWS_>(job, row, column, live);
}

template <int FORMAT>
void multiply(const MatmulJob& job) {
  for (int64_t column = 0; column < job.n; column += LANES) {
    int64_t row = 0;
    for (; job.rows - row >= KERNEL_ROWS; row += KERNEL_ROWS) kernel<FORMAT, KERNEL_ROWS>(job, row, column);
    switch (job.rows - row) {
      case 4: kernel<FORMAT, 4>(job, row, column); break;
      case 2: kernel<FORMAT, 2>(job, row, column); break;
      case 1: kernel<FORMAT, 1>(job, row, column); break;
    }
  }
}

// Checks the operands and finds where they start; throws Illegal where the definition faults. False when they are
// not simply strides within the scratchpad: something lies in, or crosses into, the accumulators.
inline bool plan_matmul(const Core& core, const int64_t* o, const int64_t* config, MatmulJob& job) {
  const int64_t acc_row = o[0], m = o[4], blocks = std::max<int64_t>(o[5], 0), n = o[6], mode = o[7];
  const int format = int(mode & 15), si = int(mode >> 4 & 3), sj = int(mode >> 6 & 3);
  const bool integers = takes_integers(format);
  if (format > BFormat::ROWS || !si || !sj || mode >> 10) throw Illegal();
  if (sj > 1 && format != BFormat::MX8 && format != BFormat::ROWS) throw Illegal();
  if (mode & 512 && (!integers || si > 1)) throw Illegal();
  if (n > core.columns || m < 0 || acc_row < 0 || acc_row + m > core.accumulator_rows) throw Illegal();
  job.format = format, job.a_slices = si, job.b_slices = sj;
  job.accumulate = mode & 256;
  job.integer = mode & 512;
  job.m = m, job.blocks = blocks, job.n = n;
  job.columns = core.columns;
  if (m <= 0 || n <= 0) return true;
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
  bool regular = true;
  const auto check = [&](int64_t address, int64_t rows, int64_t cols, int64_t stride) {
    regular &= core.tile(address, rows, cols, stride, 1) == core.pad + address;
  };
  const auto check_block = [&](int64_t block) {
    for (int i = 0; i < si; ++i) check(o[1] + i * config[1] + 32 * block, m, 32, config[0]);
    if (job.scaled) check(o[2] + block, m, 1, config[2]);
    const int64_t base = b + block * job.b_block;
    for (int j = 0; j < sj; ++j)
      if (by_rows) check(base + j * job.b_plane, 32, n, pitch);
      else check(base + j * job.b_plane, dwords, 4 * n, 4 * pitch);
    const int bytes = B_SCALE_BYTES[format];
    if (bytes) check(base + job.b_scale_at, 1, bytes == 1 ? n : 2 * n, 2 * n);
    if (bytes == 4) check(base + job.b_scale_at + 2 * pitch, 1, 2 * n, 2 * n);
  };
  // Addresses are linear in the block: if the first and the last lie in the scratchpad, so do all between.
  if (blocks > 0) check_block(0);
  if (blocks > 1) check_block(blocks - 1);
  return regular;
}

// Copies irregular operands into `room`, in a layout that is regular; checks every block on the way.
inline void gather(const Core& core, const int64_t* o, const int64_t* config, MatmulJob& job, Buffer& room) {
  const int64_t m = job.m, n = job.n, blocks = job.blocks, pitch = config[3], dwords = B_DWORDS[job.format];
  const int si = job.a_slices, sj = job.b_slices, scale_bytes = B_SCALE_BYTES[job.format];
  const bool by_rows = job.format == BFormat::ROWS;
  const int64_t b_bytes = by_rows ? 32 * n * sj : (4 * dwords * sj + scale_bytes) * n;
  uint8_t* a = room.bytes(blocks * (32 * m * si + m + b_bytes));
  uint8_t* a_scale = a + 32 * m * si * blocks;
  uint8_t* b = a_scale + m * blocks;
  for (int64_t block = 0; block < blocks; ++block) {
    for (int i = 0; i < si; ++i) {
      const uint8_t* from = core.tile(o[1] + i * config[1] + 32 * block, m, 32, config[0], 1);
      for (int64_t r = 0; r < m; ++r)
        std::memcpy(a + 32 * ((i * m + r) * blocks + block), from + r * config[0], 32);
    }
    if (job.scaled) {
      const uint8_t* from = core.tile(o[2] + block, m, 1, config[2], 1);
      for (int64_t r = 0; r < m; ++r) a_scale[r * blocks + block] = from[r * config[2]];
    }
    const int64_t base = o[3] + (by_rows ? 0 : 4 * config[4]) + block * job.b_block;
    for (int j = 0; j < sj; ++j) {
      const int64_t rows = by_rows ? 32 : dwords, width = by_rows ? n : 4 * n;
      const uint8_t* from = core.tile(base + j * job.b_plane, rows, width, job.b_pitch, 1);
      uint8_t* to = by_rows ? b + (j * blocks + block) * 32 * n : b + block * b_bytes + j * 32 * n;
      for (int64_t r = 0; r < rows; ++r) std::memcpy(to + r * width, from + r * job.b_pitch, width);
    }
    const int64_t each = scale_bytes == 1 ? n : 2 * n;
    for (int part = 0; part < (scale_bytes + 1) / 2; ++part)
      std::memcpy(b + block * b_bytes + 4 * dwords * sj * n + part * 2 * n,
                  core.tile(base + job.b_scale_at + part * 2 * pitch, 1, each, each, 1), each);
  }
  job.a = a;
  job.a_scale = a_scale;
  job.b = b;
  job.a_stride = 32 * blocks;
  job.a_plane = m * job.a_stride;
  job.a_scale_stride = blocks;
  job.b_pitch = by_rows ? n : 4 * n;
  job.b_block = by_rows ? 32 * n : b_bytes;
  job.b_plane = by_rows ? blocks * 32 * n : 32 * n;
  job.b_scale_at = 4 * dwords * sj * n;
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
                              job.a_scale[(live ? r : 0) * job.a_scale_stride + block] != 255;
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
        // zero, so the term is zero (or NaN where B's scale is NaN or infinite) whatever finite factor stands here.
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
inline int64_t matmul(const Core& core, const int64_t* o, const int64_t* config, Buffer& room, Buffer& copies) {
  MatmulJob job{};
  if (!plan_matmul(core, o, config, job)) gather(core, o, config, job, copies);
  if (job.m <= 0 || job.n <= 0) return 0;
  run_matmul(job, room);
  return job.m * job.n * 32 * job.blocks * PASSES[job.a_slices][job.b_slices].count;
}

}  // namespace mellivora
