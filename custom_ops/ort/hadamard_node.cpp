// Reads a GatedHadamard node and refuses an invalid one.
#include "hadamard_node.hpp"

#include <string>

namespace resq::ort {
namespace {

constexpr std::size_t kGateUp = 0, kLow = 1, kHigh = 3;

const float* read_factor(const NodeInfo& node, std::size_t index, const std::string& name,
                         std::int64_t* order) {
    const Tensor factor = node.constant(index, name.c_str());
    if (!factor) {
        return nullptr;
    }
    check_shape(name.c_str(), factor, {factor.dims[0], factor.dims[0]});
    *order = factor.dims[0];
    return static_cast<const float*>(factor.data);
}

HadamardPart read_part(const NodeInfo& node, std::size_t index, const std::string& name) {
    HadamardPart part;
    part.outer = read_factor(node, index, name + "_outer", &part.outer_order);
    part.inner = read_factor(node, index + 1, name + "_inner", &part.inner_order);
    if ((part.outer == nullptr) != (part.inner == nullptr)) {
        throw Refusal{"one of " + name + "_outer and " + name + "_inner is missing, expected both"};
    }
    return part;
}

}  // namespace

GatedHadamard read_hadamard(const NodeInfo& node) {
    GatedHadamard hadamard;
    const std::string activation = node.text("activation", "silu");
    if (activation != "silu" && activation != "gelu_tanh") {
        refuse("activation", "'" + activation + "'", "'silu' or 'gelu_tanh'");
    }
    hadamard.activation = activation == "silu" ? Activation::kSilu : Activation::kGeluTanh;
    const std::int64_t high_rank = node.integer("high_rank", 0);
    hadamard.parts[0] = read_part(node, kLow, "low");
    hadamard.parts[1] = read_part(node, kHigh, "high");
    hadamard.width = hadamard.parts[0].width() + hadamard.parts[1].width();
    hadamard.rotates = hadamard.width > 0;
    if (hadamard.rotates && hadamard.parts[1].width() != high_rank) {
        refuse("the order of the high part", hadamard.parts[1].width(),
               "high_rank " + std::to_string(high_rank));
    }
    return hadamard;
}

HadamardTensors::HadamardTensors(const GatedHadamard& node, const NodeContext& context)
    : hadamard(node), gate_up(context.input(kGateUp)), y(gate_up) {
    const std::int64_t columns = gate_up.rank > 0 ? gate_up.dims[gate_up.rank - 1] : 0;
    if (hadamard.rotates && columns != 2 * hadamard.width) {
        refuse("shape of gate_up", gate_up.shape(),
               "(..., " + std::to_string(2 * hadamard.width) + ") to match the factors");
    }
    if (gate_up.rank == 0 || columns % 2 != 0) {
        refuse("shape of gate_up", gate_up.shape(), "an even number of columns");
    }
    hadamard.width = columns / 2;
    y.dims[y.rank - 1] = hadamard.width;
    y.data = context.output(0, y.dims.data(), y.rank);
    rows = columns == 0 ? 0 : gate_up.elements() / columns;
}

}  // namespace resq::ort
