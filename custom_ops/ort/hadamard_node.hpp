// A GatedHadamard node, on a CPU or a GPU: its ports, its constants and a call's tensors.
#pragma once

#include "operator.hpp"
#include "resq/hadamard.hpp"

namespace resq::ort {

constexpr Port kHadamardInputs[] = {
    kActivation,                    // gate_up
    optional(ElementType::kFloat),  // low_outer
    optional(ElementType::kFloat),  // low_inner
    optional(ElementType::kFloat),  // high_outer
    optional(ElementType::kFloat),  // high_inner
};
constexpr Port kHadamardOutputs[] = {kActivation};

// The node's attributes and constants. The factors' elements are not read: they may be in GPU
// memory.
GatedHadamard read_hadamard(const NodeInfo& node);

// The tensors of a call, with y allocated.
struct HadamardTensors {
    GatedHadamard hadamard;  // without a rotation, the call sets its width
    Tensor gate_up, y;
    std::int64_t rows;

    HadamardTensors(const GatedHadamard& node, const NodeContext& context);
    Floats output() const { return {y.data, float_type(y)}; }
};

}  // namespace resq::ort
