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

// Bytes of a chunk of records, and of what may be read after them.
inline std::int64_t records_bytes(const Record& layout) {
    return kChunk * layout.bytes + static_cast<std::int64_t>(kSlack);
}

// Bytes to prefetch, some at a time. In a long text every token reads records from main memory, and
// a few queries do not compute long enough to hide that; more lines at once than a core can wait
// for would stop it.
struct Ahead {
    const std::uint8_t *next = nullptr, *end = nullptr;

    void prefetch(std::int64_t bytes) {
        constexpr std::int64_t kLine = 64;
        for (std::int64_t begin = 0; begin < bytes && next < end; begin += kLine, next += kLine) {
            __builtin_prefetch(next);
        }
    }
};

// Records in memory, and how many bytes may be read.
struct Records {
    const std::uint8_t* data;
    std::int64_t readable;
};

// The first `count` records, readable with some bytes after them. If these are not there, `copy`
// gets the records, padded with zeros.
inline const std::uint8_t* with_slack(const Record& layout, const Records& records,
                                      std::int64_t count, std::uint8_t* copy) {
    const std::int64_t wanted = count * layout.bytes + static_cast<std::int64_t>(kSlack);
    if (wanted <= records.readable) {
        return records.data;
    }
    std::memcpy(copy, records.data, static_cast<std::size_t>(records.readable));
    std::memset(copy + records.readable, 0, static_cast<std::size_t>(wanted - records.readable));
    return copy;
}

// The scales and zero points of a chunk's records, part by part. Those of an absent part are not
// set.
struct SlotScales {
    alignas(64) float scales[2][kChunk];
    alignas(64) std::int32_t zeros[2][kChunk];
};

// Of `slots` records, a multiple of sixteen. `factor`, a power of two, multiplies the scales. Those
// of both parts follow each other at the end of a record.
inline void read_scales(const Record& layout, const std::uint8_t* records, std::int64_t slots,
                        float factor, SlotScales& out) {
    const int first = layout.parts[0].rank > 0 ? 0 : 1;
    const I byte = broadcast(255);
    for (std::int64_t s = 0; s < slots; s += kLanes) {
        I dwords[4];
        transpose_dwords(records + s * layout.bytes + layout.parts[first].scale, layout.bytes,
                         dwords);
        store(out.scales[first] + s, as_float(dwords[0] << 16) * broadcast(factor));
        store(out.zeros[first] + s, (dwords[0] >> 16) & byte);
        if (first == 0) {
            const I high = (dwords[0] >> 24 << 16) + (dwords[1] << 24);
            store(out.scales[1] + s, as_float(high) * broadcast(factor));
            store(out.zeros[1] + s, (dwords[1] >> 8) & byte);
        }
    }
}

// A chunk of records, with their scales.
struct Slots {
    const Record& layout;
    const std::uint8_t* records;
    std::int64_t count;  // a multiple of sixteen
    const SlotScales& scales;
};

// Calls use(j, integers) for the pairs j of one part of kCount times sixteen records, in the order
// of store_ordered. Lanes are slots.
template <int kBits, int kCount, typename Use>
inline void each_pair(const Record& layout, const RecordPart& part, const std::uint8_t* records,
                      const Use& use) {
    constexpr int kPairs = 16 / kBits;  // in a dword
    const I mask = broadcast(kBits == 4 ? 0x000F000F : 0x00FF00FF);
    const std::int64_t sixteen = kLanes * layout.bytes, all = (part.rank * kBits + 31) / 32;
    for (std::int64_t first = 0; first < all; first += 4) {
        I dwords[kCount][4];
        for (int n = 0; n < kCount; ++n) {
            transpose_dwords(records + n * sixteen + part.values + 4 * first, layout.bytes,
                             dwords[n]);
        }
#pragma GCC unroll 4
        for (int d = 0; d < 4; ++d) {
            if (first + d >= all) {
                break;
            }
#pragma GCC unroll 4
            for (int i = 0; i < kPairs; ++i) {
                I integers[kCount];
                for (int n = 0; n < kCount; ++n) {
                    integers[n] = (dwords[n][d] >> (i * kBits)) & mask;
                }
                use((first + d) * kPairs + i, integers);
            }
        }
    }
}

}  // namespace resq::RESQ_ISA
