// GatedHadamard's node, whatever executes it: its ports, its constants and a call's tensors.
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

// What the node's attributes and constants say, apart from what the factors' elements are: their
// memory may be a GPU's.
GatedHadamard read_hadamard(const NodeInfo& node);

// The tensors of a call; y has been allocated.
struct HadamardTensors {
    GatedHadamard hadamard;  // whose width a call may tell
    Tensor gate_up, y;
    std::int64_t rows;

    HadamardTensors(const GatedHadamard& node, const NodeContext& context);
    Floats output() const { return {y.data, float_type(y)}; }
};

}  // namespace resq::ort
