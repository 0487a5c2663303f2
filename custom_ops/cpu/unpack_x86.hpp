// Signed 4-bit values to bytes with SSE2: replaces the plain C++ in partial.hpp.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace resq::RESQ_ISA {

#define RESQ_HAS_UNPACK
inline void unpack_signed(const std::uint8_t* packed, std::int8_t* out) {
    const __m128i mask = _mm_set1_epi8(15), sign = _mm_set1_epi8(8);
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(packed));
    const auto widen = [&](__m128i nibbles) {
        return _mm_sub_epi8(_mm_xor_si128(_mm_and_si128(nibbles, mask), sign), sign);
    };
    const __m128i even = widen(bytes), odd = widen(_mm_srli_epi16(bytes, 4));
    auto* p = reinterpret_cast<__m128i*>(out);
    _mm_storeu_si128(p, _mm_unpacklo_epi8(even, odd));
    _mm_storeu_si128(p + 1, _mm_unpackhi_epi8(even, odd));
}

}  // namespace resq::RESQ_ISA
