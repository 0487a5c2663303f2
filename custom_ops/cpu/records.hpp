// Cache records: encodes one key or value, decodes a chunk of them.
#pragma once

#include <cstring>

#include "isa.hpp"
#include "quantise.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

// A positive scale, rounded up to a bfloat16.
inline float round_up_to_bfloat16(float scale) {
    std::uint32_t bits;
    std::memcpy(&bits, &scale, sizeof bits);
    bits = (bits + 0xFFFFu) & 0xFFFF0000u;
    std::memcpy(&scale, &bits, sizeof bits);
    return scale;
}

// Writes one part of x (head_dim) to its place in a record.
inline void encode_part(const float* x, const RecordPart& part, std::uint8_t* record) {
    const float top = top_of(part.bits);
    const Range range = range_of(x, part.rank);
    const float scale = round_up_to_bfloat16(scale_of(range.smallest, range.largest, top));
    const Quantiser quantiser(range.smallest, scale, top);
    for (std::int64_t k = 0; k < part.rank; k += kLanes) {
        const std::int64_t left = part.rank - k, count = left < kLanes ? left : kLanes;
        std::uint8_t bytes[kLanes];
        store_bytes(bytes, quantiser(load_first(x + k, left)));
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
    record[part.zero] = static_cast<std::uint8_t>(quantiser.zero_point);
}

inline void encode_record(const float* x, const Record& layout, std::uint8_t* record) {
    for (const RecordPart& part : layout.parts) {
        if (part.rank > 0) {
            encode_part(x, part, record);
        }
        x += part.rank;
    }
}

// Floats per row of values in a tile: whole vectors.
inline std::int64_t padded_dim(const Attention& a) {
    return (a.head_dim + kLanes - 1) / kLanes * kLanes;
}

// Bytes of sixteen records, and of what may be read after them.
inline std::int64_t records_bytes(const Record& layout) {
    return kLanes * layout.bytes + static_cast<std::int64_t>(kSlack);
}

// Records in memory: how many hold tokens, and how many bytes may be read.
struct Records {
    const std::uint8_t* data;
    std::int64_t count, readable;
};

// Sixteen records from `slot` on, readable with some bytes after them. If fewer are there, `copy`
// gets them, padded with zeros.
inline const std::uint8_t* sixteen_records(const Record& layout, const Records& records,
                                           std::int64_t slot, std::uint8_t* copy) {
    const std::int64_t skipped = slot * layout.bytes;
    const std::int64_t count = records.count > slot ? records.count - slot : 0;
    if (count >= kLanes && skipped + records_bytes(layout) <= records.readable) {
        return records.data + skipped;
    }
    const std::int64_t used = (count < kLanes ? count : kLanes) * layout.bytes;
    if (used > 0) {
        std::memcpy(copy, records.data + skipped, static_cast<std::size_t>(used));
    }
    std::memset(copy + used, 0, static_cast<std::size_t>(records_bytes(layout) - used));
    return copy;
}

// The values of the integers q of one part, for sixteen records: q · scale + shift. That is exact,
// as the product of two 8-bit numbers fits in a float.
struct Meaning {
    F scale, shift;
};

inline Meaning meaning_of(const Record& layout, const RecordPart& part,
                          const std::uint8_t* records) {
    I dwords[4];
    transpose_dwords(records + part.scale, layout.bytes,
                     dwords);  // scale, zero, and the bytes after them
    const F scale = as_float(dwords[0] << 16);
    const F zeros = to_float((dwords[0] >> 16) & broadcast(255));
    return {scale, zero() - zeros * scale};
}

// Decodes one part of sixteen records, coefficient by coefficient: out[k * kChunk + slot].
template <int kBits>
inline void decode_columns(const Record& layout, const RecordPart& part,
                           const std::uint8_t* records, float* out) {
    constexpr int kPerDword = 32 / kBits;
    const I mask = broadcast((1 << kBits) - 1);
    const Meaning meaning = meaning_of(layout, part, records);
    I dwords[4];
    for (std::int64_t k = 0; k < part.rank; k += 4 * kPerDword) {
        transpose_dwords(records + part.values + k * kBits / 8, layout.bytes, dwords);
        for (int j = 0; j < 4 && k + j * kPerDword < part.rank; ++j) {
            float* columns = out + (k + j * kPerDword) * kChunk;
            const std::int64_t left = part.rank - k - j * kPerDword;
            I dword = dwords[j];
#pragma GCC unroll 8
            for (int i = 0; i < kPerDword; ++i) {
                if (i < left) {
                    store(columns + i * kChunk,
                          fma(to_float(dword & mask), meaning.scale, meaning.shift));
                }
                dword = dword >> kBits;
            }
        }
    }
}

// Decodes the keys of up to kChunk slots, transposed: tile (head_dim, kChunk).
inline void decode_keys(const Record& layout, const Records& records, std::uint8_t* copy,
                        float* tile) {
    for (std::int64_t slot = 0; slot < kChunk; slot += kLanes) {
        const std::uint8_t* sixteen = sixteen_records(layout, records, slot, copy);
        float* out = tile + slot;
        for (const RecordPart& part : layout.parts) {
            if (part.rank > 0 && part.bits == 4) {
                decode_columns<4>(layout, part, sixteen, out);
            } else if (part.rank > 0) {
                decode_columns<8>(layout, part, sixteen, out);
            }
            out += part.rank * kChunk;
        }
    }
}

// Decodes one part of sixteen records, record by record: out[slot * stride + k].
template <int kBits>
inline void decode_rows(const Record& layout, const RecordPart& part, const std::uint8_t* records,
                        std::int64_t stride, float* out) {
    float scales[kLanes], shifts[kLanes];
    const Meaning meaning = meaning_of(layout, part, records);
    store(scales, meaning.scale);
    store(shifts, meaning.shift);
    for (std::int64_t i = 0; i < kLanes; ++i) {
        const F scale = broadcast(scales[i]), shift = broadcast(shifts[i]);
        const std::uint8_t* values = records + i * layout.bytes + part.values;
        for (std::int64_t k = 0; k < part.rank; k += kLanes) {
            const I integers = kBits == 4 ? load_nibbles(values + k / 2) : load_bytes(values + k);
            store_first(out + i * stride + k, fma(to_float(integers), scale, shift), part.rank - k);
        }
    }
}

// Decodes the values of up to kChunk slots: tile (kChunk, padded_dim). Missing slots are zero.
inline void decode_values(const Record& layout, const Records& records, std::int64_t stride,
                          std::uint8_t* copy, float* tile) {
    for (std::int64_t slot = 0; slot < kChunk; slot += kLanes) {
        const std::uint8_t* sixteen = sixteen_records(layout, records, slot, copy);
        float* out = tile + slot * stride;
        for (const RecordPart& part : layout.parts) {
            if (part.rank > 0 && part.bits == 4) {
                decode_rows<4>(layout, part, sixteen, stride, out);
            } else if (part.rank > 0) {
                decode_rows<8>(layout, part, sixteen, stride, out);
            }
            out += part.rank;
        }
    }
}

}  // namespace resq::RESQ_ISA
