// GatedHadamard in ONNX Runtime: reads the node, cuts the tokens for the session's threads.
#include "hadamard_op.hpp"

#include <algorithm>
#include <string>

#include "dispatch.hpp"
#include "scratch.hpp"

namespace resq::ort {
namespace {

constexpr std::size_t kGateUp = 0, kLow = 1, kHigh = 3;

// Tokens of one task: what the kernel takes at once, a few times.
constexpr std::int64_t kTokensOfTask = 8;

const float* read_factor(const NodeInfo& node, std::size_t index, const std::string& name,
                         std::int64_t* order) {
    const Tensor factor = node.constant(index, name.c_str());
    if (!factor) {
        return nullptr;
    }
    check_shape(name.c_str(), factor, {factor.rank > 0 ? factor.dims[0] : 0, -1});
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
    part.has_fast_inner = is_sylvester(part.inner, part.inner_order);
    return part;
}

}  // namespace

HadamardKernel::HadamardKernel(const NodeInfo& node) : kernels_(kernels()) {
    const std::string activation = node.text("activation", "silu");
    if (activation != "silu" && activation != "gelu_tanh") {
        refuse("activation", "'" + activation + "'", "'silu' or 'gelu_tanh'");
    }
    hadamard_.activation = activation == "silu" ? Activation::kSilu : Activation::kGeluTanh;
    high_rank_ = node.integer("high_rank", 0);
    hadamard_.parts[0] = read_part(node, kLow, "low");
    hadamard_.parts[1] = read_part(node, kHigh, "high");
    hadamard_.width = hadamard_.parts[0].width() + hadamard_.parts[1].width();
    hadamard_.rotates = hadamard_.width > 0;
    if (hadamard_.rotates && hadamard_.parts[1].width() != high_rank_) {
        refuse("the order of the high part", hadamard_.parts[1].width(),
               "high_rank " + std::to_string(high_rank_));
    }
}

void HadamardKernel::compute(const NodeContext& context) const {
    const Tensor gate_up = context.input(kGateUp);
    GatedHadamard call = hadamard_;
    const std::int64_t columns = gate_up.rank > 0 ? gate_up.dims[gate_up.rank - 1] : 0;
    if (hadamard_.rotates && columns != 2 * hadamard_.width) {
        refuse("shape of gate_up", gate_up.shape(),
               "(..., " + std::to_string(2 * hadamard_.width) + ") by the factors");
    }
    if (gate_up.rank == 0 || columns % 2 != 0) {
        refuse("shape of gate_up", gate_up.shape(), "an even number of columns");
    }
    call.width = columns / 2;
    Tensor y = gate_up;
    y.dims[y.rank - 1] = call.width;
    y.data = context.output(0, y.dims.data(), y.rank);
    const std::int64_t rows = columns == 0 ? 0 : gate_up.elements() / columns;
    const std::int64_t tasks = (rows + kTokensOfTask - 1) / kTokensOfTask;
    context.parallel_for(tasks, tasks, [&](std::int64_t task) {
        void* work = scratch(Use::kWork, kernels_.hadamard_scratch_bytes(call));
        kernels_.gated_hadamard(call, const_floats(gate_up), {y.data, float_type(y)},
                                task * kTokensOfTask, std::min(rows, (task + 1) * kTokensOfTask),
                                work);
    });
}

}  // namespace resq::ort
