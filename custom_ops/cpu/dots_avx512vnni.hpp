// Integer dot products with AVX-512-VNNI: vpdpbusd adds four products u8 · s8 to an int32, exactly.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "bits256.hpp"
#include "lanes.hpp"
#include "resq/kernels.hpp"
#include "vectors_avx512.hpp"

namespace resq::RESQ_ISA {

constexpr int kByteElement = 1;  // bytes of an 8-bit activation in a quantised row
constexpr int kByteOffset = 0;   // what is subtracted from it
constexpr int kPanelBlocks = 4;  // blocks of sixteen outputs in a panel
constexpr int kTileRows = 6;     // 24 sums, four vectors of weights and a row: 29 registers
// Rows and blocks of sixteen columns of a float product, with all sums in registers.
constexpr int kGemmRows = 6, kGemmBlocks = 4;
constexpr std::int64_t kFewRows = 4;

#define RESQ_HAS_DOT4
inline Bits dot4(Bits sums, Bits u8, Bits s8) { return _mm256_dpbusd_epi32(sums, u8, s8); }

// Finishes a row's sums before the next row's; otherwise the compiler may run out of registers.
inline void keep_order(__m512i (&row)[kPanelBlocks]) {
    asm volatile("" : "+v"(row[0]), "+v"(row[1]), "+v"(row[2]), "+v"(row[3]));
}

template <int kRows>
inline void dot_bytes(const std::uint8_t* rows, std::size_t stride, const std::uint32_t* panel,
                      std::int64_t dwords, std::int32_t* sums) {
    __m512i wide[kRows][kPanelBlocks];
    for (auto& row : wide) {
        for (auto& block : row) {
            block = _mm512_setzero_si512();
        }
    }
    for (std::int64_t d = 0; d < dwords; ++d) {
        __m512i weights[kPanelBlocks];
        for (int b = 0; b < kPanelBlocks; ++b) {
            weights[b] = _mm512_loadu_si512(panel + d * kPanelBlocks * kLanes + b * kLanes);
        }
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
            std::int32_t dword;
            std::memcpy(&dword, rows + static_cast<std::size_t>(r) * stride + 4 * d, 4);
            const __m512i x = _mm512_set1_epi32(dword);
#pragma GCC unroll 4
            for (int b = 0; b < kPanelBlocks; ++b) {
                wide[r][b] = _mm512_dpbusd_epi32(wide[r][b], x, weights[b]);
            }
            keep_order(wide[r]);
        }
    }
    for (int r = 0; r < kRows; ++r) {
        for (int b = 0; b < kPanelBlocks; ++b) {
            _mm512_storeu_si512(sums + (r * kPanelBlocks + b) * kLanes, wide[r][b]);
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
constexpr std::int64_t kRowsByColumns = 1;
constexpr int kColumnRows = 8, kColumnSums = 16;
constexpr std::int64_t kTakesOfSum = INT64_MAX;

inline I add_nibble_products(I sums, I u8, std::int32_t s8) {
    return {_mm512_dpbusd_epi32(sums.v, u8.v, _mm512_set1_epi32(s8))};
}
inline I widened(I sums) { return sums; }
inline I add_byte_products(I sums, I s8, std::int32_t u8) {
    return {_mm512_dpbusd_epi32(sums.v, _mm512_set1_epi32(u8), s8.v)};
}
inline void split_bytes(I x, I (&parts)[1]) { parts[0] = x; }

}  // namespace resq::RESQ_ISA
