// Scores and weighted values of few queries, directly from packed records: no tile of floats.
//
// Every element has the steps of the path over tiles (decode_*, gemm), in their order, so a query's
// bits do not depend on the path.
#pragma once

#include <type_traits>

#include "isa.hpp"
#include "outputs.hpp"
#include "records.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

// Most rows of queries that take this path, all at once. With more, their sums would not stay in
// registers, and in several groups each would decode anew: the tile was faster from 9 rows on.
constexpr int kDirectRows = 8;

// Queries of one kv head.
struct Queries {
    const float* data;  // (rows, head_dim)
    std::int64_t rows, head_dim;
};

// Calls use(count), with the count, 1 to kMost, as a type.
template <int kMost, typename Use>
inline void with_count(std::int64_t count, const Use& use) {
    if (count == kMost) {
        use(std::integral_constant<int, kMost>{});
    } else if constexpr (kMost > 1) {
        with_count<kMost - 1>(count, use);
    }
}

// Scores with `kCount` times sixteen slots: (rows, kChunk).
template <int kRows, int kCount>
inline void score_sixteens(const Record& layout, const std::uint8_t* records,
                           const Queries& queries, float* scores) {
    F sums[kRows][kCount];
    for (auto& row : sums) {
        for (F& sum : row) {
            sum = zero();
        }
    }
    each_coefficient<kCount>(layout, records, [&](std::int64_t k, const F(&keys)[kCount]) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            const F query = broadcast(queries.data[r * queries.head_dim + k]);
#pragma GCC unroll 2
            for (int n = 0; n < kCount; ++n) {
                sums[r][n] = fma(query, keys[n], sums[r][n]);
            }
        }
    });
    for (int r = 0; r < kRows; ++r) {
        for (int n = 0; n < kCount; ++n) {
            store(scores + r * kChunk + n * kLanes, sums[r][n]);
        }
    }
}

// scores (rows, kChunk) = Q · Kᵀ for `slots` slots, which are a multiple of sixteen.
inline void score_directly(const Record& layout, const std::uint8_t* records,
                           const Queries& queries, std::int64_t slots, Ahead ahead, float* scores) {
    with_count<kDirectRows>(queries.rows, [&](auto rows) {
        // Each sum waits for its last addition, so few rows take two groups of slots side by side.
        constexpr int kCount = 2 * rows <= kScoreSums ? 2 : 1;
        std::int64_t slot = 0;
        for (; slot + kCount * kLanes <= slots; slot += kCount * kLanes) {
            ahead.prefetch(kCount * kLanes * layout.bytes);
            score_sixteens<rows, kCount>(layout, records + slot * layout.bytes, queries,
                                         scores + slot);
        }
        for (; slot < slots; slot += kLanes) {
            ahead.prefetch(kLanes * layout.bytes);
            score_sixteens<rows, 1>(layout, records + slot * layout.bytes, queries, scores + slot);
        }
    });
}

// The weights of each row of queries, and where its sums of values go.
struct Weighted {
    float* sums;  // (rows, head_dim), rows `stride` apart
    std::int64_t stride;
    const float* weights;  // (rows, kChunk)
};

// Sums of values at kBlocks times sixteen coefficients; the last sixteen may be `count`, fewer.
// With exactly eight, the compiler leaves out what belongs to the others.
template <int kRows, int kBits, int kBlocks, bool kEight>
inline void weigh_blocks(const std::uint8_t* packed, std::int64_t bytes, std::int64_t slots,
                         const Meanings* meanings, const Weighted& out, std::int64_t count) {
    F sums[kRows][kBlocks];
    for (auto& row : sums) {
        clear(row);
    }
    for (std::int64_t slot = 0; slot < slots; ++slot, packed += bytes) {
        const Meanings& sixteen = meanings[slot / kLanes];
#pragma GCC unroll 4
        for (int b = 0; b < kBlocks; ++b) {
            const F values = coefficients<kBits>(packed + b * kLanes * kBits / 8, sixteen,
                                                 static_cast<int>(slot % kLanes));
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
                sums[r][b] = fma(broadcast(out.weights[r * kChunk + slot]), values, sums[r][b]);
            }
        }
    }
    for (int r = 0; r < kRows; ++r) {
        float* to = out.sums + r * out.stride;
        for (int b = 0; b < kBlocks - 1; ++b) {
            store(to + b * kLanes, sums[r][b]);
        }
        to += (kBlocks - 1) * kLanes;
        if (kEight) {
            store_half(to, sums[r][kBlocks - 1]);
        } else {
            store_first(to, sums[r][kBlocks - 1], count);
        }
    }
}

// Bytes to prefetch for each coefficient of the values of a chunk: as many as a chunk of keys has.
constexpr std::int64_t kBytesAhead = kChunk;

// Sums of values at the coefficients of one part.
template <int kRows, int kBits>
inline void weigh_part(const Record& layout, int p, const std::uint8_t* records, std::int64_t slots,
                       const Scales (*scales)[2], const float* shown, Weighted out, Ahead& ahead) {
    constexpr int kMost = kRows < kValueSums ? kValueSums / kRows : 1;
    const RecordPart& part = layout.parts[p];
    Meanings meanings[kChunk / kLanes];
    for (std::int64_t i = 0; i < slots / kLanes; ++i) {
        meanings[i] =
            meanings_of<kBits>(scales[i][p], shown == nullptr ? nullptr : shown + i * kLanes);
    }
    for (std::int64_t k = 0; k < part.rank; k += kMost * kLanes, out.sums += kMost * kLanes) {
        const std::uint8_t* packed = records + part.values + k * kBits / 8;
        const std::int64_t left = part.rank - k, blocks = (left + kLanes - 1) / kLanes;
        ahead.prefetch(kMost * kLanes * kBytesAhead);
        with_count<kMost>(blocks < kMost ? blocks : kMost, [&](auto count) {
            const std::int64_t last = left - (count - 1) * kLanes;
            if (last == kLanes / 2) {
                weigh_blocks<kRows, kBits, count, true>(packed, layout.bytes, slots, meanings, out,
                                                        last);
            } else {
                weigh_blocks<kRows, kBits, count, false>(packed, layout.bytes, slots, meanings, out,
                                                         last);
            }
        });
    }
}

// sums = weights · V for `slots` slots. `shown` as for meanings_of.
inline void weigh_directly(const Record& layout, const std::uint8_t* records, const float* shown,
                           const Queries& queries, std::int64_t slots, Ahead ahead, Weighted out) {
    Scales scales[kChunk / kLanes][2];
    for (std::int64_t i = 0; i < slots / kLanes; ++i) {
        read_scales(layout, records + i * kLanes * layout.bytes, scales[i]);
    }
    with_count<kDirectRows>(queries.rows, [&](auto rows) {
        for (int p = 0; p < 2; ++p) {
            const RecordPart& part = layout.parts[p];
            if (part.rank > 0 && part.bits == 4) {
                weigh_part<rows, 4>(layout, p, records, slots, scales, shown, out, ahead);
            } else if (part.rank > 0) {
                weigh_part<rows, 8>(layout, p, records, slots, scales, shown, out, ahead);
            }
            out.sums += part.rank;
        }
    });
}

}  // namespace resq::RESQ_ISA
