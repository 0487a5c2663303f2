// Streaming weights with NEON.
//
// 4-bit weights: 16 bytes hold 32 of them. A nibble in the upper half of a byte is a signed byte,
// sixteen times the weight; the sums are divided by sixteen at the end, which is exact.
//
// A prepared 4-bit segment: for each 16 bytes of weights, the differences q - z for the low
// nibbles, then those for the high ones. A prepared 8-bit segment: for each 16 weights, the
// integers (q - 128, see dots_neon.hpp) and as many ones (zeros after the end), with which the
// weights are summed, too.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "lanes.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

constexpr std::int64_t kVector = 16;
constexpr int kAtOnce = 4;  // weight rows with sums in registers at the same time

// Vectors of weights in a segment.
inline std::int64_t stream_steps(const Part& part) {
    return (part.width * part.bits / 8 + kVector - 1) / kVector;
}

inline std::int64_t prepared_bytes(const Part& part) { return stream_steps(part) * 2 * kVector; }

inline void prepare_segment(const Part& part, const std::uint8_t* integers, std::int32_t zero_point,
                            std::uint8_t* out) {
    std::memset(out, 0, static_cast<std::size_t>(prepared_bytes(part)));
    for (std::int64_t k = 0; k < part.width; ++k) {
        if (part.bits == 4) {
            const std::int64_t pair = k / 2;
            out[pair / kVector * 2 * kVector + k % 2 * kVector + pair % kVector] =
                static_cast<std::uint8_t>(integers[nibble_place(k)] - zero_point);
        } else {
            std::uint8_t* step = out + k / kVector * 2 * kVector + k % kVector;
            step[0] = integers[k];
            step[kVector] = 1;
        }
    }
}

inline int8x16_t load_vector(const std::uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p)); }

// The sum over the lanes of each of four vectors.
inline int32x4_t reduce(const int32x4_t (&x)[4]) {
    return vpaddq_s32(vpaddq_s32(x[0], x[1]), vpaddq_s32(x[2], x[3]));
}

template <int kRows>
inline void clear(int32x4_t (&sums)[kRows][kAtOnce]) {
    for (auto& row : sums) {
        for (int32x4_t& one : row) {
            one = vdupq_n_s32(0);
        }
    }
}

template <int kRows>
inline void stream_nibbles(const Part& part, const std::uint8_t* weights, std::int64_t stride,
                           const std::uint8_t* prepared, std::int64_t prepared_stride,
                           const std::int32_t* /*zeros*/, std::int32_t* sums) {
    const std::int64_t steps = stream_steps(part);
    for (int block = 0; block < kLanes; block += kAtOnce, weights += kAtOnce * stride) {
        int32x4_t wide[kRows][kAtOnce];
        clear(wide);
        for (std::int64_t step = 0; step < steps; ++step) {
            int8x16_t low[kAtOnce], high[kAtOnce];
            for (int i = 0; i < kAtOnce; ++i) {
                const int8x16_t packed = load_vector(weights + i * stride + step * kVector);
                low[i] = vshlq_n_s8(packed, 4);
                high[i] = vandq_s8(packed, vdupq_n_s8(-16));  // 0xF0
            }
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
                const std::uint8_t* x = prepared + r * prepared_stride + step * 2 * kVector;
                const int8x16_t even = load_vector(x), odd = load_vector(x + kVector);
                for (int i = 0; i < kAtOnce; ++i) {
                    wide[r][i] = vdotq_s32(wide[r][i], low[i], even);
                    wide[r][i] = vdotq_s32(wide[r][i], high[i], odd);
                }
            }
        }
        for (int r = 0; r < kRows; ++r) {
            vst1q_s32(sums + r * kLanes + block, vshrq_n_s32(reduce(wide[r]), 4));
        }
    }
}

template <int kRows>
inline void stream_bytes(const Part& part, const std::uint8_t* weights, std::int64_t stride,
                         const std::uint8_t* prepared, std::int64_t prepared_stride,
                         const std::int32_t* zeros, std::int32_t* sums) {
    const std::int64_t steps = stream_steps(part);
    for (int block = 0; block < kLanes; block += kAtOnce, weights += kAtOnce * stride) {
        int32x4_t wide[kRows][kAtOnce], own[1][kAtOnce];
        clear(wide);
        clear(own);
        for (std::int64_t step = 0; step < steps; ++step) {
            const std::uint8_t* x = prepared + step * 2 * kVector;
            const int8x16_t ones = load_vector(x + kVector);
            int8x16_t row[kAtOnce];
            for (int i = 0; i < kAtOnce; ++i) {
                row[i] = load_vector(weights + i * stride + step * kVector);
                own[0][i] = vdotq_s32(own[0][i], row[i], ones);
            }
#pragma GCC unroll 4
            for (int r = 0; r < kRows; ++r) {
                const int8x16_t integers = load_vector(x + r * prepared_stride);
                for (int i = 0; i < kAtOnce; ++i) {
                    wide[r][i] = vdotq_s32(wide[r][i], row[i], integers);
                }
            }
        }
        for (int r = 0; r < kRows; ++r) {
            // Σ q w - z Σ w
            vst1q_s32(sums + r * kLanes + block,
                      vmlsq_s32(reduce(wide[r]), reduce(own[0]), vdupq_n_s32(zeros[r])));
        }
    }
}

}  // namespace resq::RESQ_ISA
