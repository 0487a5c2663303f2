// 4-bit values as bytes, with SSE: what vectors_avx2.hpp and vectors_avx512.hpp share.
#pragma once

#include <immintrin.h>

namespace resq::RESQ_ISA {

// The signed value of each nibble, as a table.
inline __m128i nibble_values() {
    return _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
}

// Sixteen bytes in the order of nibble_place.
inline __m128i in_nibble_places(__m128i bytes) {
    return _mm_shuffle_epi8(bytes,
                            _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
}

}  // namespace resq::RESQ_ISA
