// Few rows, column by column: a dword of columns of sixteen outputs becomes a register, whose lanes
// are outputs, and is multiplied with all rows. No sum over lanes ends a segment, so short ones
// cost no more than long ones, and weights are unpacked once for all rows, without a panel in
// memory.
//
// Prepared rows (prepare_columns) are interleaved, take by take. A take is 16 bytes of an output's
// weights: 32 columns of 4 bits, in the order of nibble_place, or 16 of 8 bits. What lies beyond a
// segment is multiplied with zeros.
//
//   4 bits  Σ (q - z) of each row | take 0: q - z of row 0, of row 1, ... | take 1 ...
//           With its sign bit flipped a nibble is w + 8, and Σ (w + 8) (q - z) - 8 Σ (q - z) is
//           what is wanted.
//   8 bits  the same with q, behind as many ones as there are columns, with which the weights are
//           summed: Σ w q - z Σ w. If elements have two bytes, with q - z, and without ones.
#pragma once

#include <cstring>

#include "isa.hpp"
#include "quantise.hpp"
#include "resq/kernels.hpp"
#include "unpack.hpp"

namespace resq::RESQ_ISA {

// Columns of a take, and its bytes for one row.
constexpr std::int64_t kNibblesOfTake = 32, kBytesOfTake = 16;
constexpr std::int64_t kTakeOfBytes = kBytesOfTake * kByteElement;
constexpr bool kSumsWeights = kByteElement == 1;

inline std::int64_t takes(std::int64_t width, std::int64_t columns) {
    return (width + columns - 1) / columns;
}

// Bytes of a prepared segment of `rows` rows.
inline std::int64_t column_bytes(const Part& part, std::int64_t rows) {
    if (part.bits == 4) {
        const auto total = static_cast<std::int64_t>(sizeof(std::int32_t));
        return rows * (total + takes(part.width, kNibblesOfTake) * kNibblesOfTake);
    }
    const std::int64_t count = takes(part.width, kBytesOfTake);
    return count * (rows * kTakeOfBytes + (kSumsWeights ? kBytesOfTake : 0));
}

// Writes the takes of one row, each `step` bytes after the one before. Returns Σ (q - z).
inline std::int32_t prepare_nibble_columns(const Part& part, const std::uint8_t* integers,
                                           std::int32_t zero_point, std::int64_t step,
                                           std::uint8_t* out) {
    const auto zero = static_cast<std::uint8_t>(zero_point);
    std::int32_t total = 0;
    std::int64_t k = 0;
    for (; k + kNibblesOfTake <= part.width; k += kNibblesOfTake, out += step) {
        for (int i = 0; i < kNibblesOfTake; ++i) {
            out[i] = static_cast<std::uint8_t>(integers[k + i] - zero);
            total += static_cast<std::int8_t>(out[i]);
        }
    }
    if (k < part.width) {
        std::memset(out, 0, kNibblesOfTake);
        for (std::int64_t i = k; i < part.width; ++i) {
            const std::int64_t place = nibble_place(i);
            out[place - k] = static_cast<std::uint8_t>(integers[place] - zero);
            total += static_cast<std::int8_t>(out[place - k]);
        }
    }
    return total;
}

inline void prepare_byte_columns(const Part& part, const std::uint8_t* integers,
                                 std::int32_t zero_point, std::int64_t step, std::uint8_t* out) {
    for (std::int64_t k = 0; k < part.width; k += kBytesOfTake, out += step) {
        const std::int64_t left = part.width - k, count = left < kBytesOfTake ? left : kBytesOfTake;
        std::memset(out, 0, kTakeOfBytes);
        if (kSumsWeights) {
            std::memcpy(out, integers + k, static_cast<std::size_t>(count));
            continue;
        }
        const auto* words = reinterpret_cast<const std::uint16_t*>(integers) + k;
        for (std::int64_t i = 0; i < count; ++i) {
            reinterpret_cast<std::int16_t*>(out)[i] =
                static_cast<std::int16_t>(words[i] - zero_point);
        }
    }
}

// Prepares one segment of `rows` rows, whose integers are `stride` bytes apart and whose zero
// points are `segments` apart.
inline void prepare_columns(const Part& part, const std::uint8_t* integers, std::size_t stride,
                            const std::int32_t* zeros, std::int64_t segments, std::int64_t rows,
                            std::uint8_t* out) {
    std::uint8_t* totals = out;
    if (part.bits == 4) {
        out += rows * static_cast<std::int64_t>(sizeof(std::int32_t));
    } else if (kSumsWeights) {
        const std::int64_t bytes = takes(part.width, kBytesOfTake) * kBytesOfTake;
        std::memset(out, 0, static_cast<std::size_t>(bytes));
        std::memset(out, 1, static_cast<std::size_t>(part.width));
        out += bytes;
    }
    for (std::int64_t r = 0; r < rows; ++r, integers += stride, zeros += segments) {
        if (part.bits == 8) {
            prepare_byte_columns(part, integers, *zeros, rows * kTakeOfBytes,
                                 out + r * kTakeOfBytes);
            continue;
        }
        const std::int32_t total = prepare_nibble_columns(
            part, integers, *zeros, rows * kNibblesOfTake, out + r * kNibblesOfTake);
        std::memcpy(totals + r * static_cast<std::int64_t>(sizeof total), &total, sizeof total);
    }
}

inline std::int32_t dword_at(const std::uint8_t* p) {
    std::int32_t dword;
    std::memcpy(&dword, p, sizeof dword);
    return dword;
}

// Reads 16 bytes of each of sixteen rows of weights, and prefetches those of the next sixteen.
inline void take_columns(Rows* rows, I dwords[4]) {
    constexpr int kLine = 64;
    for (int line = 0; line < 16 * kLanes; line += kLine) {
        __builtin_prefetch(rows->next + line);
    }
    transpose_dwords(rows->data, rows->stride, dwords);
    rows->data += 16;
    rows->next += 16 * kLanes;
}

// Sums of a row, so that one addition does not wait for the other.
template <int kRows>
constexpr int kChains = kColumnSums / kRows >= 4   ? 4
                        : kColumnSums / kRows >= 2 ? 2
                                                   : 1;

// Adds the products of some takes of 4-bit columns with kRows rows at `x` to `sums`.
template <int kRows>
inline void add_nibble_takes(std::int64_t count, Rows* rows, const std::uint8_t* x,
                             I (&sums)[kRows]) {
    const I signs = broadcast(static_cast<std::int32_t>(0x88888888u)), mask = broadcast(0x0F0F0F0F);
    I chains[kRows][kChains<kRows>];
    for (auto& row : chains) {
        for (I& one : row) {
            one = broadcast(0);
        }
    }
    for (std::int64_t t = 0; t < count; ++t, x += kRows * kNibblesOfTake) {
        I dwords[4];
        take_columns(rows, dwords);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            const I both = dwords[j] ^ signs;
            const I halves[2] = {both & mask, (both >> 4) & mask};  // even columns, odd ones
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
                for (int i = 0; i < 2; ++i) {
                    I& sum = chains[r][(2 * j + i) % kChains<kRows>];
                    sum = add_nibble_products(sum, halves[i],
                                              dword_at(x + r * kNibblesOfTake + 8 * j + 4 * i));
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
        I all = chains[r][0];
#pragma GCC unroll 4
        for (int i = 1; i < kChains<kRows>; ++i) {
            all = all + chains[r][i];
        }
        sums[r] = sums[r] + widened(all);
    }
}

// sums[r] = Σ w (q - z) of row r, over a segment of 4-bit columns; lanes are outputs.
template <int kRows>
inline void sum_nibble_columns(const Part& part, Rows rows, const std::uint8_t* x,
                               I (&sums)[kRows]) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r, x += sizeof(std::int32_t)) {
        sums[r] = broadcast(-8 * dword_at(x));
    }
    std::int64_t left = takes(part.width, kNibblesOfTake);
    while (left > 0) {
        const std::int64_t some = left < kTakesOfSum ? left : kTakesOfSum;
        add_nibble_takes<kRows>(some, &rows, x, sums);
        x += some * kRows * kNibblesOfTake;
        left -= some;
    }
}

// The same over a segment of 8-bit columns.
template <int kRows>
inline void sum_byte_columns(const Part& part, Rows rows, const std::uint8_t* x,
                             const std::int32_t* zeros, std::int64_t segments, I (&sums)[kRows]) {
    const std::uint8_t* ones = x;
    x += kSumsWeights ? takes(part.width, kBytesOfTake) * kBytesOfTake : 0;
    I weights = broadcast(0);
    for (I& one : sums) {
        one = broadcast(0);
    }
    for (std::int64_t k = 0; k < part.width; k += kBytesOfTake, x += kRows * kTakeOfBytes) {
        I dwords[4];
        take_columns(&rows, dwords);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            if (k + 4 * j >= part.width) {
                break;
            }
            I parts[kByteElement];
            split_bytes(dwords[j], parts);
            if (kSumsWeights) {
                weights = add_byte_products(weights, parts[0], dword_at(ones + k + 4 * j));
            }
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
                for (int i = 0; i < kByteElement; ++i) {
                    sums[r] = add_byte_products(
                        sums[r], parts[i],
                        dword_at(x + r * kTakeOfBytes + 4 * (kByteElement * j + i)));
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
        sums[r] = kSumsWeights ? sums[r] - weights * broadcast(zeros[r * segments]) : sums[r];
    }
}

}  // namespace resq::RESQ_ISA
