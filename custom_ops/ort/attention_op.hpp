// MixedPrecisionAttention in ONNX Runtime.
#pragma once

#include "operator.hpp"
#include "resq/kernels.hpp"

namespace resq::ort {

class AttentionKernel {
  public:
    static constexpr const char* kName = "MixedPrecisionAttention";
    static constexpr Port kInputs[] = {
        kActivation,                    // QKV
        required(ElementType::kUint8),  // past_key
        required(ElementType::kUint8),  // past_value
        required(ElementType::kInt64),  // attention_mask
        optional(ElementType::kInt64),  // position_ids
        required(ElementType::kFloat),  // cos_cache
        required(ElementType::kFloat),  // sin_cache
        optional(ElementType::kFloat),  // key_projection
        optional(ElementType::kFloat),  // q_norm
        optional(ElementType::kFloat),  // k_norm
    };
    static constexpr Port kOutputs[] = {
        kActivation,                    // Y
        required(ElementType::kUint8),  // present_key
        required(ElementType::kUint8),  // present_value
    };

    explicit AttentionKernel(const NodeInfo& node);
    void compute(const NodeContext& context) const;

  private:
    const Kernels& kernels_;
    Attention attention_;  // head_dim and record follow from a call's QKV
    std::int64_t high_rank_;
    int low_bits_;
    std::int64_t fixed_dim_;  // head_dim by the constants; -1 where none says
};

}  // namespace resq::ort
