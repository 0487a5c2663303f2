// Pairs of 16-bit integers in registers of AVX-512, with VNNI: see pairs_scalar.hpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "vectors_avx512.hpp"

namespace resq::RESQ_ISA {

constexpr int kPairLanes = kLanes;
constexpr int kScoreSums = 16;  // sums of sixteen scores that stay in registers, beside the keys
constexpr int kValueRows = 6;   // rows of queries whose sums of values stay in registers

using P = I;
using PairSums = I;

inline P part_of(I x, int /*i*/) { return x; }
inline I join(const P (&parts)[1]) { return parts[0]; }

inline P load_pairs(const std::int32_t* p) { return load(p); }
inline void store_pairs(std::int32_t* p, P x) { store(p, x); }
inline P repeat(std::int32_t pair) { return broadcast(pair); }

inline P subtract_words(P a, P b) { return {_mm512_sub_epi16(a.v, b.v)}; }

inline P pairs_of_words(const std::uint8_t* a, const std::uint8_t* b) {
    const auto widen = [](const std::uint8_t* p) {
        return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    };
    return {_mm512_or_si512(widen(a), _mm512_slli_epi32(widen(b), 16))};
}
inline P pairs_of_bytes(const std::uint8_t* a, const std::uint8_t* b) {
    const auto widen = [](const std::uint8_t* p) {
        return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    };
    return {_mm512_or_si512(widen(a), _mm512_slli_epi32(widen(b), 16))};
}

inline PairSums no_sums() { return {_mm512_setzero_si512()}; }
inline PairSums dot(PairSums sums, P a, P b) { return {_mm512_dpwssd_epi32(sums.v, a.v, b.v)}; }
inline P total(PairSums sums) { return sums; }
inline PairSums held(PairSums sums) {
    asm volatile("" : "+v"(sums.v));
    return sums;
}

inline void store_turns(std::int32_t* out, const P (&x)[4]) {
    const __m512i low01 = _mm512_unpacklo_epi32(x[0].v, x[1].v);
    const __m512i low23 = _mm512_unpacklo_epi32(x[2].v, x[3].v);
    const __m512i high01 = _mm512_unpackhi_epi32(x[0].v, x[1].v);
    const __m512i high23 = _mm512_unpackhi_epi32(x[2].v, x[3].v);
    const __m512i lanes[4] = {
        // i, i + 4, i + 8 and i + 12
        _mm512_unpacklo_epi64(low01, low23), _mm512_unpackhi_epi64(low01, low23),
        _mm512_unpacklo_epi64(high01, high23), _mm512_unpackhi_epi64(high01, high23)};
    const auto store_quarter = [out](int lane, __m128i four) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 4 * lane), four);
    };
    for (int i = 0; i < 4; ++i) {
        store_quarter(i, _mm512_castsi512_si128(lanes[i]));
        store_quarter(i + 4, _mm512_extracti32x4_epi32(lanes[i], 1));
        store_quarter(i + 8, _mm512_extracti32x4_epi32(lanes[i], 2));
        store_quarter(i + 12, _mm512_extracti32x4_epi32(lanes[i], 3));
    }
}

}  // namespace resq::RESQ_ISA
