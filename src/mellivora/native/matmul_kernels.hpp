// The arithmetic of MATMUL, sixteen columns at a time, on operands that are found and checked.
//
// B lies in memory as the four-byte dot product wants it: dword rows of 32 k-values, one dword a
// column. That instruction takes unsigned times signed bytes, so operands change sides to fit,
// always exactly:
//
//     B signed        A goes in unsigned; a signed A as a + 128, less 128 * sum(b)
//     B unsigned      A goes in signed; an unsigned A as a - 128, plus 128 * sum(b)
//     B of few bits   b + bias, in 0..127, is both; less bias * sum(a), which Q4_1 wants anyway
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

}  // namespace mellivora
