// Table functions of the VECTOR engine: the C++ form of mellivora/numerics/functions.py, bit-equal.
//
// Needs function_tables.inc, the text of mellivora.numerics.cpp_tables(), on the include path, and
// -ffp-contract=off. Scalars are branch-free, so that the loops of the array forms vectorise.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "function_tables.inc"

static inline uint32_t mv_bits(float x) {
    uint32_t b;
    std::memcpy(&b, &x, 4);
    return b;
}

static inline float mv_float(uint32_t b) {
    float x;
    std::memcpy(&x, &b, 4);
    return x;
}

static constexpr uint32_t MV_NAN = 0x7FC00000u, MV_INF = 0x7F800000u, MV_SIGN = 0x80000000u;

// (t * d) >> bits without 64-bit lanes: |t| < 2^25, d < 2^18, the floor of a floor is the same floor.
static inline int32_t mv_mul_shift(int32_t t, int32_t d, int bits) {
    return ((t >> 12) * d + (((t & 4095) * d) >> 12)) >> (bits - 12);
}

static inline int32_t mv_parabola(const int32_t* c0, const int32_t* c1, const int32_t* c2, int32_t i,
                                  int32_t d, int bits) {
    const int32_t p2 = (c2[i] * (d >> (bits - 15))) >> 15;
    return c0[i] + mv_mul_shift(c1[i] + p2, d, bits);
}

// p * 2^(biased - 157), 2^30 <= p <= 2^31, rounded once to FP32 (subnormal results, infinity).
static inline uint32_t mv_pack(uint32_t p, int32_t biased) {
    const int32_t down = 1 - biased > 0 ? 1 - biased : 0;
    const uint32_t shift = 7u + (uint32_t)(down < 24 ? down : 24);
    uint32_t rounded = (p + ((1u << (shift - 1)) - 1u) + ((p >> shift) & 1u)) >> shift;
    rounded = down > 24 ? 0u : rounded;
    const uint32_t bits = ((uint32_t)(biased - 1 > 0 ? biased - 1 : 0) << 23) + rounded;
    return bits < MV_INF ? bits : MV_INF;
}

// |x| -> 24-bit significand with its leading one, and exponent.
static inline void mv_split(float x, int32_t* m, int32_t* e) {
    const bool small = std::fabs(x) < 0x1p-126f;
    const uint32_t b = mv_bits(x * (small ? 0x1p24f : 1.0f));
    *m = (int32_t)((b & 0x7FFFFFu) | 0x800000u);
    *e = (int32_t)((b >> 23) & 255u) - (small ? 151 : 127);
}

static inline float mv_exp2(float x) {
    float c = x < 200.0f ? x : 200.0f;  // NaN becomes 200 here; put right at the end
    c = c > -200.0f ? c : -200.0f;
    const float n = std::rint(c);
    const int32_t f = (int32_t)std::rint((c - n) * 0x1p25f);
    const int32_t low = f & ((1 << 25) - 1);
    const uint32_t p = (uint32_t)mv_parabola(MV_EXP2_C0, MV_EXP2_C1, MV_EXP2_C2, low >> 18,
                                             low & ((1 << 18) - 1), 18);
    const uint32_t y = mv_pack(p, (int32_t)n + (f >> 25) + 127);
    return mv_float(x != x ? MV_NAN : y);
}

static inline float mv_recip(float x) {
    int32_t m, e;
    mv_split(x, &m, &e);
    const uint32_t p = (uint32_t)mv_parabola(MV_RECIP_C0, MV_RECIP_C1, MV_RECIP_C2, (m >> 16) & 127,
                                             m & 0xFFFF, 16);
    const uint32_t size = mv_bits(x) & ~MV_SIGN;
    uint32_t y = mv_pack(2 * p, 126 - e);
    y = size == 0 ? MV_INF : y;
    y = size == MV_INF ? 0u : y;
    y |= mv_bits(x) & MV_SIGN;
    return mv_float(size > MV_INF ? MV_NAN : y);
}

static inline float mv_rsqrt(float x) {
    int32_t m, e;
    mv_split(x, &m, &e);
    const uint32_t p = (uint32_t)mv_parabola(MV_RSQRT_C0, MV_RSQRT_C1, MV_RSQRT_C2,
                                             (e & 1) << 7 | ((m >> 16) & 127), m & 0xFFFF, 16);
    const uint32_t b = mv_bits(x), size = b & ~MV_SIGN;
    uint32_t y = mv_pack(2 * p, 126 - (e >> 1));
    y = b == MV_INF ? 0u : y;
    y = b > MV_INF ? MV_NAN : y;  // NaN, and everything negative
    return mv_float(size == 0 ? b | MV_INF : y);
}

static inline float mv_log2(float x) {
    int32_t m, e;
    mv_split(x, &m, &e);
    const int32_t g = mv_parabola(MV_LOG2_C0, MV_LOG2_C1, MV_LOG2_C2, (m >> 16) & 127, m & 0xFFFF, 16);
    const int32_t upper = m >> 22 == 3;
    const int32_t t = upper ? m - (1 << 24) : (m - (1 << 23)) * 2;
    const int64_t total = (int64_t)(e + upper) * (int64_t{1} << 54) + (int64_t)t * g;
    const uint32_t b = mv_bits(x), size = b & ~MV_SIGN;
    uint32_t y = mv_bits((float)total * 0x1p-54f);
    y = b == MV_INF ? MV_INF : y;
    y = b > MV_INF ? MV_NAN : y;
    return mv_float(size == 0 ? MV_SIGN | MV_INF : y);
}

// sin(2 pi b) / b in units of 2^-26, b = fixed * 2^-27 up to 1/4.
static inline int32_t mv_sine_slope(int32_t fixed) {
    return (mv_parabola(MV_SIN_C0, MV_SIN_C1, MV_SIN_C2, fixed >> 18, fixed & ((1 << 18) - 1), 18) + 2)
           >> 2;
}

static inline float mv_sin_turns(float x) {
    const uint32_t size = mv_bits(x) & ~MV_SIGN;
    const float c = size < MV_INF ? x : 0.0f;
    const float r = c - std::rint(c);
    const float a = std::fabs(r);
    const float b = a > 0.25f ? 0.5f - a : a;
    const int32_t slope = mv_sine_slope((int32_t)std::rint(b * 0x1p27f));
    const float y = (float)((double)b * ((double)slope * 0x1p-26));  // exact, then rounded once
    const uint32_t sign = mv_bits(b == 0.0f ? c : r) & MV_SIGN;
    return mv_float(size < MV_INF ? mv_bits(y) | sign : MV_NAN);
}

static inline float mv_cos_turns(float x) {
    const uint32_t size = mv_bits(x) & ~MV_SIGN;
    const float c = size < MV_INF ? x : 0.0f;
    const float a = std::fabs(c - std::rint(c));
    const int32_t q = (1 << 25) - (int32_t)std::rint(a * 0x1p27f);
    const float y = (float)((int64_t)q * mv_sine_slope(q < 0 ? -q : q)) * 0x1p-53f;
    return mv_float(size < MV_INF ? mv_bits(y) : MV_NAN);
}

// Array forms; y may be x itself.
#define MV_ARRAY_FORM(name)                                             \
    static inline void name##_n(const float* x, float* y, size_t n) {   \
        _Pragma("GCC ivdep") for (size_t i = 0; i < n; ++i) y[i] = name(x[i]); \
    }
MV_ARRAY_FORM(mv_exp2)
MV_ARRAY_FORM(mv_recip)
MV_ARRAY_FORM(mv_rsqrt)
MV_ARRAY_FORM(mv_log2)
MV_ARRAY_FORM(mv_sin_turns)
MV_ARRAY_FORM(mv_cos_turns)
#undef MV_ARRAY_FORM
