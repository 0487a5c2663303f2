// From exact integer sums to the result: the one place where a matrix product rounds.
//
// Both ways to multiply end here, in the same steps and order, so what a row gets depends neither
// on how many rows there are nor on the instruction set.
#pragma once

#include "quantise.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

// Adds one segment to a part's float sum: f + s · Σ (q_a - z) q_w.
inline F add_segment(F f, I sums, float scale) { return fma(to_float(sums), broadcast(scale), f); }

template <typename T>
inline void write_outputs(const MatMul& m, const MatMulOutput& out, std::int64_t row,
                          std::int64_t output, std::int64_t count, const F parts[2]) {
    F y = zero();
    for (int p = 0; p < 2; ++p) {
        if (m.parts[p].width > 0) {
            y = fma(parts[p], load_first(m.parts[p].scales + output, count), y);
        }
    }
    if (m.bias != nullptr) {
        y = y + load_first(m.bias + output, count);
    }
    const std::int64_t place = row * m.outputs + output;
    if (out.residual.data != nullptr) {
        y = y + load_first(static_cast<const T*>(out.residual.data) + place, count);
    }
    store_first(static_cast<T*>(out.y.data) + place, y, count);
}

// Sixteen outputs of one row, or `count` if fewer are left, from the float sums of both parts.
inline void write_outputs(const MatMul& m, const MatMulOutput& out, std::int64_t row,
                          std::int64_t output, const F parts[2]) {
    const std::int64_t count = m.outputs - output < kLanes ? m.outputs - output : kLanes;
    if (out.y.type == Float::kSingle) {
        write_outputs<float>(m, out, row, output, count, parts);
    } else {
        write_outputs<std::uint16_t>(m, out, row, output, count, parts);
    }
}

}  // namespace resq::RESQ_ISA
