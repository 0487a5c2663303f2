// GatedHadamard in ONNX Runtime.
#pragma once

#include "operator.hpp"
#include "resq/kernels.hpp"

namespace resq::ort {

class HadamardKernel {
  public:
    static constexpr const char* kName = "GatedHadamard";
    static constexpr Port kInputs[] = {
        kActivation,                    // gate_up
        optional(ElementType::kFloat),  // low_outer
        optional(ElementType::kFloat),  // low_inner
        optional(ElementType::kFloat),  // high_outer
        optional(ElementType::kFloat),  // high_inner
    };
    static constexpr Port kOutputs[] = {kActivation};

    explicit HadamardKernel(const NodeInfo& node);
    void compute(const NodeContext& context) const;

  private:
    const Kernels& kernels_;
    GatedHadamard hadamard_;
    std::int64_t high_rank_;
};

}  // namespace resq::ort
