// Pairs of 16-bit integers in registers of AVX2: see pairs_scalar.hpp. With the dots_*.hpp of
// AVX-VNNI before it (RESQ_HAS_DOT4), one instruction multiplies and adds.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "vectors_avx2.hpp"

namespace resq::RESQ_ISA {

constexpr int kPairLanes = 8;
constexpr int kScoreSums = 4;  // sums of sixteen scores that stay in registers, beside the keys
constexpr int kValueRows = 3;  // rows of queries whose sums of values stay in registers

struct P {
    __m256i v;
};
using PairSums = P;

inline P part_of(I x, int i) { return {i == 0 ? x.a : x.b}; }
inline I join(const P (&parts)[2]) { return {parts[0].v, parts[1].v}; }

inline P load_pairs(const std::int32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
inline void store_pairs(std::int32_t* p, P x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.v);
}
inline P repeat(std::int32_t pair) { return {_mm256_set1_epi32(pair)}; }

inline P operator&(P a, P b) { return {_mm256_and_si256(a.v, b.v)}; }
inline P operator>>(P a, int n) { return {_mm256_srli_epi32(a.v, n)}; }
inline P subtract_words(P a, P b) { return {_mm256_sub_epi16(a.v, b.v)}; }

inline P pairs_of_words(const std::uint8_t* a, const std::uint8_t* b) {
    const auto widen = [](const std::uint8_t* p) {
        return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    };
    return {_mm256_or_si256(widen(a), _mm256_slli_epi32(widen(b), 16))};
}
inline P pairs_of_bytes(const std::uint8_t* a, const std::uint8_t* b) {
    const auto eight = [](const std::uint8_t* p) {
        return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    };
    return {_mm256_cvtepu8_epi16(_mm_unpacklo_epi8(eight(a), eight(b)))};
}

inline PairSums no_sums() { return {_mm256_setzero_si256()}; }
inline PairSums dot(PairSums sums, P a, P b) {
#ifndef RESQ_HAS_DOT4
    return {_mm256_add_epi32(sums.v, _mm256_madd_epi16(a.v, b.v))};
#elif defined(__AVXVNNI__)
    return {_mm256_dpwssd_avx_epi32(sums.v, a.v, b.v)};
#else  // the same instruction in AVX-512's encoding
    return {_mm256_dpwssd_epi32(sums.v, a.v, b.v)};
#endif
}
inline P total(PairSums sums) { return sums; }
inline PairSums held(PairSums sums) {
    asm volatile("" : "+x"(sums.v));
    return sums;
}

inline void store_turns(std::int32_t* out, const P (&x)[4]) {
    const __m256i low01 = _mm256_unpacklo_epi32(x[0].v, x[1].v);
    const __m256i low23 = _mm256_unpacklo_epi32(x[2].v, x[3].v);
    const __m256i high01 = _mm256_unpackhi_epi32(x[0].v, x[1].v);
    const __m256i high23 = _mm256_unpackhi_epi32(x[2].v, x[3].v);
    const __m256i lanes[4] = {
        // i and i + 4
        _mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
        _mm256_unpacklo_epi64(high01, high23), _mm256_unpackhi_epi64(high01, high23)};
    for (int i = 0; i < 2; ++i) {
        const __m256i one = lanes[2 * i], other = lanes[2 * i + 1];
        store_pairs(out + 8 * i, {_mm256_permute2x128_si256(one, other, 0x20)});
        store_pairs(out + 16 + 8 * i, {_mm256_permute2x128_si256(one, other, 0x31)});
    }
}

}  // namespace resq::RESQ_ISA
