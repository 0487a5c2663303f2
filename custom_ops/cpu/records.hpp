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

// A 4-bit integer n becomes a float without a conversion, which would take one of the two ports
// that multiply: as bits of the float 2^11, or 2^7, it makes 2^11 + n, or 2^7 + n. Lower bits would
// need a larger power, and its product with a scale would overflow earlier.
constexpr int kPlaces[2] = {12, 16};
constexpr std::int32_t kExponents[2] = {0x45000000, 0x43000000};
constexpr float kPowers[2] = {0x1p11f, 0x1p7f};

// What the integers n of one part mean in sixteen records: n · scale + shifts[0] if they have 8
// bits, (kPowers[i] + n) · scale + shifts[i] if they have 4. That is exact: the product of a 12-bit
// and an 8-bit number fits in a float.
struct Meaning {
    F scale, shifts[2];
};

// The scales and zero points of one part of sixteen records.
struct Scales {
    F scales, zeros;
};

// Of both parts, which follow each other at the end of a record. Those of an absent part are not
// set.
inline void read_scales(const Record& layout, const std::uint8_t* records, Scales parts[2]) {
    const int first = layout.parts[0].rank > 0 ? 0 : 1;
    I dwords[4];
    transpose_dwords(records + layout.parts[first].scale, layout.bytes, dwords);
    const I byte = broadcast(255);
    parts[first] = {as_float(dwords[0] << 16), to_float((dwords[0] >> 16) & byte)};
    if (first == 0) {
        parts[1] = {as_float(and_or(dwords[0] >> 8, broadcast(255 << 16), dwords[1] << 24)),
                    to_float((dwords[1] >> 8) & byte)};
    }
}

template <int kBits>
inline Meaning meaning_of(const Scales& part) {
    const auto shift = [&](float power) {
        return zero() - (part.zeros + broadcast(power)) * part.scales;
    };
    if (kBits == 8) {
        return {part.scales, {shift(0.0f), shift(0.0f)}};
    }
    return {part.scales, {shift(kPowers[0]), shift(kPowers[1])}};
}

// Coefficient `i` of a dword of each of sixteen records.
template <int kBits>
inline F coefficient(I dword, int i, const Meaning& meaning) {
    if (kBits == 8) {
        return fma(to_float((dword >> (8 * i)) & broadcast(255)), meaning.scale, meaning.shifts[0]);
    }
    // Even ones go to one place and odd ones to the other, so two share a shift.
    const int place = i % 2 == 0 ? 1 : 0, right = 4 * i - kPlaces[place];
    const I moved = right > 0 ? dword >> right : dword << -right;
    const I bits = and_or(moved, broadcast(15 << kPlaces[place]), broadcast(kExponents[place]));
    return fma(as_float(bits), meaning.scale, meaning.shifts[place]);
}

// Calls use(k, keys) for the coefficients k of one part, in order, with those of `kCount` times
// sixteen keys. Lanes are slots.
template <int kBits, int kCount, typename Use>
inline void each_coefficient(const Record& layout, int p, const std::uint8_t* records,
                             const Scales (&scales)[kCount][2], const Use& use) {
    constexpr int kPerDword = 32 / kBits;
    const RecordPart& part = layout.parts[p];
    const std::int64_t sixteen = kLanes * layout.bytes;
    Meaning meanings[kCount];
    I dwords[kCount][4];
    for (int n = 0; n < kCount; ++n) {
        meanings[n] = meaning_of<kBits>(scales[n][p]);
    }
    const auto use_one = [&](int j, int i, std::int64_t k) {
        F keys[kCount];
        for (int n = 0; n < kCount; ++n) {
            keys[n] = coefficient<kBits>(dwords[n][j], i, meanings[n]);
        }
        use(k, keys);
    };
    for (std::int64_t k = 0; k < part.rank; k += 4 * kPerDword) {
        for (int n = 0; n < kCount; ++n) {
            transpose_dwords(records + n * sixteen + part.values + k * kBits / 8, layout.bytes,
                             dwords[n]);
        }
        for (int j = 0; j < 4; ++j) {
            const std::int64_t first = k + j * kPerDword, left = part.rank - first;
            if (left >= kPerDword) {  // without the comparisons below
#pragma GCC unroll 8
                for (int i = 0; i < kPerDword; ++i) {
                    use_one(j, i, first + i);
                }
                continue;
            }
#pragma GCC unroll 8
            for (int i = 0; i < kPerDword; ++i) {
                if (i < left) {
                    use_one(j, i, first + i);
                }
            }
        }
    }
}

// The same for the coefficients of all parts.
template <int kCount, typename Use>
inline void each_coefficient(const Record& layout, const std::uint8_t* records, const Use& use) {
    Scales scales[kCount][2];
    for (int n = 0; n < kCount; ++n) {
        read_scales(layout, records + n * kLanes * layout.bytes, scales[n]);
    }
    std::int64_t before = 0;
    for (int p = 0; p < 2; ++p) {
        const RecordPart& part = layout.parts[p];
        const auto use_part = [&](std::int64_t k, const F(&keys)[kCount]) {
            use(before + k, keys);
        };
        if (part.rank > 0 && part.bits == 4) {
            each_coefficient<4, kCount>(layout, p, records, scales, use_part);
        } else if (part.rank > 0) {
            each_coefficient<8, kCount>(layout, p, records, scales, use_part);
        }
        before += part.rank;
    }
}

// Decodes the keys of `slots` slots, transposed: tile (head_dim, kChunk).
inline void decode_keys(const Record& layout, const std::uint8_t* records, std::int64_t slots,
                        float* tile) {
    for (std::int64_t slot = 0; slot < slots; slot += kLanes) {
        each_coefficient<1>(
            layout, records + slot * layout.bytes,
            [&](std::int64_t k, const F(&keys)[1]) { store(tile + k * kChunk + slot, keys[0]); });
    }
}

// What the integers of one part mean in sixteen records, record by record, with the shifts of a
// record for even and for odd coefficients.
struct Meanings {
    float scales[kLanes], shifts[2 * kLanes];
};

// A record that is not shown is all zeros: it may hold anything, and 0 · infinity is NaN. `shown`
// is null if all are.
template <int kBits>
inline Meanings meanings_of(const Scales& part, const float* shown) {
    const Meaning meaning = meaning_of<kBits>(part);
    Meanings all;
    float odd[kLanes], even[kLanes];
    store(all.scales, meaning.scale);
    store(odd, meaning.shifts[0]);
    store(even, meaning.shifts[1]);
    for (int i = 0; i < kLanes; ++i) {
        all.shifts[2 * i] = even[i];
        all.shifts[2 * i + 1] = odd[i];
    }
    for (int i = 0; i < kLanes && shown != nullptr; ++i) {
        if (shown[i] == 0.0f) {
            all.scales[i] = all.shifts[2 * i] = all.shifts[2 * i + 1] = 0.0f;
        }
    }
    return all;
}

// Sixteen coefficients of record `i`. Lanes are coefficients.
template <int kBits>
inline F coefficients(const std::uint8_t* packed, const Meanings& meanings, int i) {
    const F scale = broadcast(meanings.scales[i]);
    const F shift = alternate(meanings.shifts + 2 * i);
    if (kBits == 8) {
        return fma(to_float(load_bytes(packed)), scale, shift);
    }
    constexpr std::int32_t kMasks[2] = {15 << kPlaces[1], 15 << kPlaces[0]};
    constexpr std::int32_t kBases[2] = {kExponents[1], kExponents[0]};
    const I bits = and_or(spread_nibbles(packed), alternate(kMasks), alternate(kBases));
    return fma(as_float(bits), scale, shift);
}

// Decodes one part of sixteen records, record by record: out[slot * stride + k].
template <int kBits>
inline void decode_rows(const Record& layout, const RecordPart& part, const std::uint8_t* records,
                        const Meanings& meanings, std::int64_t stride, float* out) {
    for (int i = 0; i < kLanes; ++i) {
        const std::uint8_t* values = records + i * layout.bytes + part.values;
        for (std::int64_t k = 0; k < part.rank; k += kLanes) {
            const F row = coefficients<kBits>(values + k * kBits / 8, meanings, i);
            store_first(out + i * stride + k, row, part.rank - k);
        }
    }
}

// Decodes the values of `slots` slots: tile (kChunk, padded_dim). `shown` as for meanings_of.
inline void decode_values(const Record& layout, const std::uint8_t* records, std::int64_t slots,
                          const float* shown, std::int64_t stride, float* tile) {
    for (std::int64_t slot = 0; slot < slots; slot += kLanes) {
        const std::uint8_t* sixteen = records + slot * layout.bytes;
        const float* seen = shown == nullptr ? nullptr : shown + slot;
        float* out = tile + slot * stride;
        Scales scales[2];
        read_scales(layout, sixteen, scales);
        for (int p = 0; p < 2; ++p) {
            const RecordPart& part = layout.parts[p];
            if (part.rank > 0 && part.bits == 4) {
                decode_rows<4>(layout, part, sixteen, meanings_of<4>(scales[p], seen), stride, out);
            } else if (part.rank > 0) {
                decode_rows<8>(layout, part, sixteen, meanings_of<8>(scales[p], seen), stride, out);
            }
            out += part.rank;
        }
    }
}

}  // namespace resq::RESQ_ISA
