// GatedHadamard in ONNX Runtime, on the CPU.
#pragma once

#include "hadamard_node.hpp"
#include "resq/kernels.hpp"

namespace resq::ort {

class CpuHadamardKernel {
  public:
    static constexpr const char* kName = "GatedHadamard";
    static constexpr const char* kProvider = "CPUExecutionProvider";
    static constexpr auto& kInputs = kHadamardInputs;
    static constexpr auto& kOutputs = kHadamardOutputs;

    explicit CpuHadamardKernel(const NodeInfo& node);
    void compute(const NodeContext& context) const;

  private:
    const Kernels& kernels_;
    GatedHadamard hadamard_;
};

}  // namespace resq::ort
