// Integer dot products without vector instructions: the reference for the other dots_*.hpp.
#pragma once

#include <cstring>

#include "lanes.hpp"
#include "resq/kernels.hpp"
#include "vectors_scalar.hpp"

namespace resq::RESQ_ISA {

constexpr int kByteElement = 1;  // bytes of an 8-bit activation in a quantised row
constexpr int kByteOffset = 0;   // what is subtracted from it
constexpr int kPanelBlocks = 1;  // blocks of sixteen outputs in a panel
constexpr int kTileRows = 4;
// Rows and blocks of sixteen columns of a float product, with all sums in registers.
constexpr int kGemmRows = 1, kGemmBlocks = 1;
constexpr std::int64_t kFewRows = 2;

// sums[r][i] = Σ rows[r][k] · weight of output i at k, with 4 columns per dword.
template <int kRows>
inline void dot_bytes(const std::uint8_t* rows, std::size_t stride, const std::uint32_t* panel,
                      std::int64_t dwords, std::int32_t* sums) {
    for (int r = 0; r < kRows; ++r) {
        for (int i = 0; i < kLanes; ++i) {
            std::int32_t total = 0;
            for (std::int64_t d = 0; d < dwords; ++d) {
                std::int8_t weights[4];
                std::memcpy(weights, panel + d * kLanes + i, 4);
                for (int j = 0; j < 4; ++j) {
                    total += rows[static_cast<std::size_t>(r) * stride +
                                  static_cast<std::size_t>(4 * d + j)] *
                             weights[j];
                }
            }
            sums[r * kLanes + i] = total;
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
constexpr std::int64_t kRowsByColumns = 2;
constexpr int kColumnRows = 2, kColumnSums = 2;
constexpr std::int64_t kTakesOfSum = INT64_MAX;

// Adds four products in each lane of bytes U of weights and the bytes X of a row.
template <typename U, typename X>
inline I add_four_products(I sums, I weights, std::int32_t four) {
    X x[4];
    std::memcpy(x, &four, sizeof x);
    for (int i = 0; i < kLanes; ++i) {
        U w[4];
        std::memcpy(w, weights.lane + i, sizeof w);
        for (int j = 0; j < 4; ++j) {
            sums.lane[i] += w[j] * x[j];
        }
    }
    return sums;
}
// Of weights w + 8 and differences q - z.
inline I add_nibble_products(I sums, I u8, std::int32_t s8) {
    return add_four_products<std::uint8_t, std::int8_t>(sums, u8, s8);
}
// Turns such sums into 32-bit integers, where they are not yet.
inline I widened(I sums) { return sums; }
// Of weights and integers q.
inline I add_byte_products(I sums, I s8, std::int32_t u8) {
    return add_four_products<std::int8_t, std::uint8_t>(sums, s8, u8);
}
// Weights in as many bytes as the row's integers.
inline void split_bytes(I x, I (&parts)[1]) { parts[0] = x; }

}  // namespace resq::RESQ_ISA
