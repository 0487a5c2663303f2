// 256-bit registers for streams_x86.hpp. With 512 bits it was not faster: memory is the bottleneck,
// and the groups of o_proj are 28 bytes long.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace resq::RESQ_ISA {

using Bits = __m256i;

inline Bits load_bits(const std::uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const Bits*>(p));
}
inline Bits zero_bits() { return _mm256_setzero_si256(); }
inline Bits every_byte(int byte) { return _mm256_set1_epi8(static_cast<char>(byte)); }
inline Bits bits_and(Bits a, Bits b) { return _mm256_and_si256(a, b); }
inline Bits bits_xor(Bits a, Bits b) { return _mm256_xor_si256(a, b); }
inline Bits shift_nibble(Bits a) { return _mm256_srli_epi16(a, 4); }
inline Bits add_dwords(Bits a, Bits b) { return _mm256_add_epi32(a, b); }

// The sum over the dwords of each of four registers.
inline __m128i reduce(Bits a, Bits b, Bits c, Bits d) {
    const Bits both = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    return _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
}

}  // namespace resq::RESQ_ISA
