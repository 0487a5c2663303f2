// Cache records: encodes one key or value, and reads coefficients (resq/attention.hpp).
#pragma once

#include "quantiser.cuh"

namespace resq::cuda {

// Score of a slot that is not seen, and greatest score if none is.
constexpr float kUnseen = -3.40282347e38f;

// A positive scale, rounded up to a bfloat16.
__device__ __forceinline__ float round_up_to_bfloat16(float scale) {
    return float_of((bits_of(scale) + 0xFFFFu) & 0xFFFF0000u);
}

// A warp writes one part of x (rank) to its place in a record.
__device__ inline void encode_part(const float* x, const RecordPart& part, std::uint8_t* record) {
    const float top = top_of(part.bits);
    float smallest = 0.0f, largest = 0.0f;
    for (std::int64_t k = lane_index(); k < part.rank; k += kWarp) {
        smallest = fminf(x[k], smallest);
        largest = fmaxf(x[k], largest);
    }
    smallest = least_of_warp(smallest);
    largest = greatest_of_warp(largest);
    const float scale = round_up_to_bfloat16(scale_of(smallest, largest, top));
    const Quantiser quantiser = Quantiser::of(smallest, scale, top);
    const auto integer = [&](std::int64_t k) { return quantiser(x[k]); };
    const std::int64_t bytes = part.rank * part.bits / 8;
    for (std::int64_t i = lane_index(); i < bytes; i += kWarp) {
        const int value = part.bits == 8 ? integer(i) : integer(2 * i) | integer(2 * i + 1) << 4;
        record[part.values + i] = static_cast<std::uint8_t>(value);
    }
    if (lane_index() == 0) {
        record[part.scale] = static_cast<std::uint8_t>(bits_of(scale) >> 16);
        record[part.scale + 1] = static_cast<std::uint8_t>(bits_of(scale) >> 24);
        record[part.zero] = static_cast<std::uint8_t>(quantiser.zero_point());
    }
}

__device__ inline void encode_record(const float* x, const Record& layout, std::uint8_t* record) {
    for (const RecordPart& part : layout.parts) {
        if (part.rank > 0) {
            encode_part(x, part, record);
        }
        x += part.rank;
    }
}

// The values of one part's integers q: q · scale + shift. That is exact, as the product of two
// 8-bit numbers fits in a float.
struct Meaning {
    float scale, shift;

    __device__ float of(unsigned integer) const {
        return fmaf(static_cast<float>(integer), scale, shift);
    }
};

__device__ __forceinline__ Meaning meaning_of(const RecordPart& part, const std::uint8_t* record) {
    if (part.rank == 0) {
        return {0.0f, 0.0f};
    }
    const float scale = float_of(static_cast<std::uint32_t>(record[part.scale]) << 16 |
                                 static_cast<std::uint32_t>(record[part.scale + 1]) << 24);
    return {scale, 0.0f - static_cast<float>(record[part.zero]) * scale};
}

// Coefficient k of a record, given the meanings of its parts.
__device__ __forceinline__ float coefficient(const Record& layout, const std::uint8_t* record,
                                             const Meaning& low, const Meaning& high,
                                             std::int64_t k) {
    const std::int64_t rank = layout.parts[0].rank;
    if (k >= rank) {
        return high.of(record[layout.parts[1].values + k - rank]);
    }
    const unsigned integer = layout.parts[0].bits == 4
                                 ? static_cast<unsigned>(record[k / 2]) >> k % 2 * 4 & 15u
                                 : record[k];
    return low.of(integer);
}

// All threads of a block copy bytes to shared memory; the copy is complete after the next barrier.
// Returns the address of the first byte, which has the same offset from a multiple of 16 as the
// source, so that most bytes are copied sixteen at a time. `shared` has room for 15 bytes more.
__device__ inline std::uint8_t* copy_bytes(std::uint8_t* shared, const std::uint8_t* from,
                                           std::int64_t bytes) {
    const auto off = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(from) % 16);
    std::uint8_t* to = shared + off;
    const std::int64_t head = off == 0 ? 0 : 16 - off < bytes ? 16 - off : bytes;
    const std::int64_t wide = (bytes - head) / 16;
    for (std::int64_t i = threadIdx.x; i < head; i += blockDim.x) {
        to[i] = from[i];
    }
    for (std::int64_t i = threadIdx.x; i < wide; i += blockDim.x) {
        *reinterpret_cast<uint4*>(to + head + 16 * i) = load_once(from + head + 16 * i);
    }
    for (std::int64_t i = head + 16 * wide + threadIdx.x; i < bytes; i += blockDim.x) {
        to[i] = from[i];
    }
    return to;
}

// Bytes of shared memory for the records of a chunk, a multiple of 16.
__host__ __device__ inline std::size_t chunk_bytes(const Record& layout) {
    return static_cast<std::size_t>((kChunk * layout.bytes + 15 + 15) / 16 * 16);
}

// Whether a query whose own slot is `own` sees slot `slot`, by causality and window.
__device__ __forceinline__ bool sees(const Attention& a, std::int64_t own, std::int64_t slot) {
    return slot <= own && (a.window < 0 || slot > own - a.window);
}

__device__ __forceinline__ float capped(const Attention& a, float score) {
    return a.softcap > 0.0f ? a.softcap * tanhf(score / a.softcap) : score;
}

void attend_few(const Attention&, const AttentionCall&, Queue&);
// Whether `attend_many` has a kernel for this head size, type and number of tokens.
bool can_attend_many(const Attention&, const AttentionCall&);
void attend_many(const Attention&, const AttentionCall&, Queue&);

}  // namespace resq::cuda
