// Cache records: encoding one key or value, and decoding a chunk of them.
#pragma once

#include <cstring>

#include "quantise.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

inline float load_bfloat16(const std::uint8_t* p) {
    const std::uint32_t bits = static_cast<std::uint32_t>(p[0] | p[1] << 8) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// The least bfloat16 that is not below a positive scale.
inline float round_up_to_bfloat16(float scale) {
    std::uint32_t bits;
    std::memcpy(&bits, &scale, sizeof bits);
    bits = (bits + 0xFFFFu) & 0xFFFF0000u;
    std::memcpy(&scale, &bits, sizeof bits);
    return scale;
}

// Writes part of x (head_dim) into its place of a record.
inline void encode_part(const float* x, const RecordPart& part, std::uint8_t* record) {
    const float top = part.bits == 4 ? 15.0f : 255.0f;
    F smallest = zero(), largest = zero();
    for (std::int64_t k = 0; k < part.rank; k += kLanes) {
        const F values = load_first(x + k, part.rank - k);
        smallest = min(values, smallest);
        largest = max(values, largest);
    }
    const float low = least(smallest);
    const float scale = round_up_to_bfloat16(quantiser_of(low, greatest(largest), top).scale);
    const float zero_point = std::nearbyint(-low / scale);
    const F scales = broadcast(scale), zeros = broadcast(zero_point), levels = broadcast(top);
    for (std::int64_t k = 0; k < part.rank; k += kLanes) {
        const std::int64_t left = part.rank - k, count = left < kLanes ? left : kLanes;
        std::uint8_t bytes[kLanes];
        store_bytes(bytes, quantised(load_first(x + k, left), scales, zeros, levels));
        if (part.bits == 8) {
            std::memcpy(record + part.values + k, bytes, static_cast<std::size_t>(count));
            continue;
        }
        for (std::int64_t i = 0; i < count / 2; ++i) {
            record[part.values + k / 2 + i] =
                static_cast<std::uint8_t>(bytes[2 * i] | bytes[2 * i + 1] << 4);
        }
    }
    std::uint32_t bits;
    std::memcpy(&bits, &scale, sizeof bits);
    record[part.scale] = static_cast<std::uint8_t>(bits >> 16);
    record[part.scale + 1] = static_cast<std::uint8_t>(bits >> 24);
    record[part.zero] = static_cast<std::uint8_t>(zero_point < top ? zero_point : top);
}

inline void encode_record(const float* x, const Record& layout, std::uint8_t* record) {
    for (const RecordPart& part : layout.parts) {
        if (part.rank > 0) {
            encode_part(x, part, record);
        }
        x += part.rank;
    }
}

// Floats of a row of values in a tile: whole vectors.
inline std::int64_t padded_dim(const Attention& a) {
    return (a.head_dim + kLanes - 1) / kLanes * kLanes;
}

// Bytes of sixteen records and of what may be read behind them.
inline std::int64_t records_bytes(const Record& layout) {
    return kLanes * layout.bytes + static_cast<std::int64_t>(kSlack);
}

// Copies `count` records, at most sixteen; the others, and what is behind, are zero.
inline void copy_records(const Record& layout, const std::uint8_t* records, std::int64_t count,
                         std::uint8_t* copy) {
    const std::int64_t used = (count < kLanes ? count : kLanes) * layout.bytes;
    std::memcpy(copy, records, static_cast<std::size_t>(used));
    std::memset(copy + used, 0, static_cast<std::size_t>(records_bytes(layout) - used));
}

// Values of sixteen records, coefficient by coefficient: out[k * kChunk + slot].
inline void decode_columns(const Record& layout, const RecordPart& part,
                           const std::uint8_t* records, float* out) {
    I dwords[4];
    transpose_dwords(records + part.scale, layout.bytes, dwords);
    const F scale = as_float(dwords[0] << 16);
    const F zeros = to_float((dwords[0] >> 16) & broadcast(255));
    const F shift = zero() - zeros * scale;  // exact: 8 bits times 8 bits
    const std::int64_t per_dword = 32 / part.bits;
    for (std::int64_t k = 0; k < part.rank; k += 4 * per_dword) {
        transpose_dwords(records + part.values + k * part.bits / 8, layout.bytes, dwords);
        for (std::int64_t i = 0; i < 4 * per_dword && k + i < part.rank; ++i) {
            const I dword = dwords[i / per_dword] >> static_cast<int>(i % per_dword * part.bits);
            const F value = to_float(dword & broadcast((1 << part.bits) - 1));
            store(out + (k + i) * kChunk, fma(value, scale, shift));
        }
    }
}

// Keys of up to kChunk slots, transposed: tile (head_dim, kChunk).
inline void decode_keys(const Record& layout, const std::uint8_t* records, std::int64_t count,
                        std::uint8_t* copy, float* tile) {
    for (std::int64_t slot = 0; slot < kChunk; slot += kLanes) {
        copy_records(layout, records + slot * layout.bytes, count > slot ? count - slot : 0, copy);
        float* out = tile + slot;
        for (const RecordPart& part : layout.parts) {
            if (part.rank > 0) {
                decode_columns(layout, part, copy, out);
            }
            out += part.rank * kChunk;
        }
    }
}

// One record, (head_dim), followed by up to fifteen floats of any value.
inline void decode_record(const Record& layout, const std::uint8_t* record, float* out) {
    for (const RecordPart& part : layout.parts) {
        if (part.rank == 0) {
            continue;
        }
        const float scale = load_bfloat16(record + part.scale);
        const F scales = broadcast(scale);
        const F shift = broadcast(-static_cast<float>(record[part.zero]) * scale);
        const std::uint8_t* values = record + part.values;
        for (std::int64_t k = 0; k < part.rank; k += kLanes) {
            const I integers =
                part.bits == 4 ? load_nibbles(values + k / 2) : load_bytes(values + k);
            store(out + k, fma(to_float(integers), scales, shift));
        }
        out += part.rank;
    }
}

// Values of up to kChunk slots: tile (kChunk, padded_dim); slots beyond `count` are zero.
inline void decode_values(const Record& layout, const std::uint8_t* records, std::int64_t count,
                          std::int64_t stride, std::uint8_t* copy, float* tile) {
    for (std::int64_t slot = 0; slot < kChunk; ++slot) {
        if (slot % kLanes == 0) {
            copy_records(layout, records + slot * layout.bytes, count > slot ? count - slot : 0,
                         copy);
        }
        decode_record(layout, copy + slot % kLanes * layout.bytes, tile + slot * stride);
    }
}

}  // namespace resq::RESQ_ISA
