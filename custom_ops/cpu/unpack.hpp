// Weights from the mapped file: sixteen rows at a time, and their panels of dwords.
//
// Rows become columns before nibbles become bytes, as that moves half the bytes. A dword of packed
// weights holds eight columns; its low nibbles make one dword of a panel, the even columns, and its
// high ones the next. Quantised rows have that order, too (nibble_place).
#pragma once

#include <cstring>

#include "isa.hpp"
#include "quantise.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

constexpr std::int64_t kPanel = kPanelBlocks * kLanes;

// Bytes of a row of weights, all groups.
inline std::int64_t weight_row_bytes(const MatMul& m, const Part& part) {
    return m.groups * part.width * part.bits / 8;
}

// Whether every segment begins at a byte.
inline bool begins_at_bytes(const Part& part) { return part.bits == 8 || part.width % 2 == 0; }

// For a copy of sixteen rows of a part.
inline std::size_t block_bytes(const MatMul& m, const Part& part) {
    return static_cast<std::size_t>(kLanes * weight_row_bytes(m, part)) + kSlack;
}

// Sixteen rows of a part's weights from `output` on; those after the last are zeros. Reading beyond
// them is safe.
inline const std::uint8_t* block_weights(const MatMul& m, const Part& part, std::int64_t output,
                                         std::uint8_t* scratch) {
    const std::int64_t bytes = weight_row_bytes(m, part);
    const std::uint8_t* weights = part.weights + output * bytes;
    const std::int64_t behind = (m.outputs - output - kLanes) * bytes;
    if (behind >= static_cast<std::int64_t>(kSlack)) {
        return weights;
    }
    const std::int64_t left = m.outputs - output, some = left < kLanes ? left : kLanes;
    const auto used = static_cast<std::size_t>(some > 0 ? some * bytes : 0);
    if (used > 0) {
        std::memcpy(scratch, weights, used);
    }
    std::memset(scratch + used, 0, block_bytes(m, part) - used);
    return scratch;
}

inline std::int64_t segment_dwords(const Part& part) { return segment_bytes(part) / 4; }

inline void store_dwords(std::uint32_t* panel, I dwords) {
    store(reinterpret_cast<std::int32_t*>(panel), dwords);
}

// The bits of the first `count` of `all` columns in a dword.
inline std::int32_t first_columns(std::int64_t count, int all) {
    return count >= all ? -1 : static_cast<std::int32_t>((UINT32_C(1) << count * (32 / all)) - 1);
}

// Stores eight columns of sixteen outputs, from dwords of nibbles.
inline void store_nibbles(std::uint32_t* panel, I eight) {
    store_dwords(panel, signed_nibbles(eight));
    store_dwords(panel + kPanel, signed_nibbles(eight >> 4));
}

// Stores four columns of sixteen outputs, from dwords of bytes.
inline void store_columns(std::uint32_t* panel, I four) {
    if (kByteElement == 1) {
        return store_dwords(panel, four);
    }
    I words[2];
    widen_bytes(four, words);
    store_dwords(panel, words[0]);
    store_dwords(panel + kPanel, words[1]);
}

// Sixteen rows of a segment of weights, `stride` bytes apart, and where their counterparts in the
// next panel are, without gaps: that many bytes are prefetched, in any order.
struct Rows {
    const std::uint8_t* data;
    std::int64_t stride;
    const std::uint8_t* next;
};

// Reads 16 bytes of each row.
inline void take_dwords(Rows* rows, I dwords[4]) {
    constexpr int kLine = 64;
    for (int line = 0; line < 16 * kLanes; line += kLine) {
        __builtin_prefetch(rows->next + line, 0, 2);  // to the L2 cache: L1 has the panel
    }
    transpose_dwords(rows->data, rows->stride, dwords);
    rows->data += 16;
    rows->next += 16 * kLanes;
}

// A segment of sixteen rows: dword d of row i goes to panel[d * kPanel + i]. `store` does so for a
// dword of each row, which holds kColumns columns and takes kStep of panel.
template <int kColumns, int kStep, typename Store>
inline void unpack_rows(std::int64_t width, Rows rows, std::uint32_t* panel, const Store& store) {
    I dwords[4];
    for (; width >= 4 * kColumns; width -= 4 * kColumns, panel += 4 * kStep) {
        take_dwords(&rows, dwords);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            store(panel + j * kStep, dwords[j]);
        }
    }
    if (width > 0) {
        take_dwords(&rows, dwords);
        for (int j = 0; width > 0; ++j, width -= kColumns, panel += kStep) {
            store(panel, dwords[j] & broadcast(first_columns(width, kColumns)));
        }
    }
}

inline void unpack_nibbles(const Part& part, const Rows& rows, std::uint32_t* panel) {
    unpack_rows<8, 2 * kPanel>(part.width, rows, panel,
                               [](std::uint32_t* to, I eight) { store_nibbles(to, eight); });
}

inline void unpack_bytes(const Part& part, const Rows& rows, std::uint32_t* panel) {
    unpack_rows<4, kByteElement * kPanel>(
        part.width, rows, panel, [](std::uint32_t* to, I four) { store_columns(to, four); });
    // Half of the last eight columns may be missing.
    for (std::int64_t d = (part.width + 3) / 4 * kByteElement; d < segment_dwords(part); ++d) {
        store_dwords(panel + d * kPanel, broadcast(0));
    }
}

// Sixteen outputs of a segment that may begin inside a byte, one weight after the other. No model
// known has such segments.
inline void unpack_slowly(const MatMul& m, const Part& part, std::int64_t group,
                          std::int64_t output, std::uint32_t* panel) {
    for (std::int64_t d = 0; d < segment_dwords(part); ++d) {
        store_dwords(panel + d * kPanel, broadcast(0));
    }
    for (std::int64_t i = 0; i < kLanes && output + i < m.outputs; ++i) {
        for (std::int64_t k = 0; k < part.width; ++k) {
            const std::int64_t n = ((output + i) * m.groups + group) * part.width + k;
            const int nibble = (part.weights[n / 2] >> (n % 2 * 4)) & 15;
            const std::int64_t place = nibble_place(k);
            auto* dword = reinterpret_cast<std::uint8_t*>(panel + place / 4 * kPanel + i);
            dword[place % 4] = static_cast<std::uint8_t>((nibble ^ 8) - 8);
        }
    }
}

// Sixteen outputs, all segments of a part, to a panel.
inline void unpack_block(const MatMul& m, const Part& part, std::int64_t output,
                         std::uint32_t* panel, std::uint8_t* scratch) {
    const bool at_bytes = begins_at_bytes(part);
    const std::uint8_t* rows = at_bytes ? block_weights(m, part, output, scratch) : nullptr;
    const std::int64_t stride = weight_row_bytes(m, part);
    for (std::int64_t g = 0; g < m.groups; ++g, panel += segment_dwords(part) * kPanel) {
        const std::int64_t before = g * part.width * part.bits / 8;
        if (!at_bytes) {
            unpack_slowly(m, part, g, output, panel);
            continue;
        }
        const Rows segment{rows + before, stride, rows + kPanel * stride + kLanes * before};
        if (part.bits == 4) {
            unpack_nibbles(part, segment, panel);
        } else {
            unpack_bytes(part, segment, panel);
        }
    }
}

}  // namespace resq::RESQ_ISA
