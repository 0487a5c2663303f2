// MixedPrecisionMatMul: y = (RMS-normalise?) x · Wᵀ + bias + residual, on integers.
//
// Columns of X are, group by group, [low | high]; columns of a weight are those of all groups. A
// segment holds the columns of one part and one group, which share one scale and one zero point per
// row. Segments are numbered low part first, then high part, groups in order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "resq/tensors.hpp"

namespace resq {

// One part of the columns; absent if `width` is 0.
struct Part {
    int bits = 4;                           // of a weight and of an activation: 4 or 8
    std::int64_t width = 0;                 // columns of one group
    float clip = 1.0f;                      // share of the activations' range that is kept
    const std::uint8_t* weights = nullptr;  // (outputs, groups * width), two's complement
    const float* scales = nullptr;          // (outputs)
};

struct MatMul {
    std::int64_t outputs = 0;
    std::int64_t groups = 1;
    Part parts[2];                // low, high
    bool normalise = false;       // divide x by its root mean square
    float epsilon = 0.0f;         // added to the mean square
    const float* bias = nullptr;  // (outputs), or null

    constexpr std::int64_t columns() const { return groups * (parts[0].width + parts[1].width); }
    constexpr std::int64_t segments() const {
        return groups * ((parts[0].width > 0 ? 1 : 0) + (parts[1].width > 0 ? 1 : 0));
    }
};

// Quantised rows. `integers` holds a row's segments one after the other, each padded to
// `kSegmentStep` columns; those of 4 bits in the order of nibble_place.
struct Activations {
    std::uint8_t* integers;  // (rows, row_bytes)
    float* scales;           // (rows, segments)
    std::int32_t* zeros;     // (rows, segments)
    std::size_t row_bytes;
};

// Columns that share a dword of packed 4-bit weights. Segments are padded to a multiple of it.
constexpr std::int64_t kSegmentStep = 8;

// The place of column k of a 4-bit segment. Of eight columns, the even ones come first: their
// weights are the low nibbles of four bytes.
constexpr std::int64_t nibble_place(std::int64_t k) { return k / 8 * 8 + k % 2 * 4 + k % 8 / 2; }

// The result, and what is added to it.
struct MatMulOutput {
    Floats y;              // (rows, outputs)
    ConstFloats residual;  // (rows, outputs), or null data
};

}  // namespace resq
