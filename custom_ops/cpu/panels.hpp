// Many rows: a panel of weights is unpacked once and multiplied with all rows, one tile at a time.
//
//            panel: kPanel outputs                  tile: kTileRows rows x kPanel outputs
//   segment  ┌──────────────────┐                   ┌──────────────────┐
//   of low   │ dword 0 of each  │  a dword holds    │ int32 sums of one│ -> float sums of a part
//            │ dword 1 of each  │  4 (or 2) columns │ segment          │    -> y
//   ...      │ ...              │                   └──────────────────┘
//   of high  │                  │
//            └──────────────────┘
#pragma once

#include <cstring>

#include "isa.hpp"
#include "outputs.hpp"
#include "quantise.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

constexpr std::int64_t kPanel = kPanelBlocks * kLanes;

// Columns unpacked at a time for sixteen outputs: 4 or 8 kB of stack.
constexpr std::int64_t kUnpackColumns = 256;

inline std::int64_t segment_dwords(const Part& part) { return segment_bytes(part) / 4; }

inline std::int64_t panel_dwords(const MatMul& m) {
    return m.groups * (segment_dwords(m.parts[0]) + segment_dwords(m.parts[1]));
}

// For the panel, the column sums of every segment, and a row of ones.
inline std::size_t panel_bytes(const MatMul& m) {
    const std::int64_t widest = segment_bytes(m.parts[0]) > segment_bytes(m.parts[1])
                                    ? segment_bytes(m.parts[0])
                                    : segment_bytes(m.parts[1]);
    return static_cast<std::size_t>((panel_dwords(m) + m.segments()) * kPanel * 4 + widest) +
           kSlack;
}

// Weights `first` to `first + count` of a packed array, as signed bytes.
inline void unpack_nibbles(const std::uint8_t* packed, std::int64_t first, std::int64_t count,
                           std::int8_t* out) {
    std::int64_t k = 0;
    if (first % 2 == 0) {
        for (; k + 2 * kLanes <= count; k += 2 * kLanes) {
            unpack_signed(packed + (first + k) / 2, out + k);
        }
        if (k < count && count >= 2 * kLanes && count % 2 == 0) {
            k = count - 2 * kLanes;  // repeats some columns to reach the last
            unpack_signed(packed + (first + k) / 2, out + k);
            k = count;
        }
    }
    for (; k < count; ++k) {
        const int nibble = (packed[(first + k) / 2] >> ((first + k) % 2 * 4)) & 15;
        out[k] = static_cast<std::int8_t>((nibble ^ 8) - 8);
    }
}

// The same for elements of a panel: bytes, or 16-bit words.
inline void unpack_columns(const Part& part, std::int64_t first, std::int64_t count, void* out) {
    auto* bytes = static_cast<std::int8_t*>(out);
    if (part.bits == 4) {
        unpack_nibbles(part.weights, first, count, bytes);
    } else if (kByteElement == 1) {
        std::memcpy(bytes, part.weights + first, static_cast<std::size_t>(count));
    } else {
        const auto* source = reinterpret_cast<const std::int8_t*>(part.weights) + first;
        auto* words = static_cast<std::int16_t*>(out);
        for (std::int64_t k = 0; k < count; ++k) {
            words[k] = source[k];
        }
    }
}

// Sixteen outputs of one segment: dword d of output i goes to panel[d * kPanel + i].
inline void unpack_block(const MatMul& m, const Part& part, std::int64_t group, std::int64_t output,
                         std::uint32_t* panel) {
    alignas(64) std::uint8_t rows[kLanes][kUnpackColumns * kByteElement];
    const std::int64_t bytes = element_bytes(part);
    for (std::int64_t begin = 0; begin < part.width; begin += kUnpackColumns) {
        const std::int64_t left = part.width - begin;
        const std::int64_t count = left < kUnpackColumns ? left : kUnpackColumns;
        const std::int64_t used = (count * bytes + 15) / 16 * 16;
        for (std::int64_t i = 0; i < kLanes; ++i) {
            std::int64_t filled = 0;
            if (output + i < m.outputs) {
                const std::int64_t row = (output + i) * m.groups + group;
                unpack_columns(part, row * part.width + begin, count, rows[i]);
                filled = count * bytes;
            }
            std::memset(rows[i] + filled, 0, static_cast<std::size_t>(used - filled));
        }
        const std::int64_t dwords = (count * bytes + 3) / 4;
        std::uint32_t* out = panel + begin * bytes / 4 * kPanel;
        for (std::int64_t d = 0; d < dwords; d += 4) {
            I columns[4];
            transpose_dwords(rows[0] + 4 * d, kUnpackColumns * kByteElement, columns);
            for (std::int64_t j = 0; j < 4 && d + j < dwords; ++j) {
                store(reinterpret_cast<std::int32_t*>(out + (d + j) * kPanel), columns[j]);
            }
        }
    }
    // If the width is not a multiple of four, the last dwords of a segment of words may be missing.
    for (std::int64_t d = (part.width * bytes + 3) / 4; d < segment_dwords(part); ++d) {
        store(reinterpret_cast<std::int32_t*>(panel + d * kPanel), broadcast(0));
    }
}

template <int kRows>
inline void dot_tile(const Part& part, const std::uint8_t* rows, std::size_t stride,
                     const std::uint32_t* panel, std::int32_t* sums) {
    if (part.bits == 4) {
        dot_nibbles<kRows>(rows, stride, panel, segment_dwords(part), sums);
    } else {
        dot_bytes<kRows>(rows, stride, panel, segment_dwords(part), sums);
    }
}

struct Panel {
    std::uint32_t* dwords;      // (panel_dwords, kPanel)
    std::int32_t* column_sums;  // (segments, kPanel)
};

inline Panel unpack_panel(const MatMul& m, std::int64_t first_output, void* scratch) {
    auto* dwords = static_cast<std::uint32_t*>(scratch);
    auto* column_sums = reinterpret_cast<std::int32_t*>(dwords + panel_dwords(m) * kPanel);
    auto* ones = reinterpret_cast<std::uint8_t*>(column_sums + m.segments() * kPanel);
    const Panel panel{dwords, column_sums};
    for (const Part& part : m.parts) {
        if (part.width == 0) {
            continue;
        }
        for (std::int64_t k = 0; k < padded_width(part); ++k) {
            if (element_bytes(part) == 1) {
                ones[k] = 1;
            } else {
                reinterpret_cast<std::uint16_t*>(ones)[k] = 1;
            }
        }
        for (std::int64_t g = 0; g < m.groups; ++g) {
            for (std::int64_t block = 0; block < kPanelBlocks; ++block) {
                unpack_block(m, part, g, first_output + block * kLanes, dwords + block * kLanes);
            }
            dot_tile<1>(part, ones, 0, dwords, column_sums);
            dwords += segment_dwords(part) * kPanel;
            column_sums += kPanel;
        }
    }
    return panel;
}

// Adds one segment's exact sums, minus the contribution of the zero points, to a part's float sums.
template <int kRows>
inline void add_tile(const std::int32_t* sums, const std::int32_t* column_sums, const float* scales,
                     const std::int32_t* zeros, std::int64_t stride,
                     F (&floats)[kPanelBlocks][kRows]) {
    for (int b = 0; b < kPanelBlocks; ++b) {
        const I columns = load(column_sums + b * kLanes);
#pragma GCC unroll 6
        for (int r = 0; r < kRows; ++r) {
            const I exact =
                load(sums + r * kPanel + b * kLanes) - broadcast(zeros[r * stride]) * columns;
            floats[b][r] = add_segment(floats[b][r], exact, scales[r * stride]);
        }
    }
}

template <int kRows>
inline void multiply_tile(const MatMul& m, const Activations& x, const MatMulOutput& out,
                          const Panel& panel, std::int64_t row, std::int64_t first_output) {
    alignas(64) std::int32_t sums[kRows * kPanel];
    F floats[2][kPanelBlocks][kRows];
    for (auto& part : floats) {
        for (auto& block : part) {
            clear(block);
        }
    }
    const std::uint8_t* integers = x.integers + static_cast<std::size_t>(row) * x.row_bytes;
    const std::uint32_t* dwords = panel.dwords;
    const std::int32_t* column_sums = panel.column_sums;
    const std::int64_t segments = m.segments();
    std::int64_t segment = row * segments;
    for (int p = 0; p < 2; ++p) {
        const Part& part = m.parts[p];
        for (std::int64_t g = 0; g < m.groups && part.width > 0; ++g, ++segment) {
            dot_tile<kRows>(part, integers, x.row_bytes, dwords, sums);
            add_tile<kRows>(sums, column_sums, x.scales + segment, x.zeros + segment, segments,
                            floats[p]);
            integers += segment_bytes(part);
            dwords += segment_dwords(part) * kPanel;
            column_sums += kPanel;
        }
    }
    for (int b = 0; b < kPanelBlocks && first_output + b * kLanes < m.outputs; ++b) {
        write_block<kRows>(m, out, row, first_output + b * kLanes, floats[0][b], floats[1][b]);
    }
}

// The rows that remain after the whole tiles.
template <int kRows>
inline void multiply_rest(const MatMul& m, const Activations& x, const MatMulOutput& out,
                          const Panel& panel, std::int64_t row, std::int64_t rows,
                          std::int64_t first_output) {
    if (rows == kRows) {
        multiply_tile<kRows>(m, x, out, panel, row, first_output);
    } else if constexpr (kRows > 1) {
        multiply_rest<kRows - 1>(m, x, out, panel, row, rows, first_output);
    }
}

inline void multiply_panel(const MatMul& m, const Activations& x, const MatMulOutput& out,
                           std::int64_t index, std::int64_t first_row, std::int64_t last_row,
                           void* scratch) {
    const std::int64_t first_output = index * kPanel;
    const Panel panel = unpack_panel(m, first_output, scratch);
    std::int64_t row = first_row;
    for (; row + kTileRows <= last_row; row += kTileRows) {
        multiply_tile<kTileRows>(m, x, out, panel, row, first_output);
    }
    multiply_rest<kTileRows>(m, x, out, panel, row, last_row - row, first_output);
}

}  // namespace resq::RESQ_ISA
