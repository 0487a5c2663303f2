// From exact integer sums to results: the only place where a matrix product rounds.
//
// Panels and streams both end here, with the same steps in the same order, so a result depends
// neither on the number of rows nor on the instruction set.
#pragma once

#include "isa.hpp"
#include "resq/kernels.hpp"

namespace resq::RESQ_ISA {

template <int kCount>
inline void clear(F (&floats)[kCount]) {
    for (F& one : floats) {
        one = zero();
    }
}

// Adds one segment to a part's float sum: f + s · Σ (q_a - z) q_w.
inline F add_segment(F f, I sums, float scale) { return fma(to_float(sums), broadcast(scale), f); }

// Writes y for sixteen outputs, or `count` if fewer are left, of kRows consecutive rows, from the
// float sums of both parts.
template <typename T, int kRows>
inline void write_block(const MatMul& m, const MatMulOutput& out, std::int64_t row,
                        std::int64_t output, std::int64_t count, const F (&low)[kRows],
                        const F (&high)[kRows]) {
    const bool has_low = m.parts[0].width > 0, has_high = m.parts[1].width > 0;
    const F low_scale = has_low ? load_first(m.parts[0].scales + output, count) : zero();
    const F high_scale = has_high ? load_first(m.parts[1].scales + output, count) : zero();
    const F bias = m.bias != nullptr ? load_first(m.bias + output, count) : zero();
    T* y = static_cast<T*>(out.y.data) + row * m.outputs + output;
    const T* residual = static_cast<const T*>(out.residual.data);
    residual = residual != nullptr ? residual + row * m.outputs + output : nullptr;
    for (int r = 0; r < kRows; ++r) {
        F sum = has_low ? low[r] * low_scale : zero();
        sum = has_high ? fma(high[r], high_scale, sum) : sum;
        sum = m.bias != nullptr ? sum + bias : sum;
        sum = residual != nullptr ? sum + load_first(residual + r * m.outputs, count) : sum;
        store_first(y + r * m.outputs, sum, count);
    }
}

template <int kRows>
inline void write_block(const MatMul& m, const MatMulOutput& out, std::int64_t row,
                        std::int64_t output, const F (&low)[kRows], const F (&high)[kRows]) {
    const std::int64_t count = m.outputs - output < kLanes ? m.outputs - output : kLanes;
    if (out.y.type == Float::kSingle) {
        write_block<float>(m, out, row, output, count, low, high);
    } else {
        write_block<std::uint16_t>(m, out, row, output, count, low, high);
    }
}

}  // namespace resq::RESQ_ISA
