// Scores and weighted values of few queries, directly from packed records: no tile.
//
// Integers and their exact sums are those of the path over tiles (tiles.hpp), so a query's bits do
// not depend on the path.
#pragma once

#include "counts.hpp"
#include "isa.hpp"
#include "records.hpp"
#include "resq/kernels.hpp"
#include "rounded.hpp"
#include "sums.hpp"

namespace resq::RESQ_ISA {

// Most rows of queries that take this path.
constexpr int kDirectRows = 8;

// Scores with kCount times sixteen slots from `slot` on, for one part: adds to those of the part
// before it, if there is one.
template <int kRows, int kCount, int kBits>
inline void score_part(const Slots& slots, int p, std::int64_t slot, const RoundedQueries& queries,
                       std::int64_t pair, float* scores) {
    const Record& layout = slots.layout;
    const RecordPart& part = layout.parts[p];
    const std::int64_t stride = stored_pairs(layout);
    Sums sums[kRows][kCount];
    for (auto& row : sums) {
        for (Sums& one : row) {
            one = no_sixteen();
        }
    }
    const std::int32_t* pairs = queries.pairs + pair;
    each_pair<kBits, kCount>(layout, part, slots.records + slot * layout.bytes,
                             [&](std::int64_t j, const I(&keys)[kCount]) {
#pragma GCC unroll 8
                                 for (int r = 0; r < kRows; ++r) {
                                     const P both = repeat(pairs[r * stride + j]);
#pragma GCC unroll 2
                                     for (int n = 0; n < kCount; ++n) {
                                         add_products(sums[r][n], keys[n], both);
                                     }
                                 }
                             });
#pragma GCC unroll 2
    for (int n = 0; n < kCount; ++n) {
        const std::int64_t place = slot + n * kLanes;
        const F scales = load(slots.scales.scales[p] + place);
        const I zeros = load(slots.scales.zeros[p] + place);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            const I exact = total(sums[r][n]) - zeros * broadcast(queries.totals[2 * r + p]);
            const float scale = queries.scales[2 * r + p];
            float* to = scores + r * kChunk + place;
            store(to, pair == 0 ? score_of(exact, scales, scale)
                                : add_score(load(to), exact, scales, scale));
        }
    }
}

template <int kRows, int kCount>
inline void score_sixteens(const Slots& slots, std::int64_t slot, const RoundedQueries& queries,
                           float* scores) {
    std::int64_t pair = 0;
    for (int p = 0; p < 2; ++p) {
        const RecordPart& part = slots.layout.parts[p];
        if (part.rank > 0 && part.bits == 4) {
            score_part<kRows, kCount, 4>(slots, p, slot, queries, pair, scores);
        } else if (part.rank > 0) {
            score_part<kRows, kCount, 8>(slots, p, slot, queries, pair, scores);
        }
        pair += stored_pairs(part);
    }
}

// scores (rows, kChunk) = Q · Kᵀ. What comes next is prefetched.
inline void score_directly(const Slots& slots, const RoundedQueries& queries, std::int64_t rows,
                           Ahead ahead, float* scores) {
    constexpr int kMost = kScoreSums < kDirectRows ? kScoreSums : kDirectRows;
    each_group<kMost>(rows, [&](std::int64_t first, auto count) {
        // Each sum waits for its last addition, so few rows take two groups of slots side by side.
        constexpr int kCount = 2 * count <= kScoreSums ? 2 : 1;
        const RoundedQueries some{queries.pairs + first * stored_pairs(slots.layout),
                                  queries.totals + 2 * first, queries.scales + 2 * first};
        float* to = scores + first * kChunk;
        std::int64_t slot = 0;
        for (; slot + kCount * kLanes <= slots.count; slot += kCount * kLanes) {
            ahead.prefetch(kCount * kLanes * slots.layout.bytes);
            score_sixteens<count, kCount>(slots, slot, some, to);
        }
        for (; slot < slots.count; slot += kLanes) {
            ahead.prefetch(kLanes * slots.layout.bytes);
            score_sixteens<count, 1>(slots, slot, some, to);
        }
    });
}

// Where the weighted values of rows go.
struct ValueRows {
    float* data;  // (rows, head_dim), rows `stride` apart
    std::int64_t stride;
};

// Two words of a row's weights.
inline P weight_pair(const std::uint16_t* words) {
    std::int32_t pair;
    std::memcpy(&pair, words, sizeof pair);
    return repeat(pair);
}

constexpr int kSumLanes = 4 * kPairLanes;

// Exact sums of weights times integers at some coefficients of a part, from `packed` on: four per
// lane if they have 4 bits, else one.
template <int kRows, int kBits>
inline void sum_values(const std::uint8_t* packed, std::int64_t bytes, std::int64_t slots,
                       const std::uint16_t* words, std::int32_t* out) {
    constexpr int kEach = kBits == 4 ? 4 : 1;
    PairSums sums[kRows][kEach];
    for (auto& row : sums) {
        for (PairSums& one : row) {
            one = no_sums();
        }
    }
    const P mask = repeat(0x000F000F);
    for (std::int64_t slot = 0; slot < slots; slot += 2, packed += 2 * bytes) {
        P values[kEach];
        if constexpr (kBits == 4) {
            const P four = pairs_of_words(packed, packed + bytes);
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                values[i] = (four >> (4 * i)) & mask;
            }
        } else {
            values[0] = pairs_of_bytes(packed, packed + bytes);
        }
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            const P weights = weight_pair(words + r * 2 * kChunk + slot);
#pragma GCC unroll 4
            for (int i = 0; i < kEach; ++i) {
                sums[r][i] = held(dot(sums[r][i], values[i], weights));
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
        if constexpr (kBits == 4) {
            store_turns(out + r * kSumLanes, {total(sums[r][0]), total(sums[r][1]),
                                              total(sums[r][2]), total(sums[r][3])});
        } else {
            store_pairs(out + r * kSumLanes, total(sums[r][0]));
        }
    }
}

// Bytes to prefetch for each coefficient of the values of a chunk: as many as a chunk of keys has.
constexpr std::int64_t kBytesAhead = kChunk;

template <int kRows, int kBits>
inline void weigh_part(const Slots& slots, int p, const RoundedWeights& weights, ValueRows out,
                       Ahead& ahead) {
    constexpr int kStep = kBits == 4 ? 4 * kPairLanes : kPairLanes;
    const RecordPart& part = slots.layout.parts[p];
    for (std::int64_t k = 0; k < part.rank; k += kStep) {
        ahead.prefetch(kStep * kBytesAhead);
        std::int32_t sums[kRows * kSumLanes] = {};
        sum_values<kRows, kBits>(slots.records + part.values + k * kBits / 8, slots.layout.bytes,
                                 slots.count, weights.words + p * kChunk, sums);
        const std::int64_t left = part.rank - k, count = left < kStep ? left : kStep;
        for (int r = 0; r < kRows; ++r) {
            const I zeros = broadcast(weights.zeros[2 * r + p]);
            const F scale = broadcast(weights.scales[2 * r + p]);
            for (std::int64_t i = 0; i < count; i += kLanes) {
                const F values = to_float(load(sums + r * kSumLanes + i) - zeros) * scale;
                float* to = out.data + r * out.stride + k + i;
                if (count - i == kLanes / 2) {
                    store_half(to, values);
                } else {
                    store_first(to, values, count - i);
                }
            }
        }
    }
}

// out = weights · V. What comes next is prefetched.
inline void weigh_directly(const Slots& slots, const RoundedWeights& weights, std::int64_t rows,
                           Ahead ahead, ValueRows out) {
    each_group<kValueRows>(rows, [&](std::int64_t first, auto count) {
        const RoundedWeights some{weights.words + first * 2 * kChunk, weights.scales + 2 * first,
                                  weights.zeros + 2 * first};
        ValueRows to{out.data + first * out.stride, out.stride};
        for (int p = 0; p < 2; ++p) {
            const RecordPart& part = slots.layout.parts[p];
            if (part.rank > 0 && part.bits == 4) {
                weigh_part<count, 4>(slots, p, some, to, ahead);
            } else if (part.rank > 0) {
                weigh_part<count, 8>(slots, p, some, to, ahead);
            }
            to.data += part.rank;
        }
    });
}

}  // namespace resq::RESQ_ISA
