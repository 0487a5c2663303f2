// Integer dot products with AVX-VNNI: vpdpbusd adds four products u8 · s8 to an int32, exactly.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "bits256.hpp"
#include "lanes.hpp"
#include "resq/kernels.hpp"
#include "vectors_avx2.hpp"

namespace resq::RESQ_ISA {

constexpr int kByteElement = 1;  // bytes of an 8-bit activation in a quantised row
constexpr int kByteOffset = 0;   // what is subtracted from it
constexpr int kPanelBlocks = 1;  // blocks of sixteen outputs in a panel
constexpr int kTileRows = 6;     // 12 sums, two vectors of weights and a row: 15 registers
// Rows and blocks of sixteen columns of a float product, with all sums in registers.
constexpr int kGemmRows = 6, kGemmBlocks = 1;
constexpr std::int64_t kFewRows = 4;

#define RESQ_HAS_DOT4
inline Bits dot4(Bits sums, Bits u8, Bits s8) {
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(sums, u8, s8);
#else  // the same instruction in AVX-512's encoding, with which these kernels can be tested, too
    return _mm256_dpbusd_epi32(sums, u8, s8);
#endif
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
            std::int32_t dword;
            std::memcpy(&dword, rows + static_cast<std::size_t>(r) * stride + 4 * d, 4);
            const __m256i x = _mm256_set1_epi32(dword);
            wide[r][0] = dot4(wide[r][0], x, first);
            wide[r][1] = dot4(wide[r][1], x, second);
            // Finishes a row's sums before the next row's, or registers may run out.
            asm volatile("" : "+x"(wide[r][0]), "+x"(wide[r][1]));
        }
    }
    for (int r = 0; r < kRows; ++r) {
        auto* out = reinterpret_cast<__m256i*>(sums + r * kLanes);
        _mm256_storeu_si256(out, wide[r][0]);
        _mm256_storeu_si256(out + 1, wide[r][1]);
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
constexpr int kColumnRows = 4, kColumnSums = 4;
constexpr std::int64_t kTakesOfSum = INT64_MAX;

inline I add_nibble_products(I sums, I u8, std::int32_t s8) {
    const __m256i x = _mm256_set1_epi32(s8);
    return {dot4(sums.a, u8.a, x), dot4(sums.b, u8.b, x)};
}
inline I widened(I sums) { return sums; }
inline I add_byte_products(I sums, I s8, std::int32_t u8) {
    const __m256i x = _mm256_set1_epi32(u8);
    return {dot4(sums.a, x, s8.a), dot4(sums.b, x, s8.b)};
}
inline void split_bytes(I x, I (&parts)[1]) { parts[0] = x; }

}  // namespace resq::RESQ_ISA
