// Integer dot products with AVX2.
//
// 4-bit columns: vpmaddubsw adds two products u4 · s4, at most 2 · 15 · 8 = 240, in int16; 136 such
// sums fit before they must be widened. 8-bit columns: two products u8 · s8 overflow int16, so both
// operands are words, and vpmaddwd adds two products in int32.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "bits256.hpp"
#include "lanes.hpp"
#include "resq/kernels.hpp"
#include "vectors_avx2.hpp"

namespace resq::RESQ_ISA {

constexpr int kByteElement = 2;  // bytes of an 8-bit activation in a quantised row
constexpr int kByteOffset = 0;   // what is subtracted from it
constexpr int kPanelBlocks = 1;  // blocks of sixteen outputs in a panel
constexpr int kTileRows = 6;     // 12 sums, two vectors of weights, a row, a product: 16 registers
// Rows and blocks of sixteen columns of a float product, with all sums in registers.
constexpr int kGemmRows = 6, kGemmBlocks = 1;
constexpr std::int64_t kFewRows = 4;
constexpr std::int64_t kWidenAfter = 136;

inline __m256i broadcast_dword(const std::uint8_t* p) {
    std::int32_t dword;
    std::memcpy(&dword, p, 4);
    return _mm256_set1_epi32(dword);
}

// Finishes a row's sums before the next row's products. Otherwise GCC computes the products of all
// rows first, runs out of registers, and the loop runs at a third of its speed.
inline void keep_order(__m256i& first, __m256i& second) {
    asm volatile("" : "+x"(first), "+x"(second));
}

template <int kRows>
inline void dot_nibbles(const std::uint8_t* rows, std::size_t stride, const std::uint32_t* panel,
                        std::int64_t dwords, std::int32_t* sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    std::int64_t begin = 0;
    do {
        const std::int64_t end = dwords - begin < kWidenAfter ? dwords : begin + kWidenAfter;
        __m256i narrow[kRows][2];
        for (auto& row : narrow) {
            row[0] = row[1] = _mm256_setzero_si256();
        }
        for (std::int64_t d = begin; d < end; ++d) {
            const auto* weights = reinterpret_cast<const __m256i*>(panel + d * kLanes);
            const __m256i first = _mm256_loadu_si256(weights);
            const __m256i second = _mm256_loadu_si256(weights + 1);
#pragma GCC unroll 6
            for (int r = 0; r < kRows; ++r) {
                const __m256i x =
                    broadcast_dword(rows + static_cast<std::size_t>(r) * stride + 4 * d);
                narrow[r][0] = _mm256_add_epi16(narrow[r][0], _mm256_maddubs_epi16(x, first));
                narrow[r][1] = _mm256_add_epi16(narrow[r][1], _mm256_maddubs_epi16(x, second));
                keep_order(narrow[r][0], narrow[r][1]);
            }
        }
        for (int r = 0; r < kRows; ++r) {
            auto* out = reinterpret_cast<__m256i*>(sums + r * kLanes);
            for (int half = 0; half < 2; ++half) {
                const __m256i wide = _mm256_madd_epi16(narrow[r][half], ones);
                const __m256i before =
                    begin == 0 ? _mm256_setzero_si256() : _mm256_loadu_si256(out + half);
                _mm256_storeu_si256(out + half, _mm256_add_epi32(wide, before));
            }
        }
        begin = end;
    } while (begin < dwords);
}

template <int kRows>
inline void dot_bytes(const std::uint8_t* rows, std::size_t stride, const std::uint32_t* panel,
                      std::int64_t dwords, std::int32_t* sums) {
    __m256i wide[kRows][2];
    for (auto& row : wide) {
        row[0] = row[1] = _mm256_setzero_si256();
    }
    for (std::int64_t d = 0; d < dwords; ++d) {
        const auto* weights = reinterpret_cast<const __m256i*>(panel + d * kLanes);
        const __m256i first = _mm256_loadu_si256(weights);
        const __m256i second = _mm256_loadu_si256(weights + 1);
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
            const __m256i x = broadcast_dword(rows + static_cast<std::size_t>(r) * stride + 4 * d);
            wide[r][0] = _mm256_add_epi32(wide[r][0], _mm256_madd_epi16(x, first));
            wide[r][1] = _mm256_add_epi32(wide[r][1], _mm256_madd_epi16(x, second));
            keep_order(wide[r][0], wide[r][1]);
        }
    }
    for (int r = 0; r < kRows; ++r) {
        auto* out = reinterpret_cast<__m256i*>(sums + r * kLanes);
        _mm256_storeu_si256(out, wide[r][0]);
        _mm256_storeu_si256(out + 1, wide[r][1]);
    }
}

// Column by column (columns.hpp): rows from which that is faster than row by row, rows at once,
// sums of sixteen outputs that keep additions from waiting for each other, takes before sums are
// widened.
constexpr std::int64_t kRowsByColumns = 3;
constexpr int kColumnRows = 4, kColumnSums = 1;
// A take adds to a word 8 times two products of at most 15 * 15: 9 * 8 * 450 < 32768.
constexpr std::int64_t kTakesOfSum = 9;

inline I add_nibble_products(I sums, I u8, std::int32_t s8) {
    const __m256i x = _mm256_set1_epi32(s8);
    sums = {_mm256_add_epi16(sums.a, _mm256_maddubs_epi16(u8.a, x)),
            _mm256_add_epi16(sums.b, _mm256_maddubs_epi16(u8.b, x))};
    keep_order(sums.a, sums.b);
    return sums;
}
inline I widened(I sums) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(sums.a, ones), _mm256_madd_epi16(sums.b, ones)};
}
inline I add_byte_products(I sums, I words, std::int32_t two) {
    const __m256i x = _mm256_set1_epi32(two);
    return {_mm256_add_epi32(sums.a, _mm256_madd_epi16(words.a, x)),
            _mm256_add_epi32(sums.b, _mm256_madd_epi16(words.b, x))};
}
inline void split_bytes(I x, I (&words)[2]) { widen_bytes(x, words); }

}  // namespace resq::RESQ_ISA
