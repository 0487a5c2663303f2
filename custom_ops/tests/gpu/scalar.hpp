// The scalar kernels for CPUs, a whole call at a time and in float32: what CUDA is compared with.
#pragma once

#include <vector>

#include "resq/kernels.hpp"

namespace resq::tests::gpu {

using Floats32 = std::vector<float>;

// y (rows, outputs). `residual` is empty if there is none.
Floats32 scalar_matmul(const MatMul& m, const Floats32& x, const Floats32& residual,
                       std::int64_t rows);

// y (rows, width).
Floats32 scalar_hadamard(const GatedHadamard& h, const Floats32& gate_up, std::int64_t rows);

// Writes queries and records of the new tokens.
void scalar_prepare(const Attention& a, const AttentionCall& call);

// Attends with the call's queries to its cache.
void scalar_attend(const Attention& a, const AttentionCall& call);

}  // namespace resq::tests::gpu
