// MixedPrecisionMatMul in ONNX Runtime, on the CPU.
#pragma once

#include "matmul_node.hpp"
#include "resq/kernels.hpp"

namespace resq::ort {

class CpuMatMulKernel {
  public:
    static constexpr const char* kName = "MixedPrecisionMatMul";
    static constexpr const char* kProvider = "CPUExecutionProvider";
    static constexpr auto& kInputs = kMatMulInputs;
    static constexpr auto& kOutputs = kMatMulOutputs;

    explicit CpuMatMulKernel(const NodeInfo& node);
    void compute(const NodeContext& context) const;

  private:
    const Kernels& kernels_;
    MatMul matmul_;
};

}  // namespace resq::ort
