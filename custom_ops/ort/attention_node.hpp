// A MixedPrecisionAttention node, on a CPU or a GPU: its ports, its constants and a call's tensors.
#pragma once

#include "operator.hpp"
#include "resq/attention.hpp"

namespace resq::ort {

constexpr Port kAttentionInputs[] = {
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
    optional(ElementType::kInt64),  // cached
    optional(ElementType::kInt64),  // cache_rows
};
constexpr Port kAttentionOutputs[] = {
    kActivation,                    // Y
    required(ElementType::kUint8),  // present_key
    required(ElementType::kUint8),  // present_value
};

// The node's attributes and constants.
struct AttentionNode {
    Attention attention;  // head_dim and record are set by a call's QKV
    std::int64_t high_rank;
    int low_bits;
    std::int64_t fixed_dim;  // head_dim of the constants; -1 if none has it
    bool has_rows;           // whether cached and cache_rows are given

    explicit AttentionNode(const NodeInfo& node);
};

// The tensors of a call, with allocated outputs. `call.keys` and `call.values` are the present
// caches; the past ones still have to be copied into them, unless they share memory.
struct AttentionTensors {
    Attention attention;
    AttentionCall call{};
    Tensor past_key, past_value;

    AttentionTensors(const AttentionNode& node, const NodeContext& context);

  private:
    void read_qkv(const AttentionNode& node, const NodeContext& context);
    void read_mask(const NodeContext& context);
    void read_rows(const NodeContext& context);
    void read_past(const AttentionNode& node, const NodeContext& context);
    void read_positions(const NodeContext& context);
    void allocate(const NodeContext& context);
};

}  // namespace resq::ort
