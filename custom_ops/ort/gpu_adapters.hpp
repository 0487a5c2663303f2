// The operators in ONNX Runtime, on a GPU: shapes, memory and launches.
#pragma once

#include "attention_node.hpp"
#include "gpu_memory.hpp"
#include "hadamard_node.hpp"
#include "matmul_node.hpp"

namespace resq::ort {

class GpuMatMulKernel {
  public:
    static constexpr const char* kName = "MixedPrecisionMatMul";
    static constexpr const char* kProvider = kGpuProvider;
    static constexpr auto& kInputs = kMatMulInputs;
    static constexpr auto& kOutputs = kMatMulOutputs;

    explicit GpuMatMulKernel(const NodeInfo& node) : device_(node), matmul_(read_matmul(node)) {}
    void compute(const NodeContext& context) const;

  private:
    Device device_;
    MatMul matmul_;
};

class GpuHadamardKernel {
  public:
    static constexpr const char* kName = "GatedHadamard";
    static constexpr const char* kProvider = kGpuProvider;
    static constexpr auto& kInputs = kHadamardInputs;
    static constexpr auto& kOutputs = kHadamardOutputs;

    explicit GpuHadamardKernel(const NodeInfo& node);
    void compute(const NodeContext& context) const;

  private:
    Device device_;
    GatedHadamard hadamard_;
};

// Positions are in GPU memory, and checking them would mean waiting for the GPU. A token whose
// position is outside the tables is therefore not refused: its result is NaN.
class GpuAttentionKernel {
  public:
    static constexpr const char* kName = "MixedPrecisionAttention";
    static constexpr const char* kProvider = kGpuProvider;
    static constexpr auto& kInputs = kAttentionInputs;
    static constexpr auto& kOutputs = kAttentionOutputs;

    explicit GpuAttentionKernel(const NodeInfo& node);
    void compute(const NodeContext& context) const;

  private:
    Device device_;
    AttentionNode node_;
};

}  // namespace resq::ort
