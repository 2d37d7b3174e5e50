// Sixteen lanes of 32 bits, as GCC and Clang vector types: one source for every machine. Only what the language
// has no word for (masked loads, the four-byte dot product, half floats) has an AVX-512 and a plain form.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__) && \
    defined(__AVX512VNNI__)
#define MELLIVORA_AVX512 1
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

namespace mellivora {

typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef uint32_t vu __attribute__((vector_size(64)));

constexpr int LANES = 16;

template <class T>
INLINE T bits_of(const void* at) { T out; std::memcpy(&out, at, sizeof out); return out; }
INLINE float as_float(uint32_t bits) { return bits_of<float>(&bits); }
INLINE uint32_t as_bits(float x) { return bits_of<uint32_t>(&x); }

INLINE vi splat(int32_t x) { return x - vi{}; }
INLINE vf splat(float x) { return x - vf{}; }  // x - 0 is x, for -0 and NaN too

INLINE vf canonical(vf x) { return (vf)((x == x) ? (vi)x : splat(0x7FC00000)); }
INLINE float canonical(float x) { return x == x ? x : as_float(0x7FC00000); }

INLINE float e8m0(uint8_t code) {
  return as_float(code == 0 ? 0x00400000u : code == 255 ? 0x7FC00000u : uint32_t(code) << 23);
}

#ifdef MELLIVORA_AVX512

// Columns of a group: the first `count` of sixteen; loads of the others give 0 and touch no memory.
struct Columns {
  __mmask16 mask;
  explicit Columns(int64_t count) : mask(count >= LANES ? 0xFFFF : (1u << count) - 1) {}
};
INLINE vi load_dwords(const void* at, Columns c) { return (vi)_mm512_maskz_loadu_epi32(c.mask, at); }
INLINE vf load_floats(const void* at, Columns c) { return (vf)_mm512_maskz_loadu_ps(c.mask, at); }
INLINE void store(void* at, vi x, Columns c) { _mm512_mask_storeu_epi32(at, c.mask, (__m512i)x); }
INLINE vi load_bytes(const void* at, Columns c) {
  return (vi)_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(c.mask, at));
}
INLINE vf load_halves(const void* at, Columns c) {
  return (vf)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(c.mask, at));
}
INLINE vf to_float(vi x) { return (vf)_mm512_cvtepi32_ps((__m512i)x); }
// acc + the sum over each lane's four bytes of unsigned u times signed s; nothing saturates.
INLINE vi dot4(vi acc, vi u, vi s) { return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)u, (__m512i)s); }
// Sixteen columns of four rows of bytes, as sixteen dwords.
INLINE vi load_four_rows(const uint8_t* at, int64_t pitch, Columns c) {
  const __m128i r0 = _mm_maskz_loadu_epi8(c.mask, at), r1 = _mm_maskz_loadu_epi8(c.mask, at + pitch);
  const __m128i r2 = _mm_maskz_loadu_epi8(c.mask, at + 2 * pitch);
  const __m128i r3 = _mm_maskz_loadu_epi8(c.mask, at + 3 * pitch);
  const __m128i a = _mm_unpacklo_epi8(r0, r1), b = _mm_unpackhi_epi8(r0, r1);
  const __m128i d = _mm_unpacklo_epi8(r2, r3), e = _mm_unpackhi_epi8(r2, r3);
  __m512i out = _mm512_castsi128_si512(_mm_unpacklo_epi16(a, d));
  out = _mm512_inserti32x4(out, _mm_unpackhi_epi16(a, d), 1);
  out = _mm512_inserti32x4(out, _mm_unpacklo_epi16(b, e), 2);
  return (vi)_mm512_inserti32x4(out, _mm_unpackhi_epi16(b, e), 3);
}

#else

struct Columns {
  int64_t count;
  explicit Columns(int64_t n) : count(n < LANES ? n : LANES) {}
};
INLINE vi load_dwords(const void* at, Columns c) { vi out{}; std::memcpy(&out, at, 4 * c.count); return out; }
INLINE vf load_floats(const void* at, Columns c) { vf out{}; std::memcpy(&out, at, 4 * c.count); return out; }
INLINE void store(void* at, vi x, Columns c) { std::memcpy(at, &x, 4 * c.count); }
INLINE vi load_bytes(const void* at, Columns c) {
  vi out{};
  for (int64_t i = 0; i < c.count; ++i) out[i] = ((const uint8_t*)at)[i];
  return out;
}
INLINE float half(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, rest = uint32_t(bits & 0x7FFF) << 13;
  if (rest >= 0x7C00u << 13) return as_float(sign | 0x7F800000 | rest);
  return as_float(sign | as_bits(as_float(rest) * as_float(0x77800000)));  // times 2^112, exact
}
INLINE vf load_halves(const void* at, Columns c) {
  vf out{};
  for (int64_t i = 0; i < c.count; ++i) out[i] = half(bits_of<uint16_t>((const uint8_t*)at + 2 * i));
  return out;
}
INLINE vf to_float(vi x) { return __builtin_convertvector(x, vf); }
INLINE vi dot4(vi acc, vi u, vi s) {
  for (int b = 0; b < 32; b += 8) acc += ((u >> b) & 255) * ((s << (24 - b)) >> 24);
  return acc;
}
INLINE vi load_four_rows(const uint8_t* at, int64_t pitch, Columns c) {
  vi out{};
  for (int64_t i = 0; i < c.count; ++i)
    for (int row = 0; row < 4; ++row) out[i] |= int32_t(uint32_t(at[row * pitch + i]) << (8 * row));
  return out;
}

#endif

INLINE vf load_e8m0(const void* at, Columns c) {
  const vi code = load_bytes(at, c);
  vi bits = code << 23;
  bits = (code == 0) ? splat(0x00400000) : bits;
  bits = (code == 255) ? splat(0x7FC00000) : bits;
  return (vf)bits;
}

}  // namespace mellivora
