// Sixteen lanes as two registers of AVX2, with FMA and F16C: see vectors_scalar.hpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "lanes.hpp"
#include "nibbles_x86.hpp"

namespace resq::RESQ_ISA {

struct F {
    __m256 a, b;
};
struct I {
    __m256i a, b;
};

inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline F broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline void store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline void store_half(float* p, F x) { _mm256_storeu_ps(p, x.a); }

inline F operator+(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F operator-(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F operator*(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F operator/(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F where_above(F x, F limit, F y) {
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_GT_OQ), y.a),
            _mm256_and_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_GT_OQ), y.b)};
}
inline F fma(F x, F y, F z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F round(F x) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, kNearest), _mm256_round_ps(x.b, kNearest)};
}

inline I load(const std::int32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
inline I broadcast(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline void store(std::int32_t* p, I x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
inline I operator+(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline I operator-(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
inline I operator*(I x, I y) {
    return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)};
}
inline I operator&(I x, I y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
inline I operator^(I x, I y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
inline I operator<<(I x, int n) { return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)}; }
inline I operator>>(I x, int n) { return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)}; }

inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I to_int(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline F as_float(I x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline I as_int(F x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
inline I nearest(F x) { return to_int(x); }

// The low 16 bits of every lane, in order.
inline __m256i words_of(I x) {
    const __m256i mask = _mm256_set1_epi32(0xFFFF);
    const __m256i packed =
        _mm256_packus_epi32(_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask));
    return _mm256_permute4x64_epi64(packed, 0xD8);
}
inline void store_words(std::uint16_t* p, I x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), words_of(x));
}
inline __m128i bytes_of(I x) {
    const __m256i words = _mm256_and_si256(words_of(x), _mm256_set1_epi16(0xFF));
    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}
inline void store_bytes(std::uint8_t* p, I x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes_of(x));
}
inline void store_nibble_places(std::uint8_t* p, I x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), in_nibble_places(bytes_of(x)));
}
inline I signed_nibbles(I x) {
    const __m256i values = _mm256_broadcastsi128_si256(nibble_values());
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_shuffle_epi8(values, _mm256_and_si256(x.a, mask)),
            _mm256_shuffle_epi8(values, _mm256_and_si256(x.b, mask))};
}
#define RESQ_HAS_WIDEN
inline void widen_bytes(I x, I words[2]) {
    for (int i = 0; i < 2; ++i) {  // each byte to the upper half of a word, then down
        const int two = 2 * i;
        const __m256i source = _mm256_broadcastsi128_si256(
            _mm_add_epi8(_mm_setr_epi8(-8, 0, -8, 1, -8, 4, -8, 5, -8, 8, -8, 9, -8, 12, -8, 13),
                         _mm_set1_epi8(static_cast<char>(two))));
        words[i] = {_mm256_srai_epi16(_mm256_shuffle_epi8(x.a, source), 8),
                    _mm256_srai_epi16(_mm256_shuffle_epi8(x.b, source), 8)};
    }
}

inline F load(const std::uint16_t* half) {
    const auto* p = reinterpret_cast<const __m128i*>(half);
    return {_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p + 1))};
}
inline void store(std::uint16_t* half, F x) {
    auto* p = reinterpret_cast<__m128i*>(half);
    _mm_storeu_si128(p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(p + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}

inline __m128 halves(__m256 x, __m128 (*combine)(__m128, __m128)) {
    __m128 r = combine(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    r = combine(r, _mm_movehl_ps(r, r));
    return combine(r, _mm_shuffle_ps(r, r, 1));
}
inline float sum(F x) {
    return _mm_cvtss_f32(
        halves(_mm256_add_ps(x.a, x.b), [](__m128 a, __m128 b) { return _mm_add_ps(a, b); }));
}
inline float least(F x) {
    return _mm_cvtss_f32(
        halves(_mm256_min_ps(x.a, x.b), [](__m128 a, __m128 b) { return _mm_min_ps(a, b); }));
}
inline float greatest(F x) {
    return _mm_cvtss_f32(
        halves(_mm256_max_ps(x.a, x.b), [](__m128 a, __m128 b) { return _mm_max_ps(a, b); }));
}

inline std::int32_t sum(I x) {
    const __m256i eight = _mm256_add_epi32(x.a, x.b);
    __m128i r = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    r = _mm_add_epi32(r, _mm_unpackhi_epi64(r, r));
    return _mm_cvtsi128_si32(_mm_add_epi32(r, _mm_shuffle_epi32(r, 1)));
}

__attribute__((always_inline)) inline void transpose_dwords(const void* rows, std::int64_t stride,
                                                            I columns[4]) {
    const auto* base = static_cast<const std::uint8_t*>(rows);
    __m256i out[2][4];
    for (int half = 0; half < 2; ++half) {
        __m256i row[4];  // row i and row i + 4, side by side
        for (int i = 0; i < 4; ++i) {
            const std::uint8_t* p = base + (8 * half + i) * stride;
            row[i] = _mm256_inserti128_si256(
                _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
                _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 4 * stride)), 1);
        }
        const __m256i low01 = _mm256_unpacklo_epi32(row[0], row[1]);
        const __m256i low23 = _mm256_unpacklo_epi32(row[2], row[3]);
        const __m256i high01 = _mm256_unpackhi_epi32(row[0], row[1]);
        const __m256i high23 = _mm256_unpackhi_epi32(row[2], row[3]);
        out[half][0] = _mm256_unpacklo_epi64(low01, low23);
        out[half][1] = _mm256_unpackhi_epi64(low01, low23);
        out[half][2] = _mm256_unpacklo_epi64(high01, high23);
        out[half][3] = _mm256_unpackhi_epi64(high01, high23);
    }
    for (int j = 0; j < 4; ++j) {
        columns[j] = {out[0][j], out[1][j]};
    }
}

// All bits of the lanes below `count`, among lanes `first` to `first + 8`.
inline __m256i first_lanes(std::int64_t count, int first) {
    const __m256i lane =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<std::int32_t>(count)), lane);
}
inline F load_first(const float* p, std::int64_t count) {
    return count >= kLanes ? load(p)
                           : F{_mm256_maskload_ps(p, first_lanes(count, 0)),
                               _mm256_maskload_ps(p + 8, first_lanes(count, 8))};
}
inline void store_first(float* p, F x, std::int64_t count) {
    if (count >= kLanes) {
        return store(p, x);
    }
    _mm256_maskstore_ps(p, first_lanes(count, 0), x.a);
    _mm256_maskstore_ps(p + 8, first_lanes(count, 8), x.b);
}

}  // namespace resq::RESQ_ISA
