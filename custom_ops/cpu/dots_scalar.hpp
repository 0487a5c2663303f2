// Integer dot products without vector instructions: the reference for the other dots_*.hpp.
#pragma once

#include <cstring>

#include "lanes.hpp"
#include "resq/kernels.hpp"

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

}  // namespace resq::RESQ_ISA
