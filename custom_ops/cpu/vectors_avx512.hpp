// Sixteen lanes as one register of AVX-512: see vectors_scalar.hpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "lanes.hpp"
#include "nibbles_x86.hpp"

namespace resq::RESQ_ISA {

struct F {
    __m512 v;
};
struct I {
    __m512i v;
};

inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline F broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline F zero() { return {_mm512_setzero_ps()}; }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x.v); }
inline void store_half(float* p, F x) { _mm256_storeu_ps(p, _mm512_castps512_ps256(x.v)); }

inline F operator+(F x, F y) { return {_mm512_add_ps(x.v, y.v)}; }
inline F operator-(F x, F y) { return {_mm512_sub_ps(x.v, y.v)}; }
inline F operator*(F x, F y) { return {_mm512_mul_ps(x.v, y.v)}; }
inline F operator/(F x, F y) { return {_mm512_div_ps(x.v, y.v)}; }
inline F min(F x, F y) { return {_mm512_min_ps(x.v, y.v)}; }
inline F max(F x, F y) { return {_mm512_max_ps(x.v, y.v)}; }
inline F where_above(F x, F limit, F y) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_GT_OQ), y.v)};
}
inline F fma(F x, F y, F z) { return {_mm512_fmadd_ps(x.v, y.v, z.v)}; }
inline F round(F x) {
    return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

inline I load(const std::int32_t* p) { return {_mm512_loadu_si512(p)}; }
inline I broadcast(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
inline void store(std::int32_t* p, I x) { _mm512_storeu_si512(p, x.v); }
inline I operator+(I x, I y) { return {_mm512_add_epi32(x.v, y.v)}; }
inline I operator-(I x, I y) { return {_mm512_sub_epi32(x.v, y.v)}; }
inline I operator*(I x, I y) { return {_mm512_mullo_epi32(x.v, y.v)}; }
inline I operator&(I x, I y) { return {_mm512_and_si512(x.v, y.v)}; }
inline I operator^(I x, I y) { return {_mm512_xor_si512(x.v, y.v)}; }
inline I operator<<(I x, int n) { return {_mm512_slli_epi32(x.v, static_cast<unsigned>(n))}; }
inline I operator>>(I x, int n) { return {_mm512_srli_epi32(x.v, static_cast<unsigned>(n))}; }

inline F to_float(I x) { return {_mm512_cvtepi32_ps(x.v)}; }
inline I to_int(F x) { return {_mm512_cvtps_epi32(x.v)}; }
inline F as_float(I x) { return {_mm512_castsi512_ps(x.v)}; }
inline I as_int(F x) { return {_mm512_castps_si512(x.v)}; }
inline I nearest(F x) { return to_int(x); }

inline void store_bytes(std::uint8_t* p, I x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
}
inline void store_nibble_places(std::uint8_t* p, I x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), in_nibble_places(_mm512_cvtepi32_epi8(x.v)));
}
inline void store_words(std::uint16_t* p, I x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x.v));
}
inline I signed_nibbles(I x) {
    return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(nibble_values()),
                                _mm512_and_si512(x.v, _mm512_set1_epi8(15)))};
}

inline F load(const std::uint16_t* half) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(half)))};
}
inline void store(std::uint16_t* half, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(half),
                        _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline float sum(F x) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
    __m128 r = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    r = _mm_add_ps(r, _mm_movehl_ps(r, r));
    return _mm_cvtss_f32(_mm_add_ps(r, _mm_shuffle_ps(r, r, 1)));
}
inline float least(F x) { return _mm512_reduce_min_ps(x.v); }
inline float greatest(F x) { return _mm512_reduce_max_ps(x.v); }

inline std::int32_t sum(I x) { return _mm512_reduce_add_epi32(x.v); }

__attribute__((always_inline)) inline void transpose_dwords(const void* rows, std::int64_t stride,
                                                            I columns[4]) {
    const std::uint8_t* quarters[4];
    for (int quarter = 0; quarter < 4; ++quarter) {
        quarters[quarter] = static_cast<const std::uint8_t*>(rows) + 4 * quarter * stride;
        // Four addresses and multiples of the stride; otherwise GCC keeps sixteen on the stack.
        asm("" : "+r"(quarters[quarter]));
    }
    __m512i row[4];  // rows i, i + 4, i + 8 and i + 12, side by side
    for (int i = 0; i < 4; ++i) {
        const auto part = [&](int quarter) {
            return _mm_loadu_si128(
                reinterpret_cast<const __m128i*>(quarters[quarter] + i * stride));
        };
        __m512i all = _mm512_castsi128_si512(part(0));
        all = _mm512_inserti32x4(all, part(1), 1);
        all = _mm512_inserti32x4(all, part(2), 2);
        row[i] = _mm512_inserti32x4(all, part(3), 3);
    }
    const __m512i low01 = _mm512_unpacklo_epi32(row[0], row[1]);
    const __m512i low23 = _mm512_unpacklo_epi32(row[2], row[3]);
    const __m512i high01 = _mm512_unpackhi_epi32(row[0], row[1]);
    const __m512i high23 = _mm512_unpackhi_epi32(row[2], row[3]);
    columns[0] = {_mm512_unpacklo_epi64(low01, low23)};
    columns[1] = {_mm512_unpackhi_epi64(low01, low23)};
    columns[2] = {_mm512_unpacklo_epi64(high01, high23)};
    columns[3] = {_mm512_unpackhi_epi64(high01, high23)};
}

inline __mmask16 first_lanes(std::int64_t count) {
    return static_cast<__mmask16>((1u << count) - 1u);
}
inline F load_first(const float* p, std::int64_t count) {
    return count >= kLanes ? load(p) : F{_mm512_maskz_loadu_ps(first_lanes(count), p)};
}
inline void store_first(float* p, F x, std::int64_t count) {
    if (count >= kLanes) {
        return store(p, x);
    }
    _mm512_mask_storeu_ps(p, first_lanes(count), x.v);
}

}  // namespace resq::RESQ_ISA
