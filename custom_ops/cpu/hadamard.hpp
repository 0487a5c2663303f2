// GatedHadamard: a few tokens at a time go through both factors of a part.
//
//   X (tokens, m, n)  ─ · inner ─►  (m, tokens, n)  ─ outerᵀ · ─►  (m, tokens, n)  ─►  y
//
// Sylvester's matrix of order n is kron(H, H₁₆). Blocks of 16 are multiplied with its corner, which
// is H₁₆. What remains are log2(n / 16) sums and differences of vectors for each.
#pragma once

#include <cstring>

#include "functions.hpp"
#include "gemm.hpp"
#include "isa.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

// Tokens side by side make the rows of the outer product long enough for whole tiles.
constexpr std::int64_t kTokensAtOnce = 4;

inline std::size_t hadamard_scratch_bytes(const GatedHadamard& h) {
    return static_cast<std::size_t>(3 * kTokensAtOnce * h.width) * sizeof(float) + kSlack;
}

template <typename T>
inline void gate(Activation activation, const T* gate_up, std::int64_t width, float* hidden) {
    for (std::int64_t k = 0; k < width; k += kLanes) {
        const std::int64_t left = width - k;
        const F x = load_first(gate_up + k, left), up = load_first(gate_up + width + k, left);
        store_first(hidden + k, (activation == Activation::kSilu ? silu(x) : gelu_tanh(x)) * up,
                    left);
    }
}

// x · inner for one row of n, where inner is a multiple of Sylvester's matrix.
inline void transform_row(const float* x, const float* inner, std::int64_t n, float* out) {
    gemm({x, kLanes, 1}, {inner, n}, {out, kLanes}, n / kLanes, kLanes, kLanes);
    for (std::int64_t half = kLanes; half < n; half *= 2) {
        for (std::int64_t begin = 0; begin < n; begin += 2 * half) {
            for (std::int64_t k = begin; k < begin + half; k += kLanes) {
                const F first = load(out + k), second = load(out + k + half);
                store(out + k, first + second);
                store(out + k + half, first - second);
            }
        }
    }
}

// Rotates one part of `tokens` rows, which are `width` apart, in place.
inline void rotate_part(const HadamardPart& part, float* hidden, std::int64_t width,
                        std::int64_t tokens, float* between, float* rotated) {
    const std::int64_t m = part.outer_order, n = part.inner_order, all = tokens * n;
    for (std::int64_t t = 0; t < tokens; ++t) {
        const float* x = hidden + t * width;
        if (!part.has_fast_inner) {
            gemm({x, n, 1}, {part.inner, n}, {between + t * n, all}, m, n, n);
            continue;
        }
        for (std::int64_t i = 0; i < m; ++i) {
            transform_row(x + i * n, part.inner, n, between + i * all + t * n);
        }
    }
    gemm({part.outer, 1, m}, {between, all}, {rotated, all}, m, m, all);
    for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t i = 0; i < m; ++i) {
            std::memcpy(hidden + t * width + i * n, rotated + i * all + t * n,
                        static_cast<std::size_t>(n) * sizeof(float));
        }
    }
}

template <typename T>
inline void gated_hadamard_range(const GatedHadamard& h, const T* gate_up, T* y, std::int64_t first,
                                 std::int64_t last, float* scratch) {
    float* between = scratch + kTokensAtOnce * h.width;
    float* rotated = between + kTokensAtOnce * h.width;
    for (std::int64_t begin = first; begin < last; begin += kTokensAtOnce) {
        const std::int64_t left = last - begin;
        const std::int64_t tokens = left < kTokensAtOnce ? left : kTokensAtOnce;
        for (std::int64_t t = 0; t < tokens; ++t) {
            gate(h.activation, gate_up + (begin + t) * 2 * h.width, h.width, scratch + t * h.width);
        }
        float* columns = scratch;
        for (const HadamardPart& part : h.parts) {
            if (h.rotates && part.width() > 0) {
                rotate_part(part, columns, h.width, tokens, between, rotated);
                columns += part.width();
            }
        }
        for (std::int64_t t = 0; t < tokens; ++t) {
            for (std::int64_t k = 0; k < h.width; k += kLanes) {
                store_first(y + (begin + t) * h.width + k,
                            load_first(scratch + t * h.width + k, h.width - k), h.width - k);
            }
        }
    }
}

inline void gated_hadamard(const GatedHadamard& h, ConstFloats gate_up, Floats y,
                           std::int64_t first, std::int64_t last, void* scratch) {
    auto* work = static_cast<float*>(scratch);
    if (gate_up.type == Float::kSingle) {
        gated_hadamard_range(h, static_cast<const float*>(gate_up.data),
                             static_cast<float*>(y.data), first, last, work);
    } else {
        gated_hadamard_range(h, static_cast<const std::uint16_t*>(gate_up.data),
                             static_cast<std::uint16_t*>(y.data), first, last, work);
    }
}

}  // namespace resq::RESQ_ISA
