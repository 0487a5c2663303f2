// Queries, and weights of values, as integers of 16 bits, whose products with the integers of
// records are summed exactly.
#pragma once

#include <cstring>

#include "isa.hpp"
#include "records.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

// The largest integer in 16 bits, and the largest difference between a record's integer and its
// zero point.
constexpr std::int32_t kTopWord = 32767, kTopStep = 255;

// A chunk's sums of weights times integers fit.
static_assert(kChunk * kTopWord * kTopStep <= INT32_MAX);

// The largest integer of a query's part. Its products with a key fit in a sum: for parts of up to
// 257 coefficients that is no limit.
inline std::int32_t top_of_query(const RecordPart& part) {
    const std::int64_t top = INT32_MAX / (part.rank * kTopStep);
    return static_cast<std::int32_t>(top < kTopWord ? top : kTopWord);
}

// Pairs of a part: a dword of records has four or two, and the last dword may not be full.
inline std::int64_t pairs_of(const RecordPart& part) {
    return part.bits == 4 ? (part.rank + 7) / 8 * 4 : (part.rank + 3) / 4 * 2;
}

// Pairs in memory for a query: each part has whole sixteens of coefficients.
inline std::int64_t stored_pairs(const RecordPart& part) {
    return (part.rank + kLanes - 1) / kLanes * kLanes / 2;
}
inline std::int64_t stored_pairs(const Record& layout) {
    return stored_pairs(layout.parts[0]) + stored_pairs(layout.parts[1]);
}

// Queries of one kv head.
struct Queries {
    const float* data;  // (rows, head_dim)
    std::int64_t rows, head_dim;
};

// A power of two below which a query counts as small, and one by which scores are too large until
// the scale of a key takes it back: with both, no number in between leaves the range of floats.
constexpr float kSmallestQuery = 0x1p-122f, kQueryPower = 0x1p16f;

// Queries as pairs of words, in the order in which records of keys are unpacked.
struct RoundedQueries {
    std::int32_t* pairs;   // (rows, stored_pairs)
    std::int32_t* totals;  // (rows, 2): sums of a part's integers
    float* scales;         // (rows, 2): what an integer of a part means, times kQueryPower
};

// Makes pairs of sixteen integers, in the order in which a dword of kAll integers is unpacked: the
// first is followed by that of the upper half.
template <int kAll>
inline void store_ordered(std::int32_t* pairs, I integers) {
    std::int32_t lanes[kLanes];
    store(lanes, integers);
    for (int k = 0; k < kLanes; k += kAll) {
        for (int i = 0; i < kAll / 2; ++i) {
            pairs[k / 2 + i] = static_cast<std::int32_t>(
                static_cast<std::uint32_t>(lanes[k + i] & 0xFFFF) |
                static_cast<std::uint32_t>(lanes[k + kAll / 2 + i]) << 16);
        }
    }
}

// One part of a query.
inline void round_part(const float* x, const RecordPart& part, std::int32_t* pairs,
                       std::int32_t* all, float* scale) {
    F largest = zero(), spoilt = zero();
    for (std::int64_t k = 0; k < part.rank; k += kLanes) {
        const F query = load_first(x + k, part.rank - k);
        largest = max(max(query, zero() - query), largest);
        spoilt = spoilt + query * zero();  // NaN if one is infinite or NaN
    }
    const float size = greatest(largest), safe = size > kSmallestQuery ? size : kSmallestQuery;
    const auto top = static_cast<float>(top_of_query(part));
    // Two factors, as 1 / safe alone may be too large or too small.
    const F factor = broadcast(top * 0x1p-12f / safe), power = broadcast(0x1p12f);
    I sums = broadcast(0);
    for (std::int64_t k = 0; k < part.rank; k += kLanes) {
        const F exact = load_first(x + k, part.rank - k) * factor * power;
        const I integers = nearest(min(max(exact, broadcast(-top)), broadcast(top)));
        sums = sums + integers;
        if (part.bits == 4) {
            store_ordered<8>(pairs + k / 2, integers);
        } else {
            store_ordered<4>(pairs + k / 2, integers);
        }
    }
    *all = sum(sums);
    *scale = safe * (kQueryPower / top) + sum(spoilt);
}

inline void round_queries(const Record& layout, const Queries& queries, const RoundedQueries& out) {
    const std::int64_t stride = stored_pairs(layout);
    for (std::int64_t r = 0; r < queries.rows; ++r) {
        const float* x = queries.data + r * queries.head_dim;
        std::int32_t* pairs = out.pairs + r * stride;
        for (int p = 0; p < 2; ++p) {
            const RecordPart& part = layout.parts[p];
            if (part.rank > 0) {
                round_part(x, part, pairs, out.totals + 2 * r + p, out.scales + 2 * r + p);
            }
            x += part.rank;
            pairs += stored_pairs(part);
        }
    }
}

// A score: a part's exact sum by the scale of the key and that of the query, and the same of the
// other part.
inline F score_of(I sums, F key_scale, float query_scale) {
    return to_float(sums) * key_scale * broadcast(query_scale);
}
inline F add_score(F score, I sums, F key_scale, float query_scale) {
    return fma(to_float(sums) * key_scale, broadcast(query_scale), score);
}

// Weights of values times the scales of a part, as words, which are pairs of slots.
struct RoundedWeights {
    std::uint16_t* words;  // (rows, 2, kChunk)
    float* scales;         // (rows, 2): what an integer means
    std::int32_t* zeros;   // (rows, 2): sums of weights times zero points
};

// The largest of them counts as at least this, so that its inverse is a number.
constexpr float kSmallestWeight = 0x1p-110f;

}  // namespace resq::RESQ_ISA
