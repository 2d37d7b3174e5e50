// VECTOR: isa/meaning.py's vew, vred, vquant and vdeq. Everything is read before anything is written, so results
// whose place overlaps a source in any way but in place go through a buffer.
#pragma once
#include <algorithm>

#include "functions.hpp"
#include "memory.hpp"
#include "quantize.hpp"

#define EACH(i, n) _Pragma("GCC ivdep") for (int64_t i = 0; i < (n); ++i)

namespace mellivora {

constexpr int64_t CHUNK = 1024;  // columns worked on at a time: they stay in the first-level cache

struct Rows {  // a tile whose bytes are known to exist
  uint8_t* at = nullptr;
  int64_t stride = 0, bytes = 0;  // row stride; bytes from the first to past the last
  uint8_t* row(int64_t r) const { return at + r * stride; }
};

inline Rows rows_of(const Core& core, int64_t address, int64_t rows, int64_t cols, int64_t stride, int size) {
  uint8_t* at = core.tile(address, rows, cols, stride, size);
  return {at, stride, at ? (rows - 1) * stride + cols * size : 0};
}

inline bool overlap(const Rows& a, const Rows& b) { return a.at < b.at + b.bytes && b.at < a.at + a.bytes; }

// Operand b or c.
struct Operand {
  int kind = Kind::CONST;
  Rows rows;
  float constant = 0;

  Operand() = default;
  Operand(const Core& core, int k, int64_t value, int64_t count, int64_t cols, int64_t stride) : kind(k) {
    if (kind == Kind::CONST) constant = as_float(uint32_t(value));
    else rows = rows_of(core, value, count, kind == Kind::ROW ? 1 : cols, stride, kind == Kind::E8M0 ? 1 : 4);
  }
  bool is_scalar() const { return kind == Kind::CONST || kind == Kind::ROW; }
  float scalar(int64_t row) const { return kind == Kind::CONST ? constant : bits_of<float>(rows.row(row)); }
  // Columns from `column` on of one row; E8M0 is converted into `room`.
  const float* values(int64_t row, int64_t column, int64_t n, float* room) const {
    if (kind == Kind::TENSOR) return (const float*)rows.row(row) + column;
    const uint8_t* codes = rows.row(row) + column;
    EACH(i, n) room[i] = e8m0(codes[i]);
    return room;
  }
  // True if the rows of this operand follow each other without a gap, so that they are one long row.
  bool is_dense(int64_t cols) const {
    return kind == Kind::CONST || (kind == Kind::TENSOR && rows.stride == 4 * cols) ||
           (kind == Kind::E8M0 && rows.stride == cols);
  }
};

// Each stage makes NaN canonical. X is a float for every column, or their pointer.
INLINE float element(float x, int64_t) { return x; }
INLINE float element(const float* x, int64_t i) { return x[i]; }

template <class X>
inline void binary(int op, const float* t, X x, float* out, int64_t n) {
  switch (op) {
    case Op::NONE: EACH(i, n) out[i] = canonical(t[i]); break;
    case Op::ADD: EACH(i, n) out[i] = canonical(t[i] + element(x, i)); break;
    case Op::SUB: EACH(i, n) out[i] = canonical(t[i] - element(x, i)); break;
    case Op::RSUB: EACH(i, n) out[i] = canonical(element(x, i) - t[i]); break;
    case Op::MUL: EACH(i, n) out[i] = canonical(t[i] * element(x, i)); break;
    case Op::MAX:
      EACH(i, n) {
        const float a = t[i], b = element(x, i), larger = a > b ? a : b;
        out[i] = canonical(a != a ? a : larger);
      }
      break;
    case Op::MIN:
      EACH(i, n) {
        const float a = t[i], b = element(x, i), smaller = a < b ? a : b;
        out[i] = canonical(a != a ? a : smaller);
      }
      break;
    case Op::GT: EACH(i, n) out[i] = t[i] > element(x, i) ? 1.0f : 0.0f; break;
  }
}

inline void unary(int func, const float* t, float* out, int64_t n) {
  switch (func) {
    case Func::EXP2: mv_exp2_n(t, out, n); break;
    case Func::LOG2: mv_log2_n(t, out, n); break;
    case Func::RECIP: mv_recip_n(t, out, n); break;
    case Func::RSQRT: mv_rsqrt_n(t, out, n); break;
    case Func::SIN: mv_sin_turns_n(t, out, n); break;
    case Func::COS: mv_cos_turns_n(t, out, n); break;
    case Func::ABS: EACH(i, n) out[i] = canonical(as_float(as_bits(t[i]) & 0x7FFFFFFF)); break;
    case Func::NEG: EACH(i, n) out[i] = canonical(as_float(as_bits(t[i]) ^ 0x80000000)); break;
  }
}

// -inf where a column is outside its row's span.
inline void apply_mask(const int64_t* config, const float* t, float* out, int64_t row, int64_t column, int64_t n) {
  const int64_t limit = config[4] + row % std::max<int64_t>(config[5], 1);
  const int64_t first = config[6] > 0 ? limit - config[6] : INT64_MIN;
  const int64_t from = std::clamp<int64_t>(first == INT64_MIN ? 0 : first - column, 0, n);
  const int64_t to = std::clamp<int64_t>(limit - column, from, n);
  std::fill(out, out + from, -INFINITY);
  if (out != t) std::copy(t + from, t + to, out + from);
  std::fill(out + to, out + n, -INFINITY);
}

// Where results go: straight to their place if nothing that is still to be read lies there.
class Sink {
 public:
  Sink(const Rows& place, int64_t rows, int64_t row_bytes, bool direct, Buffer& room)
      : place_(place), rows_(rows), row_bytes_(row_bytes), direct_(direct) {
    if (!direct) kept_ = room.bytes(rows * row_bytes);
  }
  uint8_t* row(int64_t r) const { return direct_ ? place_.row(r) : kept_ + r * row_bytes_; }
  void finish() const {
    if (!direct_)
      for (int64_t r = 0; r < rows_; ++r) std::memcpy(place_.row(r), kept_ + r * row_bytes_, row_bytes_);
  }

 private:
  Rows place_;
  int64_t rows_, row_bytes_;
  bool direct_;
  uint8_t* kept_ = nullptr;
};

inline void vew(const Core& core, const int64_t* o, const int64_t* config, Buffer& room) {
  int64_t rows = o[4], cols = o[5];
  const int op1 = int(o[6] & 7), op2 = int(o[6] >> 3 & 7);
  const int64_t func = o[6] >> 6, kinds = o[7];
  Rows a = rows_of(core, o[1], rows, cols, config[1], 4);
  if (rows <= 0 || cols <= 0) return;
  Operand b, third;
  if (op1) b = Operand(core, int(kinds & 3), o[2], rows, cols, config[2]);
  if (op2) third = Operand(core, int(kinds >> 2 & 3), o[3], rows, cols, config[3]);
  if (func < Func::ID || func > Func::NEG) throw Illegal();
  Rows dst = rows_of(core, o[0], rows, cols, config[0], 4);
  const bool mask = kinds & 16;
  const auto harmless = [&](const Rows& source, bool elementwise) {
    if (!source.at || !overlap(dst, source)) return true;
    return elementwise && source.at == dst.at && (rows == 1 || (source.stride == dst.stride && dst.stride >= 4 * cols));
  };
  const bool direct = harmless(a, true) && harmless(b.rows, b.kind == Kind::TENSOR) &&
                      harmless(third.rows, third.kind == Kind::TENSOR);
  const Sink sink(dst, rows, 4 * cols, direct, room);
  if (!mask && direct && a.stride == 4 * cols && dst.stride == 4 * cols && b.is_dense(cols) && third.is_dense(cols)) {
    cols *= rows;
    rows = 1;
  }
  alignas(64) float t_room[CHUNK], x_room[CHUNK];
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < cols; column += CHUNK) {
      const int64_t n = std::min(CHUNK, cols - column);
      const float* t = (const float*)a.row(row) + column;
      float* out = (float*)sink.row(row) + column;
      if (mask) {
        apply_mask(config, t, t_room, row, column, n);
        t = t_room;
      }
      const auto stage = [&](int op, const Operand& x, bool last) {
        float* to = last ? out : t_room;
        if (x.is_scalar()) binary(op, t, x.scalar(row), to, n);
        else binary(op, t, x.values(row, column, n, x_room), to, n);
        t = to;
      };
      if (op1) stage(op1, b, !op2 && !func);
      if (op2) stage(op2, third, !func);
      if (func) unary(int(func), t, out, n);
      else if (!op1 && !op2) binary(Op::NONE, t, 0.0f, out, n);
    }
  }
  sink.finish();
}

inline void vred(const Core& core, const int64_t* o, const int64_t* config, Buffer& room) {
  const int64_t rows = o[2], cols = o[3], op = o[4];
  if (op < Reduce::SUM || op > Reduce::SUMSQ) throw Illegal();
  const Rows a = rows_of(core, o[1], rows, cols, config[1], 4);
  if (rows <= 0 || cols <= 0) return;
  const Rows dst = rows_of(core, o[0], rows, 1, config[0], 4);
  float* masked = room.of<float>(rows + (o[5] ? cols : 0));
  float* results = masked + (o[5] ? cols : 0);
  for (int64_t row = 0; row < rows; ++row) {
    const float* t = (const float*)a.row(row);
    if (o[5]) {
      apply_mask(config, t, masked, row, 0, cols);
      t = masked;
    }
    results[row] = op == Reduce::SUM ? mv_tree_sum(t, cols) : op == Reduce::MAX ? mv_tree_max(t, cols)
                                                                               : mv_tree_sumsq(t, cols);
  }
  for (int64_t row = 0; row < rows; ++row) std::memcpy(dst.row(row), results + row, 4);
}

INLINE uint16_t to_half(float x) {
  const uint32_t bits = as_bits(x), size = bits & 0x7FFFFFFF;
  // A float from 1/2 to 1 has steps of 2^-24, those of the subnormal halves: adding 1/2 rounds to them.
  const uint32_t tiny = as_bits(as_float(size) + 0.5f) - 0x3F000000;
  const uint32_t usual = (size - (112u << 23) + 0xFFF + (size >> 13 & 1)) >> 13;
  uint32_t out = size < 0x38800000 ? tiny : usual;
  out = size >= 0x47800000 ? 0x7C00 : out;  // what rounds up to 2^16 has become 0x7C00 by itself
  return uint16_t(size > 0x7F800000 ? 0x7E00 : out | (bits >> 16 & 0x8000));
}
INLINE uint16_t to_bfloat(float x) {
  const uint32_t bits = as_bits(x);
  return x == x ? uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) : uint16_t(0x7FC0);
}
INLINE int8_t to_int8(float x) {
  float y = std::rint(x == x ? x : 0.0f);
  y = y > 127.0f ? 127.0f : y;
  return int8_t(int32_t(y < -128.0f ? -128.0f : y));
}
INLINE float from_half(uint16_t bits) {
  const uint32_t rest = uint32_t(bits & 0x7FFF) << 13;
  const float size = as_float(rest) * 0x1p112f;  // exact, subnormals too
  const uint32_t special = rest == 0x7C00u << 13 ? 0x7F800000u : 0x7FC00000u;
  const uint32_t out = rest < 0x7C00u << 13 ? as_bits(size) : special;
  return as_float(out == 0x7FC00000u ? out : out | uint32_t(bits & 0x8000) << 16);
}

// A whole row as one block: the scale is that of its largest element.
inline void quantise_wide(const float* x, int64_t n, int slices, uint8_t* const* planes, uint8_t* scale) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, as_bits(x[i]) & 0x7FFFFFFF);
  *scale = uint8_t(largest >> 23);
  const int32_t shift = 6 + 8 * (slices - 1), exponent = 127 + shift - int32_t(*scale);
  const float limit = float((1 << (8 * slices - 1)) - 1);
  const float first = mv_quantize::power_of_two(exponent >> 1);
  const float second = mv_quantize::power_of_two(exponent - (exponent >> 1));
  for (int64_t i = 0; i < n; ++i) {
    float y = std::rint(x[i] * first * second);
    y = y > limit ? limit : y;
    y = y < -limit ? -limit : y;
    const int32_t q = *scale == 255 ? 0 : int32_t(y);
    for (int j = 0; j < slices; ++j) planes[j][i] = uint8_t(q >> 8 * (slices - 1 - j));
  }
}

inline void vquant(const Core& core, const int64_t* o, const int64_t* config, Buffer& room, Buffer& products) {
  const int64_t rows = o[4], cols = o[5], mode = o[6];
  const int target = int(mode & 7);
  const bool wide = mode & 8, multiply = mode & 16;
  if (target < Store::MX1 || target > Store::INT8) throw Illegal();
  if (target <= Store::MX3 && !wide && cols % 32) throw Illegal();
  const Rows a = rows_of(core, o[2], rows, cols, config[1], 4);
  if (rows <= 0 || cols <= 0) return;
  Operand b;
  if (multiply) b = Operand(core, int(mode >> 5 & 3), o[3], rows, cols, config[2]);
  const int slices = target <= Store::MX3 ? target : 1;
  const int size = target == Store::F16 || target == Store::BF16 ? 2 : 1;
  const int64_t scales = target > Store::MX3 ? 0 : wide ? 1 : cols / 32;
  Rows scale_place, place[3];
  if (scales) scale_place = rows_of(core, o[1], rows, scales, config[3], 1);
  for (int j = 0; j < slices; ++j)
    place[j] = rows_of(core, o[0] + (scales ? j * config[4] : 0), rows, cols, config[0], size);
  uint8_t* codes = room.bytes(rows * (cols * size * slices + scales));
  uint8_t* scale_codes = codes + rows * cols * size * slices;
  float* product = products.of<float>(2 * cols);
  for (int64_t row = 0; row < rows; ++row) {
    const float* x = (const float*)a.row(row);
    if (multiply) {
      if (b.is_scalar()) binary(Op::MUL, x, b.scalar(row), product, cols);
      else binary(Op::MUL, x, b.values(row, 0, cols, product + cols), product, cols);
      x = product;
    }
    uint8_t* planes[3];
    for (int j = 0; j < slices; ++j) planes[j] = codes + (j * rows + row) * cols * size;
    if (target == Store::F16) EACH(i, cols) ((uint16_t*)planes[0])[i] = to_half(x[i]);
    else if (target == Store::BF16) EACH(i, cols) ((uint16_t*)planes[0])[i] = to_bfloat(x[i]);
    else if (target == Store::INT8) EACH(i, cols) ((int8_t*)planes[0])[i] = to_int8(x[i]);
    else if (wide) quantise_wide(x, cols, slices, planes, scale_codes + row);
    else mv_quant_row(x, cols, slices, (int8_t*)planes[0], planes[1], planes[2], scale_codes + row * scales);
  }
  for (int64_t row = 0; scales && row < rows; ++row)
    std::memcpy(scale_place.row(row), scale_codes + row * scales, scales);
  for (int j = 0; j < slices; ++j)
    for (int64_t row = 0; row < rows; ++row)
      std::memcpy(place[j].row(row), codes + (j * rows + row) * cols * size, cols * size);
}

inline void vdeq(const Core& core, const int64_t* o, const int64_t* config, Buffer& room) {
  const int64_t rows = o[3], cols = o[4], format = o[5];
  if (format < Deq::F16 || format > Deq::INT8) throw Illegal();
  const bool blocked = format >= Deq::MX1 && format <= Deq::Q4_1;
  if (blocked && cols % 32) throw Illegal();
  if (rows <= 0 || cols <= 0) return;
  const Rows dst = rows_of(core, o[0], rows, cols, config[0], 4);
  const bool nibbles = format == Deq::Q4_0 || format == Deq::Q4_1, mx = format >= Deq::MX1 && format <= Deq::MX3;
  const int size = format == Deq::F16 || format == Deq::BF16 ? 2 : format == Deq::INT32 ? 4 : 1;
  const int slices = mx ? int(format - Deq::MX1) + 1 : 1;
  const int64_t blocks = cols / 32;
  Rows source[3], scale, offset;
  for (int j = 0; j < slices; ++j)
    source[j] = rows_of(core, o[1] + (mx ? j * config[4] : 0), rows, nibbles ? cols / 2 : cols, config[1], size);
  if (blocked) scale = rows_of(core, o[2], rows, blocks, config[2], mx ? 1 : 2);
  if (format == Deq::Q4_1) offset = rows_of(core, o[2] + 2 * blocks, rows, blocks, config[2], 2);
  bool direct = !(scale.at && overlap(dst, scale)) && !(offset.at && overlap(dst, offset));
  for (const Rows& s : source) direct &= !(s.at && overlap(dst, s));
  const Sink sink(dst, rows, 4 * cols, direct, room);
  for (int64_t row = 0; row < rows; ++row) {
    float* out = (float*)sink.row(row);
    const uint8_t* from = source[0].row(row);
    if (format == Deq::F16) EACH(i, cols) out[i] = from_half(bits_of<uint16_t>(from + 2 * i));
    else if (format == Deq::BF16) EACH(i, cols)
        out[i] = canonical(as_float(uint32_t(bits_of<uint16_t>(from + 2 * i)) << 16));
    else if (format == Deq::INT32) EACH(i, cols) out[i] = float(bits_of<int32_t>(from + 4 * i));
    else if (format == Deq::INT8) EACH(i, cols) out[i] = float(int8_t(from[i]));
    else for (int64_t block = 0; block < blocks; ++block) {
      float* y = out + 32 * block;
      float x[32], s, m = 0;
      if (mx) {
        s = e8m0(scale.row(row)[block]) * mv_quantize::power_of_two(2 - 8 * slices);
        int32_t whole[32];
        EACH(i, 32) whole[i] = int8_t(from[32 * block + i]);
        for (int j = 1; j < slices; ++j) {
          const uint8_t* lower = source[j].row(row) + 32 * block;
          EACH(i, 32) whole[i] = whole[i] * 256 + lower[i];
        }
        EACH(i, 32) x[i] = float(whole[i]);
      } else {
        s = from_half(bits_of<uint16_t>(scale.row(row) + 2 * block));
        if (nibbles) {
          const uint8_t* packed = from + 16 * block;
          const int bias = format == Deq::Q4_0 ? 8 : 0;
          EACH(i, 16) x[i] = float((packed[i] & 15) - bias);
          EACH(i, 16) x[16 + i] = float((packed[i] >> 4) - bias);
        } else {
          EACH(i, 32) x[i] = float(int8_t(from[32 * block + i]));
        }
      }
      if (format == Deq::Q4_1) {
        m = from_half(bits_of<uint16_t>(offset.row(row) + 2 * block));
        EACH(i, 32) y[i] = canonical(x[i] * s + m);
      } else {
        EACH(i, 32) y[i] = canonical(x[i] * s);
      }
    }
  }
  sink.finish();
}

}  // namespace mellivora
