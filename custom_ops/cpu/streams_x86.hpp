// Streaming weights with AVX2, or with vpdpbusd if the dots_*.hpp before it has that
// (RESQ_HAS_DOT4).
//
// A register of weights is 32 bytes (Bits, of bits256.hpp), and 4-bit weights are two a byte. With
// its sign bit flipped, a nibble is w + 8, unsigned, and q - z is signed: Σ (w + 8) (q - z) = Σ w
// (q - z) + 8 Σ (q - z), where the last sum is known.
//
// A prepared 4-bit segment: Σ (q - z), then for each register of weights the differences for the
// low nibbles and those for the high ones. A prepared 8-bit segment with vpdpbusd: for each
// register, the integers q and as many ones (zeros after the end), with which the weights are
// summed, too. Without: for each half register, widened, the differences as words.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "bits256.hpp"
#include "lanes.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

constexpr std::int64_t kVector = sizeof(Bits);
constexpr std::int64_t kHeader = kVector;  // holds the sum and keeps vectors aligned
constexpr int kAtOnce = 4;                 // weight rows with sums in registers at the same time

// How far ahead weights are prefetched, in bytes: a page, as the CPU's own prefetchers stop at the
// end of one. Weights from main memory then arrive 1.3 to 1.4 times as fast.
constexpr std::int64_t kPrefetchDistance = 4096;

#ifdef RESQ_HAS_DOT4
constexpr std::int64_t kByteStep = kVector;  // 8-bit weights of a step
constexpr std::int64_t kPreparedStep = 2 * kVector;
#else
constexpr std::int64_t kByteStep = kVector / 2;
constexpr std::int64_t kPreparedStep = kVector;
// A step adds twice two products of at most 15 · 15: 900 · 36 < 32768.
constexpr std::int64_t kWidenStreamAfter = 36;
#endif

inline std::int64_t nibble_steps(const Part& part) {
    return (part.width / 2 + kVector - 1) / kVector;
}
inline std::int64_t byte_steps(const Part& part) {
    return (part.width + kByteStep - 1) / kByteStep;
}

inline std::int64_t prepared_bytes(const Part& part) {
    return part.bits == 4 ? kHeader + nibble_steps(part) * 2 * kVector
                          : byte_steps(part) * kPreparedStep;
}

inline void prepare_nibbles(const Part& part, const std::uint8_t* integers, std::int32_t zero_point,
                            std::uint8_t* out) {
    std::int32_t total = 0;
    std::uint8_t* vectors = out + kHeader;
    std::memset(vectors, 0, static_cast<std::size_t>(nibble_steps(part) * 2 * kVector));
    for (std::int64_t k = 0; k < part.width; k += 8) {
        const std::int64_t left = (part.width - k) / 2, pairs = left < 4 ? left : 4;
        std::uint8_t* even = vectors + k / (2 * kVector) * 2 * kVector + k % (2 * kVector) / 2;
        for (std::int64_t i = 0; i < pairs; ++i) {
            even[i] = static_cast<std::uint8_t>(integers[k + i] - zero_point);
            even[kVector + i] = static_cast<std::uint8_t>(integers[k + 4 + i] - zero_point);
            total += integers[k + i] + integers[k + 4 + i] - 2 * zero_point;
        }
    }
    std::memcpy(out, &total, sizeof total);
}

inline void prepare_segment(const Part& part, const std::uint8_t* integers, std::int32_t zero_point,
                            std::uint8_t* out) {
    if (part.bits == 4) {
        return prepare_nibbles(part, integers, zero_point, out);
    }
    std::memset(out, 0, static_cast<std::size_t>(prepared_bytes(part)));
#ifdef RESQ_HAS_DOT4
    for (std::int64_t k = 0; k < part.width; ++k) {
        std::uint8_t* step = out + k / kByteStep * kPreparedStep;
        step[k % kByteStep] = integers[k];
        step[kByteStep + k % kByteStep] = 1;
    }
#else
    const auto* words = reinterpret_cast<const std::uint16_t*>(integers);
    for (std::int64_t k = 0; k < part.width; ++k) {
        reinterpret_cast<std::int16_t*>(out + k / kByteStep * kPreparedStep)[k % kByteStep] =
            static_cast<std::int16_t>(words[k] - zero_point);
    }
#endif
}

// Adds the 4-bit products of one weight row with kRows rows to `sums`, for some registers. Low and
// high nibbles have separate sums, so that one addition does not wait for the other.
template <int kRows>
inline void add_nibbles(const std::uint8_t* weights, const std::uint8_t* vectors,
                        std::int64_t prepared_stride, std::int64_t steps, Bits sums[kRows]) {
    const Bits mask = every_byte(0x0F), signs = every_byte(0x88);
    Bits odd[kRows];
    for (Bits& one : odd) {
        one = zero_bits();
    }
    for (std::int64_t step = 0; step < steps; ++step) {
        __builtin_prefetch(weights + step * kVector + kPrefetchDistance);
        const Bits packed = bits_xor(load_bits(weights + step * kVector), signs);
        const Bits low = bits_and(packed, mask);
        const Bits high = bits_and(shift_nibble(packed), mask);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
            const std::uint8_t* x = vectors + r * prepared_stride + step * 2 * kVector;
#ifdef RESQ_HAS_DOT4
            sums[r] = dot4(sums[r], low, load_bits(x));
            odd[r] = dot4(odd[r], high, load_bits(x + kVector));
#else
            sums[r] = _mm256_add_epi16(sums[r], _mm256_maddubs_epi16(low, load_bits(x)));
            odd[r] = _mm256_add_epi16(odd[r], _mm256_maddubs_epi16(high, load_bits(x + kVector)));
#endif
        }
    }
    for (int r = 0; r < kRows; ++r) {
#ifdef RESQ_HAS_DOT4
        sums[r] = add_dwords(sums[r], odd[r]);
#else
        sums[r] = _mm256_add_epi16(sums[r], odd[r]);
#endif
    }
}

template <int kRows>
inline void stream_nibbles(const Part& part, const std::uint8_t* weights, std::int64_t stride,
                           const std::uint8_t* prepared, std::int64_t prepared_stride,
                           const std::int32_t* /*zeros*/, std::int32_t* sums) {
    const std::uint8_t* vectors = prepared + kHeader;
    const std::int64_t steps = nibble_steps(part);
    for (int block = 0; block < kLanes; block += kAtOnce) {
        Bits wide[kAtOnce][kRows];
#pragma GCC unroll 4
        for (int i = 0; i < kAtOnce; ++i) {
            const std::uint8_t* row = weights + (block + i) * stride;
            for (Bits& one : wide[i]) {
                one = zero_bits();
            }
#ifdef RESQ_HAS_DOT4
            add_nibbles<kRows>(row, vectors, prepared_stride, steps, wide[i]);
#else
            for (std::int64_t begin = 0; begin < steps; begin += kWidenStreamAfter) {
                const std::int64_t left = steps - begin;
                Bits narrow[kRows];
                for (Bits& one : narrow) {
                    one = zero_bits();
                }
                add_nibbles<kRows>(row + begin * kVector, vectors + begin * 2 * kVector,
                                   prepared_stride,
                                   left < kWidenStreamAfter ? left : kWidenStreamAfter, narrow);
                for (int r = 0; r < kRows; ++r) {
                    wide[i][r] =
                        add_dwords(wide[i][r], _mm256_madd_epi16(narrow[r], _mm256_set1_epi16(1)));
                }
            }
#endif
        }
        for (int r = 0; r < kRows; ++r) {
            std::int32_t total;
            std::memcpy(&total, prepared + r * prepared_stride, sizeof total);
            const __m128i four = reduce(wide[0][r], wide[1][r], wide[2][r], wide[3][r]);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + r * kLanes + block),
                             _mm_sub_epi32(four, _mm_set1_epi32(8 * total)));
        }
    }
}

template <int kRows>
inline void stream_bytes(const Part& part, const std::uint8_t* weights, std::int64_t stride,
                         const std::uint8_t* prepared, std::int64_t prepared_stride,
                         [[maybe_unused]] const std::int32_t* zeros, std::int32_t* sums) {
    const std::int64_t steps = byte_steps(part);
    for (int block = 0; block < kLanes; block += kAtOnce) {
        Bits wide[kAtOnce][kRows];
        [[maybe_unused]] Bits own[kAtOnce];
#pragma GCC unroll 4
        for (int i = 0; i < kAtOnce; ++i) {
            const std::uint8_t* row = weights + (block + i) * stride;
            own[i] = zero_bits();
            for (Bits& one : wide[i]) {
                one = zero_bits();
            }
            for (std::int64_t step = 0; step < steps; ++step) {
                const std::uint8_t* x = prepared + step * kPreparedStep;
                __builtin_prefetch(row + step * kByteStep + kPrefetchDistance);
#ifdef RESQ_HAS_DOT4
                const Bits w = load_bits(row + step * kByteStep);
                own[i] = dot4(own[i], load_bits(x + kByteStep), w);
#pragma GCC unroll 4
                for (int r = 0; r < kRows; ++r) {
                    wide[i][r] = dot4(wide[i][r], load_bits(x + r * prepared_stride), w);
                }
#else
                const Bits w = _mm256_cvtepi8_epi16(
                    _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + step * kByteStep)));
#pragma GCC unroll 4
                for (int r = 0; r < kRows; ++r) {
                    wide[i][r] = add_dwords(
                        wide[i][r], _mm256_madd_epi16(w, load_bits(x + r * prepared_stride)));
                }
#endif
            }
        }
        for (int r = 0; r < kRows; ++r) {
            __m128i four = reduce(wide[0][r], wide[1][r], wide[2][r], wide[3][r]);
#ifdef RESQ_HAS_DOT4
            const __m128i weights_alone = reduce(own[0], own[1], own[2], own[3]);
            four = _mm_sub_epi32(four, _mm_mullo_epi32(weights_alone, _mm_set1_epi32(zeros[r])));
#endif
            _mm_storeu_si128(reinterpret_cast<__m128i*>(sums + r * kLanes + block), four);
        }
    }
}

}  // namespace resq::RESQ_ISA
