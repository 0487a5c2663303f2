// The segments of a matrix product (resq/matmul.hpp), and steps that its kernels share.
#pragma once

#include "device.cuh"

namespace resq::cuda {

// Bytes of a quantised row that one instruction multiplies. Every segment is a multiple of this.
constexpr int kStepBytes = 32;

// A segment: the columns of one part and one group, with one scale and zero point per row. A row
// has at most 65536 columns (ort/matmul_node.cpp), so 32 bits suffice.
struct Segment {
    int part = 0;  // 0 low, 1 high
    int group = 0;
    int offset = 0;  // bytes of a quantised row before it
    int bytes = 0;   // of its own
};

__host__ __device__ inline int segment_bytes(const Part& part, const Plan& plan) {
    const bool packs = part.bits == 4 && plan.nibbles;
    const int columns = packs ? 2 * kStepBytes : kStepBytes;
    return (static_cast<int>(part.width) + columns - 1) / columns * kStepBytes;
}

__device__ __forceinline__ Segment first_segment(const MatMul& m, const Plan& plan) {
    const int part = m.parts[0].width > 0 ? 0 : 1;
    return {part, 0, 0, segment_bytes(m.parts[part], plan)};
}

__device__ __forceinline__ void advance(Segment& segment, const MatMul& m, const Plan& plan) {
    segment.offset += segment.bytes;
    if (++segment.group == m.groups) {
        segment.group = 0;
        segment.part = 1;
        segment.bytes = segment_bytes(m.parts[1], plan);
    }
}

// Sixteen bytes of a segment's weights from column `column` on, for one output; zeros after its
// end. kAlignment is that of every segment: 16, 4, or 1, where a 4-bit row may even begin within a
// byte.
template <int kAlignment>
__device__ __forceinline__ uint4 load_weights(const MatMul& m, const Segment& segment,
                                              std::int64_t output, std::int64_t column) {
    const Part& part = m.parts[segment.part];
    uint4 words = {0, 0, 0, 0};
    if (output >= m.outputs || column >= part.width) {
        return words;
    }
    const std::int64_t element = (output * m.groups + segment.group) * part.width + column;
    const std::int64_t left = part.width - column;
    if constexpr (kAlignment == 16) {
        return load_once(part.weights + element * part.bits / 8);
    } else if constexpr (kAlignment == 4) {
        const auto* from =
            reinterpret_cast<const unsigned*>(part.weights + element * part.bits / 8);
        const int per_word = 32 / part.bits;
        words.x = from[0];
        words.y = left > per_word ? from[1] : 0;
        words.z = left > 2 * per_word ? from[2] : 0;
        words.w = left > 3 * per_word ? from[3] : 0;
        return words;
    } else {
        unsigned all[4] = {0, 0, 0, 0};
        const int columns = 128 / part.bits;
        for (int i = 0; i < columns && i < left; ++i) {
            unsigned value = 0;
            if (part.bits == 4) {
                const std::int64_t at = element + i;
                value = part.weights[at / 2] >> at % 2 * 4 & 15u;
            } else {
                value = part.weights[element + i];
            }
            all[i * part.bits / 32] |= value << i * part.bits % 32;
        }
        return {all[0], all[1], all[2], all[3]};
    }
}

// Eight signed 4-bit numbers in a word to bytes of sixteen times their value: those at even
// positions, and those at odd ones.
__device__ __forceinline__ unsigned even_nibbles(unsigned word) { return word << 4 & 0xF0F0F0F0u; }
__device__ __forceinline__ unsigned odd_nibbles(unsigned word) { return word & 0xF0F0F0F0u; }
constexpr int kNibbleShift = 4;  // their sums of products are 2^4 times too large

// Adds a segment to a result: f + s_a · s_w · Σ (q_a - z_a) q_w. This is the only place where a
// matrix product rounds, the same for many rows and for few.
__device__ __forceinline__ float add_segment(float f, int sum, float scale, float weight_scale) {
    return fmaf(static_cast<float>(sum) * scale, weight_scale, f);
}

// Σ q_a q_w minus the zero point's contribution z Σ q_w. Unsigned, because it may wrap around.
__device__ __forceinline__ int subtract_zero_point(int sum, int zero, int column_sum) {
    return static_cast<int>(static_cast<unsigned>(sum) -
                            static_cast<unsigned>(zero) * static_cast<unsigned>(column_sum));
}

__device__ __forceinline__ void write_output(const MatMul& m, const MatMulOutput& out,
                                             std::int64_t row, std::int64_t output, float sum) {
    const std::int64_t place = row * m.outputs + output;
    sum = m.bias != nullptr ? sum + m.bias[output] : sum;
    sum = out.residual.data != nullptr ? sum + load(out.residual, place) : sum;
    store(out.y, place, sum);
}

// The argument of the kernels.
struct Problem {
    MatMul matmul;
    Plan plan;
    std::int64_t rows;
    Activations x;
    MatMulOutput out;
};

void multiply_many(const Problem&, Queue&);
void multiply_few(const Problem&, Queue&);

}  // namespace resq::cuda
