// Scores and weighted values of few queries, directly from packed records: no tile of floats.
//
// Every element has the steps of the path over tiles (decode_*, gemm), in their order, so a query's
// bits do not depend on the path.
#pragma once

#include <cstring>
#include <type_traits>

#include "isa.hpp"
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

// Calls use(rows), with the number of rows as a type.
template <int kRows = kDirectRows, typename Use>
inline void with_rows(std::int64_t rows, const Use& use) {
    if (rows == kRows) {
        use(std::integral_constant<int, kRows>{});
    } else if constexpr (kRows > 1) {
        with_rows<kRows - 1>(rows, use);
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
                           const Queries& queries, std::int64_t slots, float* scores) {
    with_rows(queries.rows, [&](auto rows) {
        // Each sum waits for its last addition, so few rows take two groups of slots side by side.
        constexpr int kCount = 2 * rows <= kScoreSums ? 2 : 1;
        std::int64_t slot = 0;
        for (; slot + kCount * kLanes <= slots; slot += kCount * kLanes) {
            score_sixteens<rows, kCount>(layout, records + slot * layout.bytes, queries,
                                         scores + slot);
        }
        for (; slot < slots; slot += kLanes) {
            score_sixteens<rows, 1>(layout, records + slot * layout.bytes, queries, scores + slot);
        }
    });
}

// The sums of values of each row of queries, and the weights of sixteen slots.
struct Weighted {
    float* sums;  // (rows, head_dim), rows `stride` apart
    std::int64_t stride;
    const float* weights;  // (rows, kChunk)
};

// Adds the values of sixteen slots at one to sixteen coefficients, `count`. With exactly eight, the
// compiler leaves out what belongs to the others.
template <int kRows, int kBits, bool kEight>
inline void add_coefficients(const std::uint8_t* packed, std::int64_t bytes,
                             const Meanings& meanings, const Weighted& out, std::int64_t k,
                             std::int64_t count) {
    F sums[kRows];
    for (int r = 0; r < kRows; ++r) {
        const float* from = out.sums + r * out.stride + k;
        sums[r] = kEight ? load(from) : load_first(from, count);
    }
    for (int i = 0; i < kLanes; ++i) {
        const F values = coefficients<kBits>(packed + i * bytes, meanings, i);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
            sums[r] = fma(broadcast(out.weights[r * kChunk + i]), values, sums[r]);
        }
    }
    for (int r = 0; r < kRows; ++r) {
        float* to = out.sums + r * out.stride + k;
        if (kEight) {
            store_half(to, sums[r]);
        } else {
            store_first(to, sums[r], count);
        }
    }
}

// Adds one part of the values of sixteen slots, whose first coefficient is `first`.
template <int kRows, int kBits>
inline void add_part(const Record& layout, const RecordPart& part, const std::uint8_t* records,
                     const float* shown, std::int64_t first, const Weighted& out) {
    const Meanings meanings = meanings_of<kBits>(layout, part, records, shown);
    for (std::int64_t k = 0; k < part.rank; k += kLanes) {
        const std::uint8_t* packed = records + part.values + k * kBits / 8;
        const std::int64_t left = part.rank - k;
        if (left == kLanes / 2) {
            add_coefficients<kRows, kBits, true>(packed, layout.bytes, meanings, out, first + k,
                                                 left);
        } else {
            add_coefficients<kRows, kBits, false>(packed, layout.bytes, meanings, out, first + k,
                                                  left);
        }
    }
}

// Adds the values of sixteen slots.
template <int kRows>
inline void add_sixteen(const Record& layout, const std::uint8_t* records, const float* shown,
                        const Weighted& out) {
    std::int64_t first = 0;
    for (const RecordPart& part : layout.parts) {
        if (part.rank > 0 && part.bits == 4) {
            add_part<kRows, 4>(layout, part, records, shown, first, out);
        } else if (part.rank > 0) {
            add_part<kRows, 8>(layout, part, records, shown, first, out);
        }
        first += part.rank;
    }
}

// sums = weights · V for `slots` slots. `shown` as for meanings_of.
inline void weigh_directly(const Record& layout, const std::uint8_t* records, const float* shown,
                           const Queries& queries, std::int64_t slots, const Weighted& out) {
    with_rows(queries.rows, [&](auto rows) {
        for (int r = 0; r < rows; ++r) {
            std::memset(out.sums + r * out.stride, 0,
                        static_cast<std::size_t>(queries.head_dim) * sizeof(float));
        }
        for (std::int64_t slot = 0; slot < slots; slot += kLanes) {
            add_sixteen<rows>(layout, records + slot * layout.bytes,
                              shown == nullptr ? nullptr : shown + slot,
                              {out.sums, out.stride, out.weights + slot});
        }
    });
}

}  // namespace resq::RESQ_ISA
