// The activation quantiser (mxint8, x2, x3) and the fixed reduction tree: the C++ forms of
// mellivora/numerics/quantize.py and reduce.py, bit-equal. Needs -ffp-contract=off.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace mv_quantize {

static constexpr size_t BLOCK = 32;

// 2^e for -149 < e < 128, as a normal number: callers keep e in -126..127.
static inline float power_of_two(int32_t e) {
    const uint32_t b = (uint32_t)(e + 127) << 23;
    float x;
    std::memcpy(&x, &b, 4);
    return x;
}

// One row of k elements (a multiple of 32). Planes above the slice count may be null.
template <int SLICES>
static inline void row(const float* __restrict x, size_t k, int8_t* __restrict plane0,
                       uint8_t* __restrict plane1, uint8_t* __restrict plane2,
                       uint8_t* __restrict scales) {
    constexpr int32_t SHIFT = 6 + 8 * (SLICES - 1);
    constexpr float LIMIT = (float)((1 << (8 * SLICES - 1)) - 1);
    for (size_t base = 0; base < k; base += BLOCK) {
        uint32_t bits[BLOCK];
        std::memcpy(bits, x + base, sizeof bits);
        uint32_t largest = 0;
        for (size_t c = 0; c < BLOCK; ++c) {
            const uint32_t size = bits[c] & 0x7FFFFFFFu;
            largest = size > largest ? size : largest;
        }
        const int32_t scale = (int32_t)(largest >> 23);
        scales[base / BLOCK] = (uint8_t)scale;
        if (scale == 255) {  // a NaN or an infinity: the scale alone says NaN
            std::memset(plane0 + base, 0, BLOCK);
            if (SLICES > 1) std::memset(plane1 + base, 0, BLOCK);
            if (SLICES > 2) std::memset(plane2 + base, 0, BLOCK);
            continue;
        }
        // Two factors: one alone would overflow for a small scale. See quantize.py.
        const int32_t exponent = 127 + SHIFT - scale;
        const float first = power_of_two(exponent >> 1);
        const float second = power_of_two(exponent - (exponent >> 1));
        for (size_t c = 0; c < BLOCK; ++c) {
            float y = std::rint(x[base + c] * first * second);
            y = y > LIMIT ? LIMIT : y;
            y = y < -LIMIT ? -LIMIT : y;
            const int32_t q = (int32_t)y;
            plane0[base + c] = (int8_t)(q >> (8 * (SLICES - 1)));
            if (SLICES > 1) plane1[base + c] = (uint8_t)(q >> (8 * (SLICES - 2)));
            if (SLICES > 2) plane2[base + c] = (uint8_t)q;
        }
    }
}

// op over chunks of 32 by halving strides, then chunks in neighbouring pairs; `load` gives x[i].
template <class Load, class Op>
static inline float tree(size_t n, float identity, Load load, Op op) {
    // pending[d]: the finished left subtree of 2^d chunks that waits for its right neighbour.
    float pending[64];
    uint64_t count = 0;  // chunks so far; bit d set: pending[d] is filled
    const auto push = [&](float value) {
        int depth = 0;
        for (; (count >> depth) & 1; ++depth) value = op(pending[depth], value);
        pending[depth] = value;
        ++count;
    };
    size_t start = 0;
    do {
        float y[BLOCK];
        if (start + BLOCK <= n) {
            for (size_t i = 0; i < BLOCK; ++i) y[i] = load(start + i);
        } else {
            for (size_t i = 0; i < BLOCK; ++i) y[i] = start + i < n ? load(start + i) : identity;
        }
        for (size_t i = 0; i < 16; ++i) y[i] = op(y[i], y[i + 16]);
        for (size_t i = 0; i < 8; ++i) y[i] = op(y[i], y[i + 8]);
        for (size_t i = 0; i < 4; ++i) y[i] = op(y[i], y[i + 4]);
        for (size_t i = 0; i < 2; ++i) y[i] = op(y[i], y[i + 2]);
        push(op(y[0], y[1]));
        start += BLOCK;
    } while (start < n);
    while (count & (count - 1)) push(identity);  // up to a power of two chunks
    int depth = 0;
    while (!((count >> depth) & 1)) ++depth;
    const float out = pending[depth];
    const uint32_t nan = 0x7FC00000u;
    float canonical;
    std::memcpy(&canonical, &nan, 4);
    return out != out ? canonical : out;
}

}  // namespace mv_quantize

// x: k floats, k a multiple of 32. slices 1, 2, 3 = mxint8, x2, x3. Unused planes may be null.
static inline void mv_quant_row(const float* x, size_t k, int slices, int8_t* plane0,
                                uint8_t* plane1, uint8_t* plane2, uint8_t* scales) {
    if (slices == 1) mv_quantize::row<1>(x, k, plane0, plane1, plane2, scales);
    else if (slices == 2) mv_quantize::row<2>(x, k, plane0, plane1, plane2, scales);
    else mv_quantize::row<3>(x, k, plane0, plane1, plane2, scales);
}

static inline float mv_tree_sum(const float* x, size_t n) {
    return mv_quantize::tree(n, -0.0f, [x](size_t i) { return x[i]; },
                             [](float a, float b) { return a + b; });
}

// Sum of fl32(x * x).
static inline float mv_tree_sumsq(const float* x, size_t n) {
    return mv_quantize::tree(n, -0.0f, [x](size_t i) { return x[i] * x[i]; },
                             [](float a, float b) { return a + b; });
}

// NaN if there is one; of two zeros the second.
static inline float mv_tree_max(const float* x, size_t n) {
    return mv_quantize::tree(n, -INFINITY, [x](size_t i) { return x[i]; },
                             [](float a, float b) { return a != a ? a : a > b ? a : b; });
}
