// GatedHadamard: y = (act(gate) * up) · blockdiag(low, high), the input of down_proj.
#pragma once

#include <cstdint>

namespace resq {

// One part of the columns, multiplied with kron(outer, inner): outerᵀ · X · inner, where X
// (outer_order, inner_order) holds the part's columns. If the orders are 0, the part is absent.
struct HadamardPart {
    std::int64_t outer_order = 0;
    std::int64_t inner_order = 0;
    const float* outer = nullptr;  // (outer_order, outer_order)
    const float* inner = nullptr;  // (inner_order, inner_order)
    bool has_fast_inner = false;   // `is_sylvester(inner)`: a fast transform replaces the product

    constexpr std::int64_t width() const { return outer_order * inner_order; }
};

// Whether a matrix is a multiple of Sylvester's Hadamard matrix, of an order 2^p that is worth a
// fast transform: the sign of element (i, j) is the parity of i & j.
inline bool is_sylvester(const float* matrix, std::int64_t order) {
    if (order < 32 || (order & (order - 1)) != 0) {
        return false;
    }
    for (std::int64_t i = 0; i < order; ++i) {
        for (std::int64_t j = 0; j < order; ++j) {
            std::int64_t parity = i & j;
            for (int half = 32; half > 0; half /= 2) {
                parity ^= parity >> half;
            }
            if (matrix[i * order + j] != ((parity & 1) != 0 ? -matrix[0] : matrix[0])) {
                return false;
            }
        }
    }
    return true;
}

enum class Activation { kSilu, kGeluTanh };

struct GatedHadamard {
    std::int64_t width = 0;  // columns of y; gate_up has twice as many, [gate | up]
    Activation activation = Activation::kSilu;
    bool rotates = false;
    HadamardPart parts[2];  // low, high
};

}  // namespace resq
