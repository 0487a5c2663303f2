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

#include <algorithm>

#include "isa.hpp"
#include "outputs.hpp"
#include "quantise.hpp"
#include "resq/kernels.hpp"
#include "unpack.hpp"

namespace resq::RESQ_ISA {

inline std::int64_t panel_dwords(const MatMul& m) {
    return m.groups * (segment_dwords(m.parts[0]) + segment_dwords(m.parts[1]));
}

// For the panel and the column sums of every segment, and for a row of ones or, before that, a copy
// of the last outputs' weights.
inline std::size_t panel_bytes(const MatMul& m) {
    std::size_t rest = 0;
    for (const Part& part : m.parts) {
        const std::size_t ones = static_cast<std::size_t>(segment_bytes(part)) + kSlack;
        const std::size_t copy = block_bytes(m, part);
        rest = rest > ones ? rest : ones;
        rest = rest > copy ? rest : copy;
    }
    return static_cast<std::size_t>((panel_dwords(m) + m.segments()) * kPanel * 4) + rest;
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
    auto* rest = reinterpret_cast<std::uint8_t*>(column_sums + m.segments() * kPanel);
    const Panel panel{dwords, column_sums};
    for (const Part& part : m.parts) {
        if (part.width == 0) {
            continue;
        }
        for (std::int64_t block = 0; block < kPanelBlocks; ++block) {
            unpack_block(m, part, first_output + block * kLanes, dwords + block * kLanes, rest);
        }
        if (element_bytes(part) == 1) {
            std::fill_n(rest, padded_width(part), std::uint8_t{1});
        } else {
            std::fill_n(reinterpret_cast<std::uint16_t*>(rest), padded_width(part),
                        std::uint16_t{1});
        }
        for (std::int64_t g = 0; g < m.groups; ++g) {
            dot_tile<1>(part, rest, 0, dwords, column_sums);
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
