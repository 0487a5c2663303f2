// MixedPrecisionMatMul in ONNX Runtime.
#pragma once

#include "operator.hpp"
#include "resq/kernels.hpp"

namespace resq::ort {

class MatMulKernel {
  public:
    static constexpr const char* kName = "MixedPrecisionMatMul";
    // The types of the weights depend on their bits, so they are looked at when a node is created.
    static constexpr Port kInputs[] = {
        kActivation,                        // X
        optional(ElementType::kUndefined),  // W_low
        optional(ElementType::kFloat),      // S_low
        optional(ElementType::kInt8),       // W_high
        optional(ElementType::kFloat),      // S_high
        optional(ElementType::kFloat),      // bias
        kOptionalActivation,                // residual
    };
    static constexpr Port kOutputs[] = {kActivation};

    explicit MatMulKernel(const NodeInfo& node);
    void compute(const NodeContext& context) const;

  private:
    const Kernels& kernels_;
    MatMul matmul_;
};

}  // namespace resq::ort
