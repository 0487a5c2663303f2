// Integer dot products with NEON: sdot adds four products s8 · s8 to an int32, exactly.
//
// Both operands are signed. A 4-bit integer, 0 to 15, is the same signed and unsigned. An 8-bit
// integer and its zero point are stored minus 128, which does not change their difference.
#pragma once

#include <arm_neon.h>

#include <cstring>

#include "lanes.hpp"
#include "resq/kernels.hpp"
#include "vectors_neon.hpp"

namespace resq::RESQ_ISA {

constexpr int kByteElement = 1;   // bytes of an 8-bit activation in a quantised row
constexpr int kByteOffset = 128;  // what is subtracted from it
constexpr int kPanelBlocks = 1;   // blocks of sixteen outputs in a panel
constexpr int kTileRows = 4;      // 16 sums, 4 vectors of weights, 4 of rows: 24 registers of 32
// Rows and blocks of sixteen columns of a float product, with all sums in registers.
constexpr int kGemmRows = 6, kGemmBlocks = 1;
constexpr std::int64_t kFewRows = 4;

// Adds the products of dword kDword of each row's vector.
template <int kDword, int kRows>
inline void add_dword(const std::uint32_t* weights, const int8x16_t (&x)[kRows],
                      int32x4_t (&wide)[kRows][4]) {
    for (int b = 0; b < 4; ++b) {
        const int8x16_t four = vreinterpretq_s8_u32(vld1q_u32(weights + 4 * b));
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
            wide[r][b] = vdotq_laneq_s32(wide[r][b], four, x[r], kDword);
        }
    }
}

template <int kRows>
inline void dot_bytes(const std::uint8_t* rows, std::size_t stride, const std::uint32_t* panel,
                      std::int64_t dwords, std::int32_t* sums) {
    int32x4_t wide[kRows][4];
    for (auto& row : wide) {
        for (int32x4_t& one : row) {
            one = vdupq_n_s32(0);
        }
    }
    int8x16_t x[kRows];
    std::int64_t d = 0;
    for (; d + 4 <= dwords; d += 4, panel += 4 * kLanes) {
        for (int r = 0; r < kRows; ++r) {
            x[r] =
                vreinterpretq_s8_u8(vld1q_u8(rows + static_cast<std::size_t>(r) * stride + 4 * d));
        }
        add_dword<0>(panel, x, wide);
        add_dword<1>(panel + kLanes, x, wide);
        add_dword<2>(panel + 2 * kLanes, x, wide);
        add_dword<3>(panel + 3 * kLanes, x, wide);
    }
    for (; d < dwords; ++d, panel += kLanes) {
        for (int r = 0; r < kRows; ++r) {
            std::int32_t dword;
            std::memcpy(&dword, rows + static_cast<std::size_t>(r) * stride + 4 * d, 4);
            x[r] = vreinterpretq_s8_s32(vdupq_n_s32(dword));
        }
        add_dword<0>(panel, x, wide);
    }
    for (int r = 0; r < kRows; ++r) {
        for (int b = 0; b < 4; ++b) {
            vst1q_s32(sums + r * kLanes + 4 * b, wide[r][b]);
        }
    }
}

template <int kRows>
inline void dot_nibbles(const std::uint8_t* rows, std::size_t stride, const std::uint32_t* panel,
                        std::int64_t dwords, std::int32_t* sums) {
    dot_bytes<kRows>(rows, stride, panel, dwords, sums);
}

// Column by column (columns.hpp): rows from which that is faster than row by row, rows at once,
// sums of sixteen outputs that keep additions from waiting for each other, takes before sums are
// widened.
constexpr std::int64_t kRowsByColumns = 3;
constexpr int kColumnRows = 4, kColumnSums = 4;
constexpr std::int64_t kTakesOfSum = INT64_MAX;

inline I add_byte_products(I sums, I weights, std::int32_t four) {
    const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
    for (int i = 0; i < 4; ++i) {
        sums.v[i] = vdotq_s32(sums.v[i], vreinterpretq_s8_s32(weights.v[i]), x);
    }
    return sums;
}
inline I add_nibble_products(I sums, I weights, std::int32_t four) {
    return add_byte_products(sums, weights, four);
}
inline I widened(I sums) { return sums; }
inline void split_bytes(I x, I (&parts)[1]) { parts[0] = x; }

}  // namespace resq::RESQ_ISA
