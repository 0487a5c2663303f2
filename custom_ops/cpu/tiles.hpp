// Scores and weighted values of many queries: a chunk's records are unpacked into a tile of pairs,
// which all rows share.
#pragma once

#include "direct.hpp"
#include "isa.hpp"
#include "records.hpp"
#include "resq/kernels.hpp"
#include "rounded.hpp"
#include "sums.hpp"

namespace resq::RESQ_ISA {

// Coefficients of a part in a tile of values.
inline std::int64_t padded_rank(const RecordPart& part) {
    const std::int64_t step = part.bits == 4 ? 4 * kLanes : kLanes;
    return (part.rank + step - 1) / step * step;
}

// Dwords of a tile of keys (pairs_of, kChunk), and of one of values, part after part (kChunk / 2,
// padded_rank).
inline std::int64_t tile_dwords(const Record& layout) {
    const std::int64_t keys = stored_pairs(layout) * kChunk;
    const std::int64_t values =
        (padded_rank(layout.parts[0]) + padded_rank(layout.parts[1])) * kChunk / 2;
    return keys > values ? keys : values;
}

// The same word twice.
inline I twice(I words) { return words + (words << 16); }

template <int kBits>
inline void unpack_keys(const Slots& slots, int p, std::int32_t* tile) {
    for (std::int64_t slot = 0; slot < slots.count; slot += kLanes) {
        const I zeros = twice(load(slots.scales.zeros[p] + slot));
        const auto store_keys = [&](std::int64_t j, const I(&keys)[1]) {
            for (int i = 0; i < kLanes / kPairLanes; ++i) {
                store_pairs(tile + j * kChunk + slot + i * kPairLanes,
                            subtract_words(part_of(keys[0], i), part_of(zeros, i)));
            }
        };
        each_pair<kBits, 1>(slots.layout, slots.layout.parts[p],
                            slots.records + slot * slots.layout.bytes, store_keys);
    }
}

template <int kBits>
inline void unpack_values(const Slots& slots, int p, std::int32_t* tile) {
    constexpr int kStep = kBits == 4 ? 4 * kPairLanes : kPairLanes;
    const RecordPart& part = slots.layout.parts[p];
    const std::int64_t bytes = slots.layout.bytes;
    const std::int32_t* zeros = slots.scales.zeros[p];
    const std::int64_t rank = part.rank, stride = padded_rank(part);
    const P mask = repeat(0x000F000F);
    for (std::int64_t slot = 0; slot < slots.count; slot += 2, tile += stride) {
        const std::uint8_t* packed = slots.records + slot * bytes + part.values;
        const P both = repeat(zeros[slot] + (zeros[slot + 1] << 16));
        for (std::int64_t k = 0; k < rank; k += kStep) {
            const std::uint8_t* from = packed + k * kBits / 8;
            if constexpr (kBits == 4) {
                const P four = pairs_of_words(from, from + bytes);
                store_turns(tile + k, {subtract_words(four & mask, both),
                                       subtract_words((four >> 4) & mask, both),
                                       subtract_words((four >> 8) & mask, both),
                                       subtract_words((four >> 12) & mask, both)});
            } else {
                store_pairs(tile + k, subtract_words(pairs_of_bytes(from, from + bytes), both));
            }
        }
    }
}

// Pairs (rows, depth), rows `stride` dwords apart, and a tile (depth, columns) of pairs.
struct PairRows {
    const void* data;
    std::int64_t stride;
    std::int32_t pair(std::int64_t row, std::int64_t k) const {
        std::int32_t pair;
        std::memcpy(&pair, static_cast<const std::int32_t*>(data) + row * stride + k, sizeof pair);
        return pair;
    }
};
struct PairTile {
    const std::int32_t* data;
    std::int64_t stride, depth;
};

// Calls finish(row, column, sums) for kRows rows and kBlocks times sixteen columns.
template <int kRows, int kBlocks, typename Finish>
inline void multiply_pairs(const PairRows& a, const PairTile& b, std::int64_t row,
                           std::int64_t column, const Finish& finish) {
    Sums sums[kRows][kBlocks];
    for (auto& one : sums) {
        for (Sums& block : one) {
            block = no_sixteen();
        }
    }
    constexpr int kRegisters = kLanes / kPairLanes;
    for (std::int64_t k = 0; k < b.depth; ++k) {
        P right[kBlocks * kRegisters];
        for (int j = 0; j < kBlocks * kRegisters; ++j) {
            right[j] = load_pairs(b.data + k * b.stride + column + j * kPairLanes);
        }
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
            const P left = repeat(a.pair(row + i, k));
#pragma GCC unroll 16
            for (int j = 0; j < kBlocks * kRegisters; ++j) {
                PairSums& one = sums[i][j / kRegisters].parts[j % kRegisters];
                one = held(dot(one, right[j], left));
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
        for (int j = 0; j < kBlocks; ++j) {
            finish(row + i, column + j * kLanes, total(sums[i][j]));
        }
    }
}

template <int kRows, int kBlocks, typename Finish>
inline void multiply_rows(const PairRows& a, const PairTile& b, std::int64_t row, std::int64_t last,
                          std::int64_t column, const Finish& finish) {
    for (; row + kRows <= last; row += kRows) {
        multiply_pairs<kRows, kBlocks>(a, b, row, column, finish);
    }
    if constexpr (kRows > 1) {
        if (row < last) {
            multiply_rows<kRows / 2, kBlocks>(a, b, row, last, column, finish);
        }
    }
}

// The same for all rows and columns, which are a multiple of sixteen.
template <typename Finish>
inline void multiply_tile(const PairRows& a, const PairTile& b, std::int64_t rows,
                          std::int64_t columns, const Finish& finish) {
    std::int64_t column = 0;
    for (; column + kGemmBlocks * kLanes <= columns; column += kGemmBlocks * kLanes) {
        multiply_rows<kGemmRows, kGemmBlocks>(a, b, 0, rows, column, finish);
    }
    for (; column < columns; column += kLanes) {
        multiply_rows<kGemmRows, 1>(a, b, 0, rows, column, finish);
    }
}

// scores (rows, kChunk) = Q · Kᵀ.
inline void score_tile(const Slots& slots, const RoundedQueries& queries, std::int64_t rows,
                       std::int32_t* tile, float* scores) {
    const std::int64_t stride = stored_pairs(slots.layout);
    const std::int32_t* pairs = queries.pairs;
    for (int p = 0; p < 2; ++p) {
        const RecordPart& part = slots.layout.parts[p];
        if (part.rank == 0) {
            continue;
        }
        if (part.bits == 4) {
            unpack_keys<4>(slots, p, tile);
        } else {
            unpack_keys<8>(slots, p, tile);
        }
        const PairTile keys{tile, kChunk, pairs_of(part)};
        const bool is_first = pairs == queries.pairs;
        multiply_tile({pairs, stride}, keys, rows, slots.count,
                      [&](std::int64_t row, std::int64_t slot, I sums) {
                          const F scales = load(slots.scales.scales[p] + slot);
                          const float scale = queries.scales[2 * row + p];
                          float* to = scores + row * kChunk + slot;
                          store(to, is_first ? score_of(sums, scales, scale)
                                             : add_score(load(to), sums, scales, scale));
                      });
        pairs += stored_pairs(part);
    }
}

// out = weights · V.
inline void weigh_tile(const Slots& slots, const RoundedWeights& weights, std::int64_t rows,
                       std::int32_t* tile, ValueRows out) {
    for (int p = 0; p < 2; ++p) {
        const RecordPart& part = slots.layout.parts[p];
        if (part.rank == 0) {
            continue;
        }
        if (part.bits == 4) {
            unpack_values<4>(slots, p, tile);
        } else {
            unpack_values<8>(slots, p, tile);
        }
        multiply_tile({weights.words + p * kChunk, kChunk},
                      {tile, padded_rank(part), slots.count / 2}, rows,
                      (part.rank + kLanes - 1) / kLanes * kLanes,
                      [&](std::int64_t row, std::int64_t k, I sums) {
                          const F values = to_float(sums) * broadcast(weights.scales[2 * row + p]);
                          store_first(out.data + row * out.stride + k, values, part.rank - k);
                      });
        out.data += part.rank;
    }
}

}  // namespace resq::RESQ_ISA
