// Streaming weights without vector instructions: the reference for streams_x86.hpp and _neon.hpp.
#pragma once

#include "lanes.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

// A prepared segment holds the int32 differences q - z of its columns.
inline std::int64_t prepared_bytes(const Part& part) { return part.width * 4; }

inline void prepare_segment(const Part& part, const std::uint8_t* integers, std::int32_t zero_point,
                            std::uint8_t* out) {
    for (std::int64_t k = 0; k < part.width; ++k) {
        const std::int64_t place = part.bits == 4 ? nibble_place(k) : k;
        reinterpret_cast<std::int32_t*>(out)[k] = integers[place] - zero_point;
    }
}

// sums[r][i] = Σ (q - z) of row r · weight i, over a segment; weights (16, stride) in bytes.
template <int kRows, typename Weight>
inline void stream_columns(const Part& part, const std::uint8_t* prepared,
                           std::int64_t prepared_stride, std::int32_t* sums, Weight weight) {
    for (int r = 0; r < kRows; ++r) {
        const auto* x = reinterpret_cast<const std::int32_t*>(prepared + r * prepared_stride);
        for (int i = 0; i < kLanes; ++i) {
            std::int32_t total = 0;
            for (std::int64_t k = 0; k < part.width; ++k) {
                total += x[k] * weight(i, k);
            }
            sums[r * kLanes + i] = total;
        }
    }
}

template <int kRows>
inline void stream_nibbles(const Part& part, const std::uint8_t* weights, std::int64_t stride,
                           const std::uint8_t* prepared, std::int64_t prepared_stride,
                           const std::int32_t* /*zeros*/, std::int32_t* sums) {
    stream_columns<kRows>(part, prepared, prepared_stride, sums, [&](int i, std::int64_t k) {
        return (((weights[i * stride + k / 2] >> (k % 2 * 4)) & 15) ^ 8) - 8;
    });
}

template <int kRows>
inline void stream_bytes(const Part& part, const std::uint8_t* weights, std::int64_t stride,
                         const std::uint8_t* prepared, std::int64_t prepared_stride,
                         const std::int32_t* /*zeros*/, std::int32_t* sums) {
    stream_columns<kRows>(part, prepared, prepared_stride, sums, [&](int i, std::int64_t k) {
        return static_cast<std::int8_t>(weights[i * stride + k]);
    });
}

}  // namespace resq::RESQ_ISA
