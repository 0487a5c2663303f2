// GatedHadamard: y = (silu(gate) * up) · blockdiag(low, high), the input of down_proj.
#pragma once

#include <cstdint>

namespace resq {

// One part of the columns, multiplied with kron(outer, inner): outerᵀ · X · inner, where X
// (outer_order, inner_order) are the part's columns. Absent where the orders are 0.
struct HadamardPart {
    std::int64_t outer_order = 0;
    std::int64_t inner_order = 0;
    const float* outer = nullptr;  // (outer_order, outer_order)
    const float* inner = nullptr;  // (inner_order, inner_order)

    std::int64_t width() const { return outer_order * inner_order; }
};

struct GatedHadamard {
    std::int64_t width = 0;  // columns of y; gate_up has twice as many, [gate | up]
    bool rotates = false;
    HadamardPart parts[2];  // low, high
};

}  // namespace resq
