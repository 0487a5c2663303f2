// A MixedPrecisionMatMul node, on a CPU or a GPU: its ports, its constants and a call's tensors.
#pragma once

#include "operator.hpp"
#include "resq/matmul.hpp"

namespace resq::ort {

// The types of the weights depend on their bits, so they are checked when a node is created.
constexpr Port kMatMulInputs[] = {
    kActivation,                        // X
    optional(ElementType::kUndefined),  // W_low
    optional(ElementType::kFloat),      // S_low
    optional(ElementType::kInt8),       // W_high
    optional(ElementType::kFloat),      // S_high
    optional(ElementType::kFloat),      // bias
    kOptionalActivation,                // residual
};
constexpr Port kMatMulOutputs[] = {kActivation};

// The node's attributes and constants.
MatMul read_matmul(const NodeInfo& node);

// The tensors of a call, with y allocated.
struct MatMulTensors {
    Tensor x, residual, y;
    std::int64_t rows;

    MatMulTensors(const MatMul& matmul, const NodeContext& context);
    MatMulOutput output() const { return {{y.data, float_type(y)}, const_floats(residual)}; }
};

}  // namespace resq::ort
