// MixedPrecisionAttention in ONNX Runtime, on the CPU.
#pragma once

#include "attention_node.hpp"
#include "resq/kernels.hpp"

namespace resq::ort {

class CpuAttentionKernel {
  public:
    static constexpr const char* kName = "MixedPrecisionAttention";
    static constexpr const char* kProvider = "CPUExecutionProvider";
    static constexpr auto& kInputs = kAttentionInputs;
    static constexpr auto& kOutputs = kAttentionOutputs;

    explicit CpuAttentionKernel(const NodeInfo& node);
    void compute(const NodeContext& context) const;

  private:
    const Kernels& kernels_;
    AttentionNode node_;
};

}  // namespace resq::ort
