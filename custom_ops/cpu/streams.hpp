// Few rows: each weight is read once, straight from the mapped file, and multiplied with all rows.
//
// Row by row, a vector holds columns of one output; the rows are first rearranged to match their
// order (`prepare_segment` of each instruction set). Column by column, it holds outputs
// (columns.hpp). Vectors may reach beyond a segment, where the rearranged rows are zero. The last
// weights are copied, so that reading beyond them is safe.
#pragma once

#include <algorithm>

#include "columns.hpp"
#include "counts.hpp"
#include "isa.hpp"
#include "outputs.hpp"
#include "quantise.hpp"
#include "resq/kernels.hpp"
#include "unpack.hpp"

namespace resq::RESQ_ISA {

// Cache lines to prefetch: those that arrive within one memory latency.
constexpr int kPrefetchedLines = 16;

inline bool can_stream(const MatMul& m) {
    return begins_at_bytes(m.parts[0]) && begins_at_bytes(m.parts[1]);
}

// Rows at once.
constexpr std::int64_t kStreamRows = kColumnRows > kFewRows ? kColumnRows : kFewRows;

// Whether rows are multiplied column by column. Row by row, a segment ends with sums over lanes,
// which short ones, such as those of one head of o_proj, do not repay. With AVX2 a single row of
// those was twice as fast by columns alone, but not in a model.
inline bool by_columns(const MatMul& m, std::int64_t rows) {
    constexpr std::int64_t kShortSegment = 128;
    return rows >= kRowsByColumns ||
           (rows > 1 && m.parts[0].width < kShortSegment && m.parts[1].width < kShortSegment);
}

// Bytes of one row prepared to be multiplied row by row.
inline std::size_t row_stream_bytes(const MatMul& m) {
    std::int64_t bytes = 0;
    for (const Part& part : m.parts) {
        bytes += part.width > 0 ? m.groups * prepared_bytes(part) : 0;
    }
    return static_cast<std::size_t>(bytes);
}

// Bytes of one prepared row.
inline std::size_t prepared_row_bytes(const MatMul& m) {
    std::int64_t bytes = 0;
    for (const Part& part : m.parts) {
        bytes += part.width > 0 ? m.groups * column_bytes(part, 1) : 0;
    }
    return std::max(row_stream_bytes(m), static_cast<std::size_t>(bytes));
}

inline void prepare_all_columns(const MatMul& m, const Activations& x, std::int64_t first_row,
                                std::int64_t rows, std::uint8_t* out) {
    const std::uint8_t* integers = x.integers + static_cast<std::size_t>(first_row) * x.row_bytes;
    const std::int32_t* zeros = x.zeros + first_row * m.segments();
    for (const Part& part : m.parts) {
        for (std::int64_t g = 0; g < m.groups && part.width > 0; ++g, ++zeros) {
            prepare_columns(part, integers, x.row_bytes, zeros, m.segments(), rows, out);
            integers += segment_bytes(part);
            out += column_bytes(part, rows);
        }
    }
}

inline void prepare_stream(const MatMul& m, const Activations& x, std::int64_t first_row,
                           std::int64_t rows, void* prepared) {
    auto* out = static_cast<std::uint8_t*>(prepared);
    if (by_columns(m, rows)) {
        return prepare_all_columns(m, x, first_row, rows, out);
    }
    for (std::int64_t row = first_row; row < first_row + rows; ++row) {
        const std::uint8_t* integers = x.integers + static_cast<std::size_t>(row) * x.row_bytes;
        std::int64_t segment = row * m.segments();
        for (const Part& part : m.parts) {
            for (std::int64_t g = 0; g < m.groups && part.width > 0; ++g, ++segment) {
                prepare_segment(part, integers, x.zeros[segment], out);
                integers += segment_bytes(part);
                out += prepared_bytes(part);
            }
        }
    }
}

// For a copy of sixteen rows of both parts.
inline std::size_t stream_scratch_bytes(const MatMul& m) {
    return block_bytes(m, m.parts[0]) + block_bytes(m, m.parts[1]);
}

// Prefetches the weights that are read after those of part `p` at `output`. The CPU predicts reads
// within sixteen rows, but not the step from one part to the other.
inline void prefetch_next(const MatMul& m, int p, std::int64_t output) {
    const bool is_last = p == 1 || m.parts[1].width == 0;
    const Part& next = m.parts[is_last && m.parts[0].width > 0 ? 0 : 1];
    const std::uint8_t* start =
        next.weights + (output + (is_last ? kLanes : 0)) * weight_row_bytes(m, next);
    for (int line = 0; line < kPrefetchedLines; ++line) {
        __builtin_prefetch(start + line * 64);
    }
    __builtin_prefetch(m.parts[p].scales + output + kLanes);
}

// Sixteen outputs, column by column.
template <int kRows>
inline void multiply_columns(const MatMul& m, const Activations& x, const MatMulOutput& out,
                             const std::uint8_t* prepared, std::int64_t first_row,
                             std::int64_t output, std::uint8_t* scratch) {
    F floats[2][kRows];
    clear(floats[0]);
    clear(floats[1]);
    std::int64_t segment = first_row * m.segments();
    for (int p = 0; p < 2; ++p) {
        const Part& part = m.parts[p];
        if (part.width == 0) {
            continue;
        }
        const std::int64_t stride = weight_row_bytes(m, part);
        const std::uint8_t* weights = block_weights(m, part, output, scratch);
        scratch += block_bytes(m, part);
        Rows rows{weights, stride, weights + kLanes * stride};
        for (std::int64_t g = 0; g < m.groups; ++g, ++segment) {
            I sums[kRows];
            if (part.bits == 4) {
                sum_nibble_columns<kRows>(part, rows, prepared, sums);
            } else {
                sum_byte_columns<kRows>(part, rows, prepared, x.zeros + segment, m.segments(),
                                        sums);
            }
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
                const float scale = x.scales[segment + r * m.segments()];
                floats[p][r] = add_segment(floats[p][r], sums[r], scale);
            }
            rows.data += part.width * part.bits / 8;
            rows.next += part.width * part.bits / 8 * kLanes;
            prepared += column_bytes(part, kRows);
        }
    }
    write_block<kRows>(m, out, first_row, output, floats[0], floats[1]);
}

// Sixteen outputs, row by row.
template <int kRows>
inline void multiply_block(const MatMul& m, const Activations& x, const MatMulOutput& out,
                           const std::uint8_t* prepared, std::int64_t first_row,
                           std::int64_t output, std::uint8_t* scratch) {
    alignas(64) std::int32_t sums[kRows * kLanes];
    const auto stride = static_cast<std::int64_t>(row_stream_bytes(m));
    F floats[2][kRows];
    clear(floats[0]);
    clear(floats[1]);
    std::int64_t segment = first_row * m.segments();
    for (int p = 0; p < 2; ++p) {
        const Part& part = m.parts[p];
        if (part.width == 0) {
            continue;
        }
        const std::int64_t bytes = weight_row_bytes(m, part);
        const std::uint8_t* weights = block_weights(m, part, output, scratch);
        scratch += block_bytes(m, part);
        prefetch_next(m, p, output);
        for (std::int64_t g = 0; g < m.groups; ++g, ++segment) {
            std::int32_t zeros[kRows];
            for (int r = 0; r < kRows; ++r) {
                zeros[r] = x.zeros[segment + r * m.segments()];
            }
            if (part.bits == 4) {
                stream_nibbles<kRows>(part, weights, bytes, prepared, stride, zeros, sums);
            } else {
                stream_bytes<kRows>(part, weights, bytes, prepared, stride, zeros, sums);
            }
            for (int r = 0; r < kRows; ++r) {
                const float scale = x.scales[segment + r * m.segments()];
                floats[p][r] = add_segment(floats[p][r], load(sums + r * kLanes), scale);
            }
            weights += part.width * part.bits / 8;
            prepared += prepared_bytes(part);
        }
    }
    write_block<kRows>(m, out, first_row, output, floats[0], floats[1]);
}

inline void multiply_stream(const MatMul& m, const Activations& x, const MatMulOutput& out,
                            const void* prepared, std::int64_t first_row, std::int64_t rows,
                            std::int64_t first_block, std::int64_t last_block, void* scratch) {
    const auto* from = static_cast<const std::uint8_t*>(prepared);
    auto* copy = static_cast<std::uint8_t*>(scratch);
    const auto each_block = [&](const auto& multiply) {
        for (std::int64_t block = first_block; block < last_block; ++block) {
            multiply(block * kLanes);
        }
    };
    if (by_columns(m, rows)) {
        with_count<kColumnRows>(rows, [&](auto count) {
            each_block([&](std::int64_t output) {
                multiply_columns<count>(m, x, out, from, first_row, output, copy);
            });
        });
    } else {
        with_count<kFewRows>(rows, [&](auto count) {
            each_block([&](std::int64_t output) {
                multiply_block<count>(m, x, out, from, first_row, output, copy);
            });
        });
    }
}

}  // namespace resq::RESQ_ISA
